package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	smb2 "github.com/hirochachacha/go-smb2"

	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// A second SMB client that is neither Samba's nor the library of our own
// commands, over TCP through `connect`: what it writes and reads is what smbd has.
func TestSMBOtherClient(t *testing.T) {
	site := startSMB(t, sambatest.Options{}, "")
	port := startConnect(t, fmt.Sprintf("smb://127.0.0.1:%d", site.Port), "--ca", site.Authority.CA, "--server-name", sambatest.Host)
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), e2eDeadline)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	d := &smb2.Dialer{Initiator: &smb2.NTLMInitiator{User: sambatest.User, Password: sambatest.Password}}
	session, err := d.DialContext(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	share, err := session.Mount(sambatest.Share)
	if err != nil {
		t.Fatal(err)
	}
	down := randomBytesFile(t, site.path("down"), 16<<20)
	h := sha256.New()
	in, err := share.Open("down")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(h, in); err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != down {
		t.Errorf("read %s, want %s", got, down)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	local, err := os.Open(site.path("down"))
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	out, err := share.Create("up")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, local); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	if err := share.Rename("up", "moved"); err != nil {
		t.Error(err)
	}
	sameHash(t, down, site.path("moved"))
	if err := share.Remove("moved"); err != nil {
		t.Error(err)
	}
	if err := share.Umount(); err != nil {
		t.Error(err)
	}
	if err := session.Logoff(); err != nil {
		t.Error(err)
	}
}
