package pki

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/tlshd"
)

// A PFX of ours is read by OpenSSL and by the handshake helper, with its
// password and with no other.
func TestPFX(t *testing.T) {
	now := time.Now()
	ca, _, err := NewCA(now, "test CA", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(now, Request{Name: "files.test", Server: true, DNS: []string{"files.test"}, Life: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, password := range []string{"Pa55wörd", strings.Repeat("long", 50)} {
		b, err := pair.PFX(ca, password)
		if err != nil {
			t.Fatal(err)
		}
		file, secret := filepath.Join(dir, "x.pfx"), filepath.Join(dir, "x.password")
		for name, data := range map[string][]byte{file: b, secret: []byte(password + "\n")} {
			if err := os.WriteFile(name, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		load := func() error {
			s, err := tlshd.NewServer(tlshd.Config{Certificates: []tlshd.Certificate{{PFX: file, PFXPassword: secret}}}, nil)
			if err == nil {
				err = s.Close()
			}
			return err
		}
		if err := load(); err != nil {
			t.Errorf("the helper: %v", err)
		}
		out, err := exec.Command("openssl", "pkcs12", "-in", file, "-passin", "file:"+secret, "-nodes").CombinedOutput()
		if err != nil {
			t.Errorf("openssl: %v\n%s", err, out)
		}
		if strings.Count(string(out), "BEGIN CERTIFICATE") != 2 || !strings.Contains(string(out), "PRIVATE KEY") || !strings.Contains(string(out), "localKeyID") {
			t.Errorf("openssl reads\n%s", out)
		}
		if err := os.WriteFile(secret, []byte("another\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := load(); err == nil {
			t.Error("taken with a wrong password")
		}
	}
	if _, err := pair.PFX(ca, "a\x00b"); err == nil {
		t.Error("a password with a zero")
	}
	if _, err := (&Pair{}).PFX(ca, "x"); err == nil {
		t.Error("a PFX of nothing")
	}
}
