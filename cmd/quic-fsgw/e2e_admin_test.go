//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway"
	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
)

// httpGet asks the admin address.
func httpGet(t testing.TB, url string) (status int, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), e2eDeadline)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// What the admin address and the status command say while a gateway serves,
// and while it drains.
func TestAdminWhileServing(t *testing.T) {
	base := fmt.Sprintf("127.0.0.1:%d", freeTCPPort(t))
	s := newNFSStage(t, nfsSetup{exports: ganeshatest.Pseudo, admin: fmt.Sprintf(", http: %q", base)})
	base = "http://" + base
	file := filepath.Join(t.TempDir(), "f")
	const size = 8 << 20
	randomBytesFile(t, file, size)
	mustCLI(t, time.Minute, nil, s.as("alice", "cp", file, s.url("/f"))...)
	alice := s.idleClient(t, "alice")
	for _, path := range []string{"/healthz", "/readyz"} {
		if code, body := httpGet(t, base+path); code != 200 || body != "ok\n" {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
	_, metrics := httpGet(t, base+"/metrics")
	for _, want := range []string{
		`quicfsgw_connections{route="home"} 1`,
		`quicfsgw_connections_total{route="home",result="admitted"} 2`,
		`quicfsgw_handshakes_total{outcome="done"} 2`,
		`quicfsgw_access_verdicts_total{rule="staff",reason="allowed"} 2`,
		`quicfsgw_sessions_ended_total{route="home",reason="client_closed"} 1`,
		`quicfsgw_helper_requests_total{outcome="done"} 2`,
		`quicfsgw_helper_restarts_total 0`,
	} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("/metrics has no line %s", want)
		}
	}
	end := parseCert(t, strings.TrimSuffix(s.serverKey, ".key")+".crt").NotAfter.Unix()
	if line := regexp.MustCompile(`quicfsgw_expiry_timestamp_seconds\{[^}]*kind="certificate"[^}]*\} (\S+)`).FindStringSubmatch(metrics); line == nil {
		t.Error("/metrics does not say when the certificate ends")
	} else if at, err := strconv.ParseFloat(line[1], 64); err != nil || int64(at) != end {
		t.Errorf("the certificate ends at %s, want %d", line[1], end)
	}
	var in float64
	if line := regexp.MustCompile(`quicfsgw_bytes_total\{route="home",direction="in"\} (\S+)`).FindStringSubmatch(metrics); line == nil {
		t.Error("/metrics has no bytes by route")
	} else if _, err := fmt.Sscan(line[1], &in); err != nil || in < size {
		t.Errorf("%s bytes are counted, want at least %d", line[1], size)
	}
	if t.Failed() {
		t.Log(metrics)
	}
	code, body := httpGet(t, base+"/status")
	var st gateway.Status
	if err := json.Unmarshal([]byte(body), &st); code != 200 || err != nil {
		t.Fatalf("/status: %d %v", code, err)
	}
	if len(st.Connections) != 1 || len(st.Routes) != 1 || st.Routes[0].Sessions != 1 || st.Routes[0].NFS.Calls == 0 {
		t.Errorf("/status: %s", body)
	}
	if r := mustCLI(t, time.Minute, nil, "status", "-c", s.Config); !strings.Contains(r.Out, "serving") || !strings.Contains(r.Out, "alice") {
		t.Errorf("status: %q", r.Out)
	}
	nullCall(t, alice)
	mustCLI(t, time.Minute, nil, "drain", "-c", s.Config)
	if code, body := httpGet(t, base+"/readyz"); code != 503 || !strings.Contains(body, "draining") {
		t.Errorf("/readyz while draining: %d %q", code, body)
	}
	if code, _ := httpGet(t, base+"/healthz"); code != 200 {
		t.Errorf("/healthz while draining: %d", code)
	}
}

