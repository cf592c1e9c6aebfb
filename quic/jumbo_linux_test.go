package quic

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/quic-fsgw/quic-fsgw/internal/inchild"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// ip configures a network interface of the calling thread's namespace.
func ip(args string) error {
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", args, err, out)
	}
	return nil
}

// elsewhere calls f on a thread in a network namespace of its own.
func elsewhere(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// TestJumboFrames is a path of 9000 bytes between two namespaces: discovery
// finds what it carries. Then the far end of the path carries 1500 only, and
// nobody says so: full-size datagrams vanish, and what is being sent arrives
// all the same.
//
// Batches are off: the kernel passes them from one end of a veth pair to the other
// as they are, whatever the size of their packets.
func TestJumboFrames(t *testing.T) {
	if !inchild.Run(t, inchild.Network()) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	noBatches := udp.Config{GSO: udp.Off, GRO: udp.Off}
	var server, client *udp.Socket
	runtime.LockOSThread() // else the thread of what runs elsewhere may be this process's first
	defer runtime.UnlockOSThread()
	home := unix.Gettid()
	err := elsewhere(func() (err error) {
		for _, line := range []string{
			fmt.Sprintf("link add near type veth peer name far netns %d", home),
			"link set near mtu 9000 up", "addr add 10.9.0.2/24 dev near",
		} {
			if err := ip(line); err != nil {
				return err
			}
		}
		client, err = udp.ListenOne(netip.MustParseAddrPort("10.9.0.2:0"), noBatches)
		return err
	})
	for _, line := range []string{"link set far mtu 9000 up", "addr add 10.9.0.1/24 dev far"} {
		if err == nil {
			err = ip(line)
		}
	}
	if err == nil {
		server, err = udp.ListenOne(netip.MustParseAddrPort("10.9.0.1:0"), noBatches)
	}
	if err != nil {
		t.Fatal(err)
	}
	se, ce := NewEndpoint([]udp.PacketConn{server}, serverConfig()), NewEndpoint([]udp.PacketConn{client}, nil)
	t.Cleanup(func() { _, _ = ce.Close(ctx), se.Close(ctx) })
	cc, err := ce.Dial(ctx, server.LocalAddr(), clientConfig())
	if err != nil {
		t.Fatal(err)
	}
	sc, err := se.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const frame, headers = 9000, 28
	for cc.Stats().MTU < jumboDatagram && ctx.Err() == nil {
		move(t, ctx, cc, sc, 1<<20)
	}
	move(t, ctx, cc, sc, 4<<20) // the search goes on above what is common
	st := cc.Stats()
	if st.MTU < jumboDatagram || st.MTU > frame-headers || st.BlackHoles != 0 {
		t.Errorf("a path of %d: datagrams of %d bytes, %d black holes", frame, st.MTU, st.BlackHoles)
	}
	if err := ip("link set far mtu 1500"); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		move(t, ctx, cc, sc, 1<<20)
		if st = cc.Stats(); st.BlackHoles > 0 && st.MTU > minDatagram {
			break
		}
	}
	if st.BlackHoles == 0 || st.MTU < defaultMaxDatagram || st.MTU > 1500-headers {
		t.Errorf("a path of 1500: datagrams of %d bytes, %d black holes", st.MTU, st.BlackHoles)
	}
	move(t, ctx, sc, cc, 1<<20) // the server's own datagrams are refused by its interface
	if st := sc.Stats(); st.MTU > 1500-headers {
		t.Errorf("the server sends datagrams of %d bytes", st.MTU)
	}
	t.Logf("client %d bytes after %d black holes, %d probes", st.MTU, st.BlackHoles, st.MTUProbes)
}
