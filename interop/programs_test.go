package interop

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Peers that are programs (peers/): they run in the tree that
// testenv/setup-chroot.sh builds, whose Debian carries their libraries.

// enter is what a program's process does first, in its own mount namespace: $1
// is the tree, $2 the directory that becomes /mnt, the rest the program.
const enter = `set -e
mount --make-rprivate /
mount -t proc proc "$1/proc"
mount --bind "$2" "$1/mnt"
tree=$1; shift 2
exec chroot "$tree" "$@"`

func tree() (string, error) {
	dir := os.Getenv("QUIC_FSGW_CHROOT")
	if dir == "" {
		dir = "/var/tmp/quic-fsgw/forky"
	}
	for _, need := range []string{"usr/include/ngtcp2/ngtcp2_crypto_ossl.h", "usr/bin/gcc", "usr/lib/python3/dist-packages/aioquic"} {
		if _, err := os.Stat(filepath.Join(dir, need)); err != nil {
			return "", fmt.Errorf("QUIC implementations for the tests are missing: %w\nrun `make deps` (as root, or with sudo), or set QUIC_FSGW_CHROOT to a tree that testenv/setup-chroot.sh built", err)
		}
	}
	if os.Geteuid() != 0 {
		return "", fmt.Errorf("tests with ngtcp2 and aioquic need root, to chroot: run them with sudo (`make test` does)")
	}
	return dir, nil
}

// inTree prepares a program of the tree, with dir as its /mnt.
func inTree(ctx context.Context, dir string, args ...string) (*exec.Cmd, error) {
	at, err := tree()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", enter, "sh", at, dir}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8"}
	if os.Getenv("PEER_LOG") != "" { // ngtcp2 tells what it does
		cmd.Env = append(cmd.Env, "PEER_LOG=1")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		// The first process of a process namespace takes all others with it.
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	cmd.WaitDelay = 5 * time.Second
	return cmd, nil
}

// ngtcp2Program compiles the peer, once, and returns it.
var ngtcp2Program = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "ngtcp2-peer-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := os.CopyFS(dir, os.DirFS("peers/ngtcp2")); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd, err := inTree(ctx, dir, "/bin/sh", "-c", "cd /mnt && gcc -std=c17 -D_GNU_SOURCE -O1 -Wall -Wextra -Werror -o peer *.c -lngtcp2_crypto_ossl -lngtcp2 -lssl -lcrypto")
	if err != nil {
		return nil, err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile peers/ngtcp2: %w\n%s", err, out)
	}
	return os.ReadFile(filepath.Join(dir, "peer"))
})

var aioquicProgram = sync.OnceValues(func() ([]byte, error) { return os.ReadFile("peers/aioquic/peer.py") })

var (
	ngtcp2  = programPeer("ngtcp2", ngtcp2Program, "/mnt/peer")
	aioquic = programPeer("aioquic", aioquicProgram, "/usr/bin/python3", "/mnt/peer")
)

// programPeer is a peer that is a program, which command runs as /mnt/peer.
func programPeer(name string, program func() ([]byte, error), command ...string) peer {
	prepare := func(st *stage) {
		st.Helper()
		b, err := program()
		mustNot(st.TB, err, name)
		mustNot(st.TB, os.WriteFile(filepath.Join(st.dir, "peer"), b, 0o755), name)
		st.writePKI()
	}
	return peer{name,
		func(st *stage) netip.AddrPort { prepare(st); return serveProgram(st, command) },
		func(ctx context.Context, st *stage, to netip.AddrPort) error {
			prepare(st)
			return fetchProgram(ctx, st, command, to)
		}}
}

// writePKI writes what programs present and trust.
func (st *stage) writePKI() {
	k := st.certificates()
	var chain bytes.Buffer
	for _, der := range k.server.Certificate {
		_ = pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // to memory
	}
	key, err := x509.MarshalPKCS8PrivateKey(k.server.PrivateKey)
	mustNot(st.TB, err, "key")
	for name, b := range map[string][]byte{
		"cert.pem": chain.Bytes(),
		"key.pem":  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		"ca.pem":   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.root.Raw}),
	} {
		mustNot(st.TB, os.WriteFile(filepath.Join(st.dir, "pki", name), b, 0o600), name)
	}
}

