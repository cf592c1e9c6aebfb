package nfs

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/internal/inchild"
	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
)

// inNetworkNamespace runs the calling test again in a process with network and mount namespaces of its own,
// and reports whether this is that process.
func inNetworkNamespace(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("network namespaces need root (hint: run `make test` as root or with sudo)")
	}
	if !inchild.Run(t, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}) {
		return false
	}
	setUpNamespace(t)
	return true
}

func setUpNamespace(t *testing.T) {
	t.Helper()
	ganeshatest.Require(t, "ip", "rpcbind")
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	// rpcbind's socket and lock file are not to meet those of the machine.
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("/run/rpcbind", 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod("/run/rpcbind", 0o777); err != nil { // rpcbind gives root up
		t.Fatal(err)
	}
	for _, args := range []string{
		"link set lo up",
		"addr add 192.0.2.1/32 dev lo", // getaddrinfo finds nothing for a host with only 127.0.0.1
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", args, err, out)
		}
	}
}

func startRPCBind(t *testing.T) {
	t.Helper()
	cmd := exec.Command("rpcbind", "-f", "-w")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	eventually(t, "rpcbind answers", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
		defer cancel()
		_, err := ProbeNull(ctx, "127.0.0.1:111", ProgPortmap, 2)
		return err == nil
	})
}

// TestRealPortmapper finds mountd by way of rpcbind, in the relay and in the probe.
func TestRealPortmapper(t *testing.T) {
	if !inNetworkNamespace(t) {
		return
	}
	startRPCBind(t)
	server := ganeshatest.StartOptions(t, ganeshatest.Options{RPCBind: true})
	id := testIdentity(t)

	t.Run("probe", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
		defer cancel()
		st, err := ProbeMount(ctx, "127.0.0.1", ganeshatest.Pseudo, id)
		if err != nil || st.MaxRead < 1<<16 || st.MaxWrite < 1<<16 || st.Time <= 0 {
			t.Errorf("%+v, %v", st, err)
		}
		if st, err := ProbeMount(ctx, "127.0.0.1", "/absent", id); err == nil {
			t.Errorf("probe of an absent export: %+v", st)
		}
		if st, err := ProbeMount(ctx, "192.0.2.2", ganeshatest.Pseudo, nil); err == nil {
			t.Errorf("probe of an address that nobody has: %+v", st)
		}
	})
	t.Run("relay", func(t *testing.T) {
		s := newTestService(t, Config{Backends: []string{server.NFS}, Exports: []string{ganeshatest.Pseudo}})
		for _, st := range s.Probe(t.Context()) {
			if !st.Up() || st.Mount != nil {
				t.Errorf("%+v", st)
			}
		}
		g := startGateway(t, s, id)
		if _, err := libnfs(t, "nfs-ls", g.url(ganeshatest.Pseudo, "3")); err != nil {
			t.Errorf("nfs-ls: %v", err)
		}
	})
}

// TestProbeOfHostileServer: what panics or hangs costs the probe and nothing else.
func TestProbeOfHostileServer(t *testing.T) {
	if !inNetworkNamespace(t) {
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:111")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	answers := make(chan func(c net.Conn), 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				(<-answers)(c)
			}()
		}
	}()
	reply := func(b []byte) func(net.Conn) {
		return func(c net.Conn) {
			msg, err := readMessage(c, 4096)
			if err != nil {
				return
			}
			copy(b[4:], msg[:4])
			c.Write(b)
			io.Copy(io.Discard, c)
		}
	}
	for _, tt := range []struct {
		name string
		b    []byte
	}{
		{"denied with RPC_MISMATCH", AppendRPCMismatch(nil, 0)},
		{"accepted and cut off", endReply(be32(be32(be32(be32(nil, 0), 0), 1), 0), 0)},
		{"port 0", AppendSuccess(nil, 0, be32(nil, 0))},
		{"port 4294967295", AppendSuccess(nil, 0, be32(nil, noID))},
	} {
		answers <- reply(tt.b)
		ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
		if st, err := ProbeMount(ctx, "127.0.0.1", "/x", nil); err == nil || ctx.Err() != nil {
			t.Errorf("%s: %+v, %v", tt.name, st, err)
		} else {
			t.Logf("%s: %v", tt.name, err)
		}
		cancel()
	}

	// A server that claims a reply of 2 GiB and then is silent.
	release := make(chan struct{})
	answers <- func(c net.Conn) {
		readMessage(c, 4096)
		c.Write([]byte{0xff, 0xff, 0xff, 0xff})
		<-release
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := ProbeMount(ctx, "127.0.0.1", "/x", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("silent server: %v", err)
	}
	if _, err := ProbeMount(t.Context(), "127.0.0.1", "/x", nil); !errors.Is(err, ErrProbeHangs) {
		t.Errorf("again: %v", err)
	}
	close(release)
	eventually(t, "the probe lets go", func() bool {
		hanging.Lock()
		defer hanging.Unlock()
		return len(hanging.hosts) == 0
	})
}
