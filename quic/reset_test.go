package quic

import (
	"crypto/rand"
	"net"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// TestStatelessResetSize: a reset is shorter than what caused it, and as long
// as a recognisable one must be.
func TestStatelessResetSize(t *testing.T) {
	key := [32]byte{1}
	cfg := serverConfig()
	cfg.ResetKey = &key
	e := newLoopback(t, cfg)
	u, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(e.LocalAddr()))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	_ = u.SetReadDeadline(time.Now().Add(20 * time.Second))
	for _, size := range []int{21, 22, 30, 43, 44, 1200} { // 21 gets no answer, or the next would be wrong
		b := make([]byte, size)
		_, _ = rand.Read(b)
		b[0] = 0x40
		if _, err := u.Write(b); err != nil {
			t.Fatal(err)
		}
		if size == 21 {
			continue
		}
		got := make([]byte, 2000)
		n, err := u.Read(got)
		if err != nil {
			t.Fatalf("no reset for %d bytes: %v", size, err)
		}
		id, _ := wire.MakeConnID(b[1 : 1+e.layout.Size()])
		if n != min(size-1, 42) || got[0]&0xc0 != 0x40 || [16]byte(got[n-16:n]) != resetToken(&key, id) {
			t.Errorf("for %d bytes: % x", size, got[:n])
		}
	}
}

// TestShortPacketsHideResets: the smallest packets are as long as a reset that
// they cause, so that nobody on the path can tell one from the other.
func TestShortPacketsHideResets(t *testing.T) {
	client, _ := connect(t, serverConfig(), clientConfig())
	s, err := client.OpenStream(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	client.lock()
	defer client.unlock()
	sent := func() int {
		bytes, datagrams := client.stats.BytesSent, client.stats.DatagramsSent
		client.dirty = true
		client.flush()
		if n := client.stats.DatagramsSent - datagrams; n != 1 {
			t.Fatalf("%d datagrams sent", n)
		}
		return int(client.stats.BytesSent - bytes)
	}
	least := 22 + client.ep.layout.Size()
	client.dirty = true
	client.flush() // what the handshake has left to send, and the MTU probe
	client.ping = true
	if n := sent(); n < least {
		t.Errorf("PING: %d bytes, want %d", n, least)
	}
	s.snd.buf.write([]byte("x"))
	client.queueSend(s)
	if n := sent(); n < least {
		t.Errorf("STREAM: %d bytes, want %d", n, least)
	}
}