// flags are the options of a program.
func (st *stage) flags(server bool) []string {
	var f []string
	for name, on := range map[string]bool{
		"v2": st.v2, "retry": st.retry && server, "chacha20": st.chacha20, "key-update": st.keyUpdate,
		"resume": st.resume && !server, "early": st.early, "each": st.each && !server,
	} {
		if on {
			f = append(f, "--"+name)
		}
	}
	return f
}

func serveProgram(st *stage, command []string) netip.AddrPort {
	st.Helper()
	for name, b := range st.files {
		mustNot(st.TB, os.WriteFile(filepath.Join(st.dir, "www", name), b, 0o644), name)
	}
	args := append(append([]string{}, command...), st.flags(true)...)
	args = append(args, "--address", st.at.Addr().String(), "--dir", "/mnt/www", "--cert", "/mnt/pki/cert.pem", "--key", "/mnt/pki/key.pem")
	if st.preferred.IsValid() {
		args = append(args, "--preferred", st.preferred.Addr().String(), "--preferred-port", strconv.Itoa(int(st.preferred.Port())))
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd, err := inTree(ctx, st.dir, append(args, "server")...)
	mustNot(st.TB, err, command[0])
	out, err := cmd.StdoutPipe()
	mustNot(st.TB, err, command[0])
	errs := &tail{}
	cmd.Stderr = errs
	mustNot(st.TB, cmd.Start(), "start the server")
	lines := bufio.NewScanner(out)
	var ready struct{ Port uint16 }
	ok := lines.Scan() && json.Unmarshal(lines.Bytes(), &ready) == nil && ready.Port != 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines.Scan() {
			st.readReport(lines.Bytes())
		}
	}()
	st.Cleanup(func() {
		cancel()
		<-done
		_ = cmd.Wait() // killed
		if s := errs.String(); s != "" {
			st.Logf("the server wrote:\n%s", s)
		}
	})
	if !ok {
		cancel()
		<-done
		st.Fatalf("the server did not start: %v\n%s", cmd.Wait(), errs)
	}
	return netip.AddrPortFrom(st.at.Addr(), ready.Port)
}

func fetchProgram(ctx context.Context, st *stage, command []string, to netip.AddrPort) error {
	args := append(append([]string{}, command...), st.flags(false)...)
	args = append(args, "--address", to.Addr().String(), "--port", strconv.Itoa(int(to.Port())), "--dir", "/mnt/downloads", "--ca", "/mnt/pki/ca.pem", "client")
	if st.migrate.IsValid() {
		args = append(args, "--migrate", st.migrate.String())
	}
	cmd, err := inTree(ctx, st.dir, append(args, st.names...)...)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	errs := &tail{}
	cmd.Stdout, cmd.Stderr = &out, errs
	err = cmd.Run()
	if s := errs.String(); s != "" && err == nil {
		st.Logf("the client wrote:\n%s", s)
	}
	for line := range bytes.Lines(out.Bytes()) {
		st.readReport(line)
	}
	if err != nil {
		return fmt.Errorf("%w\n%s", err, errs)
	}
	return nil
}

func (st *stage) readReport(line []byte) {
	var r report
	if err := json.Unmarshal(line, &r); err != nil {
		st.Errorf("the peer wrote %q: %v", line, err)
		return
	}
	st.addReport(r)
}

// tail keeps the end of what a program writes.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (w *tail) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.b = append(w.b, b...)
	if limit := 64 << 10; len(w.b) > limit {
		w.b = w.b[len(w.b)-limit/2:]
	}
	return len(b), nil
}

func (w *tail) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.TrimSpace(string(w.b))
}
