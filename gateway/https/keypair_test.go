package https

import (
	"os"
	"testing"
	"time"
)

// A renewed pair is shown without a restart, in whatever way its files are
// exchanged; half of one is not.
func TestKeyPairIsReadAgain(t *testing.T) {
	cert, key, _, _ := issue(t, "kdc.test")
	p, err := newKeyPair(cert, key, quiet)
	if err != nil {
		t.Fatal(err)
	}
	serial := func() string { return p.get().Leaf.SerialNumber.String() }
	first := serial()
	newCert, newKey, _, _ := issue(t, "kdc.test")
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	move(newCert, cert)
	for range 2 {
		if got := serial(); got != first {
			t.Error("a certificate is shown whose key is not there")
		}
	}
	move(newKey, key)
	second := serial()
	if second == first {
		t.Error("the renewed pair is not shown")
	}

	// Written over, the file stays the same.
	newCert, newKey, _, _ = issue(t, "kdc.test")
	for from, to := range map[string]string{newCert: cert, newKey: key} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(to, time.Time{}, time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	third := serial()
	if third == second {
		t.Error("a pair that was written over is not shown")
	}
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != third {
		t.Error("nothing is shown when a file goes")
	}
	if _, err := newKeyPair(cert, key, quiet); err == nil {
		t.Error("begun without a key")
	}
}
