//go:build linux

package main

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/acme"

	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

const acmeName = "files.acme.test"

// serveNames is a DNS server on TCP, which Pebble asks, that knows one answer:
// 127.0.0.1.
func serveNames(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(e2eDeadline))
				var size [2]byte
				for {
					if _, err := io.ReadFull(c, size[:]); err != nil {
						return
					}
					q := make([]byte, binary.BigEndian.Uint16(size[:]))
					if _, err := io.ReadFull(c, q); err != nil {
						return
					}
					a := answerName(q)
					_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		work.Wait()
	})
	return l.Addr().String()
}

// answerName answers the first question of a query: with an address if that is
// what is asked for (type 1), else with nothing.
func answerName(q []byte) []byte {
	at := 12
	for at < len(q) && q[at] != 0 {
		at += 1 + int(q[at])
	}
	if at+5 > len(q) {
		return nil
	}
	end := at + 5
	out := append([]byte{q[0], q[1], 0x84, 0, 0, 1, 0, 0, 0, 0, 0, 0}, q[12:end]...)
	if q[at+1] == 0 && q[at+2] == 1 {
		out[7] = 1
		out = append(out, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1)
	}
	return out
}

// authorityServer is Pebble, Let's Encrypt's own small ACME server, which
// validates challenges as the large one does.
type authorityServer struct {
	Directory string
	CA        string // that its own HTTPS is trusted by
}

// life is how long its certificates are valid; 0: Pebble's own idea of it.
func startPebble(t *testing.T, challengePort int, life time.Duration) *authorityServer {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(dir, "pebble")
	build := exec.Command("go", "build", "-modfile=../../internal/tools/go.mod", "-o", bin, "github.com/letsencrypt/pebble/v2/cmd/pebble")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build pebble: %v\n%s", err, out)
	}
	a := newAuthority(t)
	cert, key := a.server("localhost")
	port := freeTCPPort(t)
	conf := filepath.Join(dir, "pebble.json")
	b, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"profiles":      map[string]any{"default": map[string]any{"description": "for a test", "validityPeriod": int(life.Seconds())}},
		"listenAddress": fmt.Sprintf("127.0.0.1:%d", port), "managementListenAddress": fmt.Sprintf("127.0.0.1:%d", freeTCPPort(t)),
		"certificate": cert, "privateKey": key, "httpPort": freeTCPPort(t), "tlsPort": challengePort,
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, b, 0o600); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "-config", conf, "-dnsserver", serveNames(t), "-strict")
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0")
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	log, done := newLogLines(), make(chan struct{})
	go func() {
		log.readFrom(r)
		cmd.Wait()
		close(done)
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGKILL)
		<-done
		if t.Failed() {
			t.Logf("pebble wrote:\n%s", log.tail(40))
		}
	})
	log.wait(t, 0, "pebble to listen", func(l logLine) bool { return strings.Contains(l.Raw, "ACME directory available") })
	return &authorityServer{Directory: fmt.Sprintf("https://localhost:%d/dir", port), CA: a.CA}
}

// shownBy is the certificate that the gateway shows for a name.
func shownBy(t *testing.T, g *gatewayProcess, name string) *x509.Certificate {
	t.Helper()
	var got *x509.Certificate
	p := peer{ServerName: name, TLS: func(c *tls.Config) {
		c.VerifyConnection = func(cs tls.ConnectionState) error {
			got = cs.PeerCertificates[0]
			return nil
		}
	}}
	conn := p.mustDial(t, g.Addr)
	_ = conn.CloseWithError(0, "")
	return got
}

