//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/client"
	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
	"github.com/quic-fsgw/quic-fsgw/quic"
)

// clientTLS is what a client of the stage would hand to crypto/tls.
func (s *nfsStage) clientTLS(t testing.TB, who string) *tls.Config {
	t.Helper()
	flags := s.trust[who]
	value := func(name string) string { return flags[slices.Index(flags, name)+1] }
	cert, err := tls.LoadX509KeyPair(value("--cert"), value("--key"))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(value("--ca"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}}
}

// serverSerial connects and returns the serial number of the server's certificate.
func (s *nfsStage) serverSerial(t testing.TB, who string) string {
	t.Helper()
	d := &client.Dialer{Handshaker: quic.TLS(s.clientTLS(t, who))}
	defer d.Close()
	ctx, cancel := context.WithTimeout(t.Context(), e2eDeadline)
	defer cancel()
	c, err := d.DialConn(ctx, "sunrpc", nfsName, uint16(s.Port))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(c.TLS().Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf.SerialNumber.String()
}

// edit replaces text in the configuration file.
func (s *nfsStage) edit(t testing.TB, old, new string) {
	t.Helper()
	b, err := os.ReadFile(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte(old)) {
		t.Fatalf("%q is not in the configuration:\n%s", old, b)
	}
	s.write(strings.Replace(string(b), old, new, 1))
}

// idleClient is a client that has connected and waits: a TCP connection
// through connect, with one answered call.
func (s *nfsStage) idleClient(t testing.TB, who string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.connect(t, who)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	nullCall(t, c)
	return c
}

// nullCall calls the NULL procedure of NFSv3 and reads the whole answer.
func nullCall(t testing.TB, c net.Conn) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(e2eDeadline))
	call := []byte{0x80, 0, 0, 40, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0x86, 0xa3, 0, 0, 0, 3, 0, 0, 0, 0}
	if _, err := c.Write(append(call, make([]byte, 16)...)); err != nil {
		t.Fatal(err)
	}
	var answer [28]byte // mark, xid, REPLY, accepted, verifier, SUCCESS
	if _, err := io.ReadFull(c, answer[:]); err != nil || answer[7] != 7 || answer[27] != 0 {
		t.Fatalf("NULL: %x, %v", answer, err)
	}
}

// A reload under load: the copy goes on, the new certificate and the new rules
// hold at once, the client that is no longer allowed is cut, and its idle
// neighbour is not. A bad file changes nothing and the error says where it is bad.
func TestReload(t *testing.T) {
	s := newNFSStage(t, nfsSetup{exports: ganeshatest.Pseudo})
	local := filepath.Join(t.TempDir(), "local")
	sum := randomBytesFile(t, local, copySize)
	alice, bob := s.idleClient(t, "alice"), s.idleClient(t, "bob")
	before := s.serverSerial(t, "alice")
	c := s.startCopy(t, "alice", local, s.url("/big"))

	// By the command: a new certificate, and bob is denied.
	other := s.Authority.another(t)
	cert, key := other.server(nfsName)
	old := strings.TrimSuffix(s.serverKey, ".key")
	s.edit(t, old+".crt", cert)
	s.edit(t, old+".key", key)
	s.edit(t, "deny: []", `deny: [{san: "email:bob@example.com"}]`)
	mustCLI(t, time.Minute, nil, "reload", "-c", s.Config)
	if after := s.serverSerial(t, "alice"); after == before {
		t.Error("the old certificate is still shown")
	}
	_ = bob.SetDeadline(time.Now().Add(5 * time.Second))
	if n, err := bob.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("bob's connection was not cut: %d, %v", n, err)
	}
	if r := cli(t, time.Minute, nil, s.as("bob", "ls", s.url(""))...); r.Code != exitRemote {
		t.Errorf("bob again: exit %d, %q", r.Code, r.Err)
	}
	nullCall(t, alice)

	// A bad file, by the command and by SIGHUP.
	s.edit(t, "otherwise: squash", "otherwise: quash")
	r := cli(t, time.Minute, nil, "reload", "-c", s.Config, "--socket", s.Socket)
	if where := regexp.QuoteMeta(s.Config) + `:\d+:\d+: `; r.Code != exitFailed || !regexp.MustCompile("^quic-fsgw: reload: "+where).MatchString(r.Err) {
		t.Errorf("bad file: exit %d, %q", r.Code, r.Err)
	}
	mark := s.Log.mark()
	s.hangUp(t)
	s.Log.wait(t, mark, "the reload to fail", func(l logLine) bool { return strings.Contains(l.Msg, "the old configuration stays") })
	nullCall(t, alice)
	if st := s.Status(); st.Generation != 2 {
		t.Errorf("configuration %d is in force, want 2", st.Generation)
	}

	// By SIGHUP: the rule goes back.
	s.edit(t, "otherwise: quash", "otherwise: squash")
	s.edit(t, `deny: [{san: "email:bob@example.com"}]`, "deny: []")
	mark = s.Log.mark()
	s.hangUp(t)
	s.Log.wait(t, mark, "the reload", func(l logLine) bool { return l.Msg == "configuration reloaded" })
	mustCLI(t, time.Minute, nil, s.as("bob", "ls", s.url(""))...)

	// Another identity needs a new connection; the copy is alice's too.
	if !c.running() {
		t.Error("the copy was over too early for this test to say anything")
	}
	if err := c.wait(t); err != nil {
		t.Error(err)
	}
	if got := fileHash(t, s.nfs.Dir+"/big"); got != sum {
		t.Errorf("SHA-256 %s, want %s", got, sum)
	}
	s.edit(t, fmt.Sprintf("uid: %d", aliceUID), "uid: 2999")
	mustCLI(t, time.Minute, nil, "reload", "-c", s.Config)
	_ = alice.SetDeadline(time.Now().Add(5 * time.Second))
	if n, err := alice.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("alice's connection still acts as somebody else: %d, %v", n, err)
	}
}

