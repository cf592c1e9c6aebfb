//go:build linux

package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// probe is a plugin for monitoring: one line, and the plugins' statuses.
func TestProbe(t *testing.T) {
	s := newNFSStage(t, nfsSetup{exports: ganeshatest.Pseudo})
	smbd := answeringBackend(t)
	g := startGateway(t, gatewaySetup{Names: []string{sambatest.Host}, Rest: quietSMB(smbd.Addr)})
	smbURL := fmt.Sprintf("smb://127.0.0.1:%d", g.Port)
	smbTrust := []string{"--ca", g.Authority.CA, "--server-name", sambatest.Host}
	here := fmt.Sprintf("nfs://%s:%d", nfsName, s.Port)
	line := regexp.MustCompile(`^(OK|WARNING|CRITICAL|UNKNOWN) - [^|\n]+( \|( [a-z]+=[0-9.]+s)+)?\n$`)
	for _, tt := range []struct {
		name string
		args []string
		code int
		want []string // in the line
	}{
		{"nfs", append(s.trust["alice"], here), 0, []string{"OK - nfs://", "NFS 3 answers", "certificate good for", "handshake=", "answer=", "certificate="}},
		{"nfs export", append(s.trust["alice"], s.url("")), 0, []string{"logon="}},
		{"nfs export that is none", append(s.trust["alice"], here+"/nowhere"), 2, []string{"CRITICAL - ", "/nowhere", "handshake="}},
		{"certificate ends within the warning", append(s.trust["alice"], "--warn-days", "100000", here), 1, []string{"WARNING - "}},
		{"certificate ends within the critical", append(s.trust["alice"], "--critical-days", "100000", here), 2, []string{"CRITICAL - ", "answers"}},
		{"server not verified", append([]string{"--insecure-skip-verify"}, append(s.trust["alice"][2:], here)...), 1, []string{"certificate not verified"}},
		{"no client certificate", []string{"--ca", s.Authority.CA, here}, 2, []string{"--cert and --key"}},
		{"another CA", append([]string{"--ca", g.Authority.CA}, append(s.trust["alice"][2:], here)...), 2, []string{"CA"}},
		{"nobody there", append(s.trust["alice"], "--timeout", "1s", fmt.Sprintf("nfs://127.0.0.1:%d", freeUDPPort(t))), 2, []string{"within 1s"}},
		{"smb", append(smbTrust, smbURL), 0, []string{"SMB 3.0.2 answers", "answer="}},
		{"smb under another name", []string{"--ca", g.Authority.CA, "--server-name", "nobody.test", smbURL}, 2, []string{"other names"}},
		{"no URL", nil, 3, []string{"UNKNOWN - "}},
		{"no such scheme", []string{"http://x"}, 3, []string{"UNKNOWN - "}},
		{"no such flag", []string{"--x"}, 3, []string{"UNKNOWN - "}},
		{"no such file", []string{"--ca", "/nonexistent", here}, 3, []string{"UNKNOWN - ", "/nonexistent"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := cli(t, time.Minute, nil, append([]string{"probe"}, tt.args...)...)
			if r.Code != tt.code || !line.MatchString(r.Out) {
				t.Errorf("exit %d, want %d: %q %q", r.Code, tt.code, r.Out, r.Err)
			}
			for _, w := range tt.want {
				if !strings.Contains(r.Out, w) {
					t.Errorf("no %q in %q", w, r.Out)
				}
			}
		})
	}
	if r := mustCLI(t, time.Minute, nil, "probe", "--help"); !strings.Contains(r.Out, "--warn-days") {
		t.Errorf("help: %q", r.Out)
	}
}
