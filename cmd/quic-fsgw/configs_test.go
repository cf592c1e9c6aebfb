package main

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/pki"
)

// Every example passes check: as it is without its files, and with files that
// this test makes where the example wants them.
func TestExampleConfigurations(t *testing.T) {
	examples, err := filepath.Glob("../../configs/*.yaml")
	if err != nil || len(examples) < 5 {
		t.Fatalf("examples: %q, %v", examples, err)
	}
	dir := t.TempDir()
	makeExampleFiles(t, dir)
	for _, name := range examples {
		if code, _, errOut := do(t, "check", "-c", name, "--no-files"); code != 0 || errOut != "" {
			t.Errorf("%s --no-files: exit %d: %s", name, code, errOut)
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		moved := filepath.Join(dir, filepath.Base(name))
		if err := os.WriteFile(moved, []byte(strings.ReplaceAll(string(text), "/etc/quic-fsgw/", "")), 0o600); err != nil {
			t.Fatal(err)
		}
		if code, _, errOut := do(t, "check", "-c", moved); code != 0 || errOut != "" {
			t.Errorf("%s: exit %d: %s", name, code, errOut)
		}
	}
}

func makeExampleFiles(t *testing.T, dir string) {
	t.Helper()
	now, life := time.Now(), 365*24*time.Hour
	ca, pair, err := pki.NewCA(now, "Device CA", life)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) {
		t.Helper()
		if err := pki.WriteNew(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"ca.pem", "clients.pem", "partners.pem"} {
		write(name, pair.Cert)
	}
	write("identities", []byte("{san: 'email:alice@example.com', uid: 1001, gid: 1001}\n"))
	for base, r := range map[string]pki.Request{
		"files":   {Name: "files", Server: true, DNS: []string{"files.example.com", "projects.example.com", "partners.example.com"}, Life: life},
		"home":    {Name: "home", Server: true, DNS: []string{"home.example.com"}, Life: life},
		"laptop7": {Name: "laptop7", Client: true, DNS: []string{"laptop7.corp.example.com"}, Life: life},
	} {
		p, err := ca.Issue(now, r)
		if err != nil {
			t.Fatal(err)
		}
		write(base+".crt", p.Cert)
		write(base+".key", p.Key)
	}
	block, _ := pem.Decode(pair.Key)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now, NextUpdate: now.Add(life)}
	crl, err := x509.CreateRevocationList(rand.Reader, list, ca.Cert, key.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	write("clients.crl", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: crl}))
}
