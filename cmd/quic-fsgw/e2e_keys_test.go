//go:build linux

package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
)

// Private keys are in the helper and nowhere else.

const rsaName = "rsa.test"

// rsaCertificate writes a self-signed certificate with an RSA key.
func rsaCertificate(t testing.TB) (cert, key string) {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: rsaName}, DNSNames: []string{rsaName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(t.TempDir(), "rsa.crt"), filepath.Join(t.TempDir(), "rsa.key")
	for name, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// secrets are the forms in which the private key of a file may lie in memory.
func secrets(t testing.TB, file string) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	body := strings.Split(string(text), "\n")
	out := map[string][]byte{"DER": block.Bytes, "PEM": []byte(body[2])}
	add := func(name string, n *big.Int, size int) {
		b := n.FillBytes(make([]byte, size))
		out[name] = b
		little := slices.Clone(b)
		slices.Reverse(little)
		out[name+", little endian"] = little // as words of a big.Int
	}
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		d, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		add("D", new(big.Int).SetBytes(d), len(d))
	case *rsa.PrivateKey:
		add("D", k.D, k.Size())
		for i, p := range k.Primes {
			add(fmt.Sprintf("prime %d", i), p, k.Size()/2)
		}
	}
	return out
}

// found searches the memory of a process and returns the names of what is in it.
func found(t testing.TB, pid int, needles map[string][]byte) []string {
	t.Helper()
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	var names []string
	var total int64
	buf := make([]byte, 4<<20)
	const overlap = 4 << 10 // longer than any needle
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to int64
		var mode string
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); n != 3 || mode[0] != 'r' || strings.HasSuffix(lines.Text(), "[vvar]") {
			continue
		}
		for at := from; at < to; at += int64(len(buf) - overlap) {
			n, _ := mem.ReadAt(buf[:min(int64(len(buf)), to-at)], at) // a page may have gone: what is left counts
			total += int64(n)
			for name, needle := range needles {
				if bytes.Contains(buf[:n], needle) && !slices.Contains(names, name) {
					names = append(names, name)
				}
			}
		}
	}
	if total < 1<<20 {
		t.Fatalf("only %d bytes of process %d could be read", total, pid)
	}
	slices.Sort(names)
	return names
}

// Neither the supervisor nor the packet process has a private key in memory,
// after handshakes with it and after a reload; the helper has. So it is with
// the two processes of a client command.
func TestKeysOnlyInHelper(t *testing.T) {
	rsaCert, rsaKey := rsaCertificate(t)
	s := newNFSStage(t, nfsSetup{
		exports: ganeshatest.Pseudo, names: []string{nfsName, rsaName},
		tlshd: fmt.Sprintf("    - names: [%s]\n      cert: %s\n      key: %s\n", rsaName, rsaCert, rsaKey),
	})
	connect := startService(t, s.as("alice", "connect", "--listen", fmt.Sprintf("127.0.0.1:%d", freeTCPPort(t)), fmt.Sprintf("nfs://%s:%d", nfsName, s.Port))...)
	connect.Log.wait(t, 0, "connect to listen", func(l logLine) bool { return strings.Contains(l.Raw, "carries to") })
	handshakes := func() {
		for range 3 {
			mustCLI(t, time.Minute, nil, s.as("alice", "ls", s.url(""))...)
			mustCLI(t, time.Minute, nil, s.as("alice", "ls", "--ca", rsaCert, "--server-name", rsaName, s.url(""))...)
		}
	}
	handshakes()
	mustCLI(t, time.Minute, nil, "reload", "-c", s.Config)
	handshakes()
	search := func(keyFile string, holder int, others map[string]int) {
		t.Helper()
		needles := secrets(t, keyFile)
		names := found(t, holder, needles)
		t.Logf("%s: the helper holds %q", filepath.Base(keyFile), names)
		if len(names) == 0 {
			t.Errorf("%s is not found in the helper: the search is worth nothing", keyFile)
		}
		for who, pid := range others {
			if names := found(t, pid, needles); len(names) > 0 {
				t.Errorf("%s (pid %d) holds %q of %s", who, pid, names, keyFile)
			}
		}
	}
	gateway := map[string]int{"supervisor": s.Pid, "packet process": s.Child(workerWord)}
	search(s.serverKey, s.Child(helperWord), gateway)
	search(rsaKey, s.Child(helperWord), gateway)
	client := s.trust["alice"]
	pid := connect.cmd.Process.Pid
	search(client[slices.Index(client, "--key")+1], childOf(t, pid, helperWord), map[string]int{"connect": pid})
}

// No thread of the packet process opens a key file, from its start over
// handshakes to a reload, and neither does the supervisor.
func TestNoKeyFileOpened(t *testing.T) {
	ganeshatest.Require(t, "strace")
	trace := filepath.Join(t.TempDir(), "trace")
	s := newNFSStage(t, nfsSetup{
		exports: ganeshatest.Pseudo,
		// One file a thread; the tracer is nobody's parent, so that all is as ever.
		wrap: []string{"strace", "-D", "-ff", "-s", "4096", "-e", "trace=open,openat,openat2,execve,clone,clone3,fork,vfork", "-o", trace},
	})
	key := s.serverKey
	mustCLI(t, time.Minute, nil, s.as("alice", "ls", s.url(""))...)
	mustCLI(t, time.Minute, nil, "reload", "-c", s.Config)
	mustCLI(t, time.Minute, nil, s.as("bob", "ls", s.url(""))...)
	pids := map[int]string{s.Pid: "supervisor", s.Child(workerWord): workerWord, s.Child(helperWord): helperWord}
	s.Stop()
	opens := map[string]int{}
	threads := map[string]int{}
	for tid, pid := range threadsOf(t, trace, pids) {
		b, err := os.ReadFile(fmt.Sprintf("%s.%d", trace, tid))
		if err != nil {
			t.Fatal(err)
		}
		threads[pids[pid]]++
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, "open") && strings.Contains(line, key) {
				opens[pids[pid]]++
				if pids[pid] != helperWord {
					t.Errorf("%s (thread %d): %s", pids[pid], tid, line)
				}
			}
		}
	}
	t.Logf("threads traced: %v; opens of %s: %v", threads, filepath.Base(key), opens)
	if opens[helperWord] == 0 {
		t.Error("the helper was not seen to open the key: the trace is worth nothing")
	}
	for _, who := range pids {
		if threads[who] < 2 {
			t.Errorf("%d threads of %s traced, want all of several", threads[who], who)
		}
	}
}

var cloned = regexp.MustCompile(`^clone3?\(.*CLONE_THREAD.* = (\d+)(?: |$)`)

// threadsOf tells to which of the processes each thread of a trace belongs.
func threadsOf(t testing.TB, trace string, pids map[int]string) map[int]int {
	t.Helper()
	out := map[int]int{}
	var walk func(tid, pid int)
	walk = func(tid, pid int) {
		out[tid] = pid
		b, err := os.ReadFile(fmt.Sprintf("%s.%d", trace, tid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if m := cloned.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
				if child, _ := strconv.Atoi(m[1]); out[child] == 0 {
					walk(child, pid)
				}
			}
		}
	}
	for pid := range pids {
		walk(pid, pid)
	}
	return out
}