// A certificate is fetched from a real ACME server by TLS-ALPN-01: the process
// on TCP answers the challenge and writes the file, the helper picks it up, and
// no other process has its key.
func TestACME(t *testing.T) {
	challenges := freeTCPPort(t)
	pebble := startPebble(t, challenges, 0)
	dir := filepath.Join(shortDir(t), "acme")
	backend := startCounting(t)
	a := newAuthority(t)
	g := startGateway(t, gatewaySetup{Authority: a, Names: []string{"other.test"},
		Rest: fmt.Sprintf(`https:
  listen: "127.0.0.1:%d"
  acme: {names: [%s], directory: %q, ca: %q, accept_terms: true, dir: %q, email: admin@acme.test}
`, challenges, acmeName, pebble.Directory, pebble.CA, dir) + strings.ReplaceAll(quietSMB(backend.Addr), sambatest.Host, acmeName)})
	g.Log.wait(t, 0, "the certificate", func(l logLine) bool { return l.Msg == "certificate is there" })
	var shown *x509.Certificate
	eventually(t, "the helper to show it", func() bool {
		shown = shownBy(t, g, acmeName)
		return strings.Contains(shown.Issuer.CommonName, "Pebble")
	})
	if err := shown.VerifyHostname(acmeName); err != nil {
		t.Error(err)
	}

	// The files: what is published is what is shown; the account is nobody else's.
	file := filepath.Join(dir, acmeName+".pem")
	for name, want := range map[string]os.FileMode{file: 0o640, filepath.Join(dir, "account", acmeName): 0o600, filepath.Join(dir, "account", "acme_account+key"): 0o600} {
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, mode %v, want %v", name, err, info.Mode(), want)
		} else if st := info.Sys().(*syscall.Stat_t); os.Geteuid() == 0 && st.Uid == 0 {
			t.Errorf("%s is root's: the process is no account of its own", name)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	keyBlock, _ := pem.Decode(text)
	key, err := x509.ParseECPrivateKey(keyBlock.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !key.PublicKey.Equal(shown.PublicKey) {
		t.Error("another key is published than the one shown")
	}
	d, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	needle := map[string][]byte{"D": d, "DER": keyBlock.Bytes}
	httpsIsolated(t, g, needle)
	if len(found(t, g.Child(helperWord), needle)) == 0 {
		t.Error("the key is not found in the helper: the search is worth nothing")
	}
	for who, pid := range map[string]int{"supervisor": g.Pid, "packet process": g.Child(workerWord)} {
		if names := found(t, pid, needle); len(names) > 0 {
			t.Errorf("%s holds %q of the key", who, names)
		}
	}

	// Nothing else is served there, and the process comes back when it dies.
	strangers(t, challenges)
	mark := g.Log.mark()
	kill9(t, g.Child(httpsWord))
	g.Log.wait(t, mark, "the process to be started again", func(l logLine) bool { return l.Msg == "https process runs" })
	g.Log.wait(t, mark, "what it has kept", func(l logLine) bool { return l.Msg == "certificate is there" })
	if again := shownBy(t, g, acmeName); !again.Equal(shown) {
		t.Error("another certificate after the restart: it was fetched anew")
	}
}

// httpsIsolated: the process on TCP is a user of its own in a sandbox, and holds
// the keys it fetched and no other of the helper's.
func httpsIsolated(t *testing.T, g *gatewayProcess, own map[string][]byte) {
	t.Helper()
	pid := g.Child(httpsWord)
	for key, want := range map[string]string{"NoNewPrivs": "1", "Seccomp": "2"} {
		for _, got := range idsOf(t, pid, key) {
			if got != want {
				t.Errorf("%s of the https process is %s, want %s", key, got, want)
			}
		}
	}
	if os.Geteuid() == 0 {
		for _, other := range []int{g.Pid, g.Child(workerWord), g.Child(helperWord)} {
			if a, b := idsOf(t, pid, "Uid")[0], idsOf(t, other, "Uid")[0]; a == b {
				t.Errorf("the https process and %d are the same user, %s", other, a)
			}
		}
	}
	if len(found(t, pid, own)) == 0 {
		t.Error("the key is not found in the https process, which has made it: the search is worth nothing")
	}
	_, theirs := g.Authority.files("other.test")
	if len(found(t, g.Child(helperWord), secrets(t, theirs))) == 0 {
		t.Errorf("%s is not found in the helper: the search is worth nothing", theirs)
	}
	if names := found(t, pid, secrets(t, theirs)); len(names) > 0 {
		t.Errorf("the https process holds %q of %s", names, theirs)
	}
}

// A certificate is renewed by itself, with a new key, before it ends: the helper,
// which is nobody and reads it by its group, shows it without a word, and a
// connection that is there stays. A name that is added is fetched after a reload.
func TestACMERenewal(t *testing.T) {
	challenges := freeTCPPort(t)
	pebble := startPebble(t, challenges, 36*time.Second) // renewed after 24
	dir := filepath.Join(shortDir(t), "acme")
	backend := startCounting(t)
	const second = "second.acme.test"
	a, helper := newAuthority(t), ""
	if os.Geteuid() == 0 {
		helper = "  user: nobody\n  group: nogroup\n"
		readableByGroup(t, a, "other.test", "nogroup")
		if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	g := startGateway(t, gatewaySetup{Authority: a, Names: []string{"other.test"}, Tlshd: helper,
		Rest: fmt.Sprintf(`https:
  listen: "127.0.0.1:%d"
  acme: {names: [%s], directory: %q, ca: %q, accept_terms: true, dir: %q}
`, challenges, acmeName, pebble.Directory, pebble.CA, dir) + strings.ReplaceAll(quietSMB(backend.Addr), sambatest.Host, fmt.Sprintf("[%s, %s]", acmeName, second))})
	var before, now *x509.Certificate
	eventually(t, "a certificate", func() bool {
		before = shownBy(t, g, acmeName)
		return strings.Contains(before.Issuer.CommonName, "Pebble")
	})
	live := peer{ServerName: acmeName}.mustDial(t, g.Addr)
	st := stream(t, live)
	if _, err := st.Write(negotiate()); err != nil {
		t.Fatal(err)
	}
	server := <-backend.conns
	defer server.Close()

	for deadline := time.Now().Add(36*time.Second + e2eDeadline); now == nil || now.Equal(before); poll(t) {
		if now = shownBy(t, g, acmeName); time.Now().After(deadline) {
			t.Fatal("the certificate is not renewed")
		}
	}
	if !strings.Contains(now.Issuer.CommonName, "Pebble") || !now.NotBefore.Before(before.NotAfter) {
		t.Errorf("%s, from %s; the one before ended at %s", now.Issuer, now.NotBefore, before.NotAfter)
	}
	if old, ok := before.PublicKey.(*ecdsa.PublicKey); !ok || old.Equal(now.PublicKey) {
		t.Error("the key is the same as before")
	}
	if _, err := server.Write(negotiateAnswer()); err != nil {
		t.Fatal(err)
	}
	_ = st.SetReadDeadline(time.Now().Add(e2eDeadline))
	if _, err := io.ReadFull(st, make([]byte, len(negotiateAnswer()))); err != nil {
		t.Errorf("the connection from before the renewal: %v", err)
	}

	text, err := os.ReadFile(g.Config)
	if err != nil {
		t.Fatal(err)
	}
	g.write(strings.Replace(string(text), "{names: ["+acmeName+"]", "{names: ["+acmeName+", "+second+"]", 1))
	mustCLI(t, time.Minute, nil, "reload", "-c", g.Config)
	eventually(t, "a certificate for the name that was added", func() bool {
		return strings.Contains(shownBy(t, g, second).Issuer.CommonName, "Pebble")
	})
	if err := live.Err(); err != nil {
		t.Errorf("the connection from before the reload: %v", err)
	}
	g.write(strings.Replace(string(text), fmt.Sprintf("127.0.0.1:%d\"\n  acme", challenges), fmt.Sprintf("127.0.0.1:%d\"\n  acme", freeTCPPort(t)), 1))
	if r := cli(t, time.Minute, nil, "reload", "-c", g.Config); r.Code != exitFailed || !strings.Contains(r.Err, "restart to apply it") {
		t.Errorf("another address: exit %d, %q", r.Code, r.Err)
	}
}

// readableByGroup issues a server certificate whose files a group can read, which
// is what a helper with tlshd.user needs of all its files when one of them changes.
func readableByGroup(t *testing.T, a *authority, name, group string) {
	t.Helper()
	cert, key := a.server(name)
	g, err := user.LookupGroup(group)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{cert, key} {
		if err := errors.Join(os.Chown(f, 0, gid), os.Chmod(f, 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(a.dir, 0o755), os.Chmod(filepath.Dir(a.dir), 0o755)); err != nil {
		t.Fatal(err)
	}
}

// strangers: who comes for anything but a challenge gets no handshake.
func strangers(t *testing.T, port int) {
	t.Helper()
	for _, c := range []*tls.Config{
		{ServerName: acmeName}, {ServerName: acmeName, NextProtos: []string{"http/1.1"}}, {ServerName: acmeName, NextProtos: []string{"h2", acme.ALPNProto}},
		{ServerName: "nobody.test", NextProtos: []string{acme.ALPNProto}}, {NextProtos: []string{acme.ALPNProto}},
	} {
		c.InsecureSkipVerify = true
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: e2eDeadline}, "tcp", fmt.Sprintf("127.0.0.1:%d", port), c)
		if err == nil {
			conn.Close()
			t.Errorf("a handshake for %q with %q", c.ServerName, c.NextProtos)
		}
	}
	// One that says nothing does not stay.
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(3 * e2eDeadline))
	if _, err := conn.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("a silent connection: %v", err)
	}
}
