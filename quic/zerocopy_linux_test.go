package quic

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/quic-fsgw/quic-fsgw/internal/inchild"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// TestZerocopyConnection sends with MSG_ZEROCOPY through a queue that holds each
// batch for some milliseconds (tbf) while the connection goes on building others. A
// batch whose memory was used again before its packets had left would arrive as
// packets that can't be opened. When a packet goes from one end of a veth pair to
// the other the kernel copies what it was lent and says so: zero-copy is switched
// off in the middle of the transfer, which does not notice.
func TestZerocopyConnection(t *testing.T) {
	if !inchild.Run(t, inchild.Network()) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	start := udp.Outstanding()
	runtime.LockOSThread() // as in TestJumboFrames
	defer runtime.UnlockOSThread()
	home := unix.Gettid()
	var server, client *udp.Socket
	err := elsewhere(func() (err error) {
		for _, line := range []string{fmt.Sprintf("link add near type veth peer name far netns %d", home), "link set near up", "addr add 10.9.0.2/24 dev near"} {
			if err := ip(line); err != nil {
				return err
			}
		}
		if out, err := exec.Command("tc", "qdisc", "add", "dev", "near", "root", "tbf", "rate", "400mbit", "burst", "70kb", "limit", "8mb").CombinedOutput(); err != nil {
			return fmt.Errorf("tc: %w: %s(the package iproute2 is needed)", err, out)
		}
		client, err = udp.ListenOne(netip.MustParseAddrPort("10.9.0.2:0"), udp.Config{Zerocopy: udp.On})
		return err
	})
	for _, line := range []string{"link set far up", "addr add 10.9.0.1/24 dev far"} {
		if err == nil {
			err = ip(line)
		}
	}
	if err == nil {
		server, err = udp.ListenOne(netip.MustParseAddrPort("10.9.0.1:0"), udp.Config{})
	}
	if err != nil {
		t.Fatal(err)
	}
	se, ce := NewEndpoint([]udp.PacketConn{server}, serverConfig()), NewEndpoint([]udp.PacketConn{client}, nil)
	cc, err := ce.Dial(ctx, server.LocalAddr(), clientConfig())
	if err != nil {
		t.Fatal(err)
	}
	sc, err := se.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const size = 24 << 20
	sent, got := sha256.New(), sha256.New()
	random := rand.NewChaCha8([32]byte{1})
	moveThrough(t, ctx, cc, sc, io.TeeReader(io.LimitReader(random, size), sent), got, size)
	if want := sent.Sum(nil); string(got.Sum(nil)) != string(want) {
		t.Error("other bytes arrived")
	}
	if n := se.Stats().Drops["decrypt"]; n != 0 {
		t.Errorf("%d packets could not be opened: their memory was used for others", n)
	}
	_ = cc.CloseWithError(0, "")
	_, _ = ce.Close(ctx), se.Close(ctx)
	st := client.Stats()
	t.Logf("%d sends, %d with MSG_ZEROCOPY, %d of them copied", st.SendCalls.Load(), st.ZerocopySends.Load(), st.ZerocopyCopied.Load())
	if st.ZerocopySends.Load() == 0 || st.ZerocopyCopied.Load() == 0 || client.Caps().Zerocopy {
		t.Errorf("%d sends with MSG_ZEROCOPY, %d copied, still on: %t", st.ZerocopySends.Load(), st.ZerocopyCopied.Load(), client.Caps().Zerocopy)
	}
	for end := time.Now().Add(30 * time.Second); udp.Outstanding() != start; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d buffers were not given back", udp.Outstanding()-start)
		}
	}
}