// another returns the same CA, issuing into another folder.
func (a *authority) another(t testing.TB) *authority {
	t.Helper()
	b := &authority{t: t, dir: t.TempDir()}
	b.CA = filepath.Join(b.dir, "ca.crt")
	for _, name := range []string{"ca.crt", "ca.key"} {
		text, err := os.ReadFile(filepath.Join(a.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(b.dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func (s *nfsStage) hangUp(t testing.TB) {
	t.Helper()
	if err := syscall.Kill(s.Pid, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

// Two hundred clients at once: all get their files, the gateway's processes
// need no more than 512 MiB together, and give back what they took.
func TestTwoHundredClients(t *testing.T) {
	s := newNFSStage(t, nfsSetup{exports: ganeshatest.Pseudo})
	conf := s.clientTLS(t, "alice")
	const clients, size = 200, 512 << 10
	data := make([]byte, size)
	if _, err := io.ReadFull(newOctets(), data); err != nil {
		t.Fatal(err)
	}
	round := func(n int) {
		t.Helper()
		var wg sync.WaitGroup
		errs := make([]error, clients)
		start := time.Now()
		for i := range errs {
			wg.Go(func() { errs[i] = s.copyBothWays(t.Context(), conf, fmt.Sprintf("/f%d-%d", n, i), data) })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		t.Logf("round %d: %d clients in %.1f s", n, clients, time.Since(start).Seconds())
		eventually(t, "the sessions to end", func() bool { return len(s.Status().Connections) == 0 })
	}
	pids := map[string]int{"supervisor": s.Pid, workerWord: s.Child(workerWord), helperWord: s.Child(helperWord)}
	sum := func() (now, peak int64) {
		for _, pid := range pids {
			n, p := memory(t, pid)
			now, peak = now+n, peak+p
		}
		return now, peak
	}
	round(0) // warm-up: what a process needs once, it keeps
	round(1)
	base, _ := sum()
	threads := threadCount(t, pids)
	for _, pid := range pids {
		resetPeak(t, pid)
	}
	round(2)
	_, peak := sum()
	if limit := int64(512 << 20); peak > limit {
		t.Errorf("%d MiB at the peak, want at most %d", peak>>20, limit>>20)
	}
	after := base
	eventually(t, "the memory to be given back", func() bool { after, _ = sum(); return after <= base+base/10 })
	for name, pid := range pids {
		now, peak := memory(t, pid)
		t.Logf("%s: %d MiB, %d MiB at the peak", name, now>>20, peak>>20)
	}
	t.Logf("resident: %d MiB before, %d MiB at the peak, %d MiB after; threads %d, then %d", base>>20, peak>>20, after>>20, threads, threadCount(t, pids))
}

func threadCount(t testing.TB, pids map[string]int) int {
	t.Helper()
	n := 0
	for _, pid := range pids {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			t.Fatal(err)
		}
		n += len(tasks)
	}
	return n
}

// copyBothWays writes a file on a connection of its own, reads it back and compares.
func (s *nfsStage) copyBothWays(ctx context.Context, conf *tls.Config, path string, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	d := &client.Dialer{Handshaker: quic.TLS(conf)}
	defer d.Close()
	u, err := client.ParseURL(s.url(path))
	if err != nil {
		return err
	}
	f, p, err := client.OpenRemote(ctx, u, client.OpenOptions{Dial: d.Dial})
	if err != nil {
		return err
	}
	defer f.Close()
	w, err := f.Create(ctx, p, 0o644)
	if err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		w.Abort()
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	var back bytes.Buffer
	if err := client.Cat(ctx, &back, f, p); err != nil {
		return err
	}
	if !bytes.Equal(back.Bytes(), data) {
		return errors.New("what was read is not what was written")
	}
	return f.Remove(ctx, p)
}

// crl writes a revocation list of the CA's, which revokes the certificates in files.
func (a *authority) crl(t testing.TB, path string, number int64, files ...string) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(a.CA, filepath.Join(filepath.Dir(a.CA), "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	list := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(b)
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now()})
	}
	issuer := pair.Leaf
	if len(issuer.SubjectKeyId) == 0 {
		issuer.SubjectKeyId = []byte{1} // CreateRevocationList wants one; the certificate has none to compare with
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, issuer, pair.PrivateKey.(crypto.Signer))
	if err != nil {
		t.Fatal(err)
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, der, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}

// HOSTILE 64: a revocation list that grows cuts the client it names, without a
// reload being asked for, and no other; the client does not come in again.
func TestRevokedClientIsCut(t *testing.T) {
	crl := filepath.Join(t.TempDir(), "x.crl")
	if err := os.WriteFile(crl, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := newNFSStage(t, nfsSetup{exports: ganeshatest.Pseudo})
	s.Authority.crl(t, crl, 1)
	s.edit(t, "client_ca:", fmt.Sprintf("crl: [%q]\n  client_ca:", crl))
	mustCLI(t, time.Minute, nil, "reload", "-c", s.Config)
	alice, bob := s.idleClient(t, "alice"), s.idleClient(t, "bob")
	flags := s.trust["bob"]
	mark := s.Log.mark()
	s.Authority.crl(t, crl, 2, flags[slices.Index(flags, "--cert")+1])
	s.Log.wait(t, mark, "the cut", func(l logLine) bool {
		return strings.Contains(l.Msg, "no longer trusted") && strings.Contains(l.Raw, "revoked_certificate")
	})
	_ = bob.SetDeadline(time.Now().Add(e2eDeadline))
	if n, err := bob.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("bob's connection was not cut: %d, %v", n, err)
	}
	nullCall(t, alice)
	if r := cli(t, time.Minute, nil, s.as("bob", "ls", s.url(""))...); r.Code != exitRemote {
		t.Errorf("bob again: exit %d, %q", r.Code, r.Err)
	}
	mustCLI(t, time.Minute, nil, s.as("alice", "ls", s.url(""))...)
	if st := s.Status(); st.Generation != 2 {
		t.Errorf("configuration %d is in force, want 2: nobody has asked for another", st.Generation)
	}
}

// A renewed certificate of certbot's: root's files, which the helper's group may
// read, put into place by exchanging links. It is shown without a word. One that
// the helper can't read leaves the old one, and the log says why.
func TestRenewalReadByGroup(t *testing.T) {
	s := newNFSStage(t, nfsSetup{exports: ganeshatest.Pseudo, tlshd: "  user: nobody\n  group: nogroup\n"})
	crt := strings.TrimSuffix(s.serverKey, ".key") + ".crt"
	group, err := user.LookupGroup("nogroup")
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.Atoi(group.Gid)
	if err != nil {
		t.Fatal(err)
	}
	// The helper has to get through the folders; a test's are root's alone.
	if err := errors.Join(os.Chmod(s.Authority.dir, 0o755), os.Chmod(filepath.Dir(s.Authority.dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	renew := func(mode os.FileMode) {
		t.Helper()
		other := s.Authority.another(t)
		if err := os.Chmod(filepath.Dir(other.dir), 0o755); err != nil {
			t.Fatal(err)
		}
		cert, key := other.server(nfsName)
		for from, to := range map[string]string{cert: crt, key: s.serverKey} {
			if err := errors.Join(os.Chown(from, 0, gid), os.Chmod(from, mode), os.Chmod(filepath.Dir(from), 0o755), os.Symlink(from, to+".new"), os.Rename(to+".new", to)); err != nil {
				t.Fatal(err)
			}
		}
	}
	first := s.serverSerial(t, "alice")
	renew(0o640)
	eventually(t, "the renewed certificate", func() bool { return s.serverSerial(t, "alice") != first })
	second, mark := s.serverSerial(t, "alice"), s.Log.mark()
	renew(0o600)
	s.Log.wait(t, mark, "a warning", func(l logLine) bool {
		return strings.Contains(l.Raw, "permission denied") && strings.Contains(l.Raw, crt)
	})
	if got := s.serverSerial(t, "alice"); got != second {
		t.Error("a certificate whose key can't be read took the place of one that works")
	}
}