// Exit statuses, and the form of errors: quic-fsgw: what: why (hint).
func TestExitStatus(t *testing.T) {
	s := newNFSStage(t, nfsSetup{exports: ganeshatest.Pseudo})
	other := newAuthority(t)
	cert, key := other.client("mallory")
	nobody := fmt.Sprintf("nfs://%s:%d/export", nfsName, freeUDPPort(t))
	missing := filepath.Join(t.TempDir(), "missing")
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("routes:\n  - nme: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		what string
		code int
		want string // in the error
		args []string
	}{
		{"ls", exitOK, "", s.as("alice", "ls", s.url(""))},
		{"no such file", exitFailed, "quic-fsgw: cat: ", s.as("alice", "cat", s.url("/none"))},
		{"no such local file", exitFailed, "quic-fsgw: cp: ", s.as("alice", "cp", missing, s.url("/x"))},
		{"no such export", exitFailed, "quic-fsgw: ls: ", s.as("alice", "ls", fmt.Sprintf("nfs://%s:%d/none", nfsName, s.Port))},
		{"no URL", exitUsage, "quic-fsgw: ls: ", []string{"ls"}},
		{"a local path", exitUsage, "write smb://", []string{"ls", "/tmp"}},
		{"a scheme that is none", exitUsage, "neither smb nor nfs", []string{"ls", "http://localhost/x"}},
		{"half a pair", exitUsage, "belong together", []string{"ls", "--cert", cert, s.url("")}},
		{"no such certificate", exitUsage, missing, []string{"ls", "--ca", s.Authority.CA, "--cert", missing, "--key", missing, s.url("")}},
		{"a key of another certificate", exitUsage, "does not belong", []string{"ls", "--ca", s.Authority.CA, "--cert", cert, "--key", s.serverKey, s.url("")}},
		{"no such CA", exitUsage, missing, []string{"ls", "--ca", missing, s.url("")}},
		{"unknown flag", exitUsage, "--help", []string{"cp", "--frobnicate", "a", "b"}},
		{"bad config", exitUsage, bad + ":2:5: ", []string{"serve", "-c", bad}},
		{"no config", exitUsage, "no such file", []string{"serve", "-c", missing}},
		{"nobody there", exitRemote, "quic-fsgw: ls: ", s.as("alice", "ls", nobody)},
		{"no such host", exitRemote, "quic-fsgw: ls: ", s.as("alice", "ls", "nfs://nowhere.invalid/export")},
		{"wrong CA", exitRemote, "quic-fsgw: ls: ", s.as("alice", "ls", "--ca", other.CA, s.url(""))},
		{"wrong name", exitRemote, "quic-fsgw: ls: ", s.as("alice", "ls", "--server-name", "elsewhere.test", s.url(""))},
		{"no client certificate", exitRemote, "quic-fsgw: ls: ", []string{"ls", "--ca", s.Authority.CA, s.url("")}},
		{"a stranger's certificate", exitRemote, "quic-fsgw: ls: ", []string{"ls", "--ca", s.Authority.CA, "--cert", cert, "--key", key, s.url("")}},
		{"no gateway runs", exitRemote, "is the gateway running?", []string{"status", "--socket", missing}},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			r := cli(t, 40*time.Second, nil, tt.args...)
			if r.Code != tt.code || !strings.Contains(r.Err, tt.want) {
				t.Errorf("exit %d, want %d; %q, want %q in it", r.Code, tt.code, r.Err, tt.want)
			}
			for line := range strings.Lines(r.Err) {
				if !strings.HasPrefix(line, "quic-fsgw: ") || strings.HasSuffix(line, ".\n") {
					t.Errorf("not of the form of an error: %q", line)
				}
			}
			if (tt.code == exitOK) != (r.Err == "") {
				t.Errorf("exit %d with %q on stderr", r.Code, r.Err)
			}
			t.Logf("%.1f s: %s", r.Took.Seconds(), r.Err)
		})
	}
}
