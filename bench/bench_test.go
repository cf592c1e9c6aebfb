package main

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"
)

// freeAddr is an address nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestPeers runs both ends of every peer that answers.
func TestPeers(t *testing.T) {
	for _, p := range peers() {
		if p.name == "floor" {
			continue // it does not connect: see TestFloor
		}
		t.Run(p.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			addr, done := freeAddr(t), make(chan error, 1)
			go func() { done <- p.server(ctx, &options{addr: addr, payload: 1400}) }()
			defer func() {
				cancel()
				<-done
			}()
			for name, o := range map[string]options{
				"upload":     {upload: 3 << 20},
				"download":   {download: 3 << 20},
				"requests":   {requests: 50, request: 512, response: 4096},
				"handshakes": {handshakes: 3},
			} {
				o.addr, o.payload, o.streams, o.connections, o.parallel = addr, 1400, 1, 1, 1
				r, err := p.client(ctx, &o)
				for err != nil && strings.Contains(err.Error(), "refused") && ctx.Err() == nil {
					r, err = p.client(ctx, &o) // the server is not yet there
				}
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if want := o.upload + o.download; want > 0 && r.Bytes != want || r.Requests != o.requests || r.Handshakes != o.handshakes {
					t.Errorf("%s: %+v", name, r)
				}
			}
		})
	}
}

func TestFloor(t *testing.T) {
	key, err := floorKey()
	if err != nil {
		t.Fatal(err)
	}
	b := append([]byte{0x41}, make([]byte, floorHeader-1)...)
	b = key.Seal(b, make([]byte, 100), b, 0)
	key.ProtectHeader(b, floorHeader-floorPNLen, floorPNLen)
	if n, err := floorOpen(key, b); n != 100 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := floorOpen(key, b[:20]); err == nil {
		t.Error("a short datagram was opened")
	}
}

func TestAttribute(t *testing.T) {
	const traces = `File: x
-----------+-----
      30ms   gcmAesEnc
             protect.(*Key).Seal
             quic.(*Conn).flush
-----------+-----
      50ms   Syscall6
             udp.(*Socket).Send
             quic.(*Conn).flush
-----------+-----
      20ms   runtime.futex
`
	hops := senderHops()
	attribute(hops, traces)
	for _, h := range hops {
		want := map[string]float64{"AEAD: seal from chunk to batch": 30, "sendmsg with UDP_SEGMENT": 50, "scheduler, memory, the rest": 20}[h.name]
		if h.share != want {
			t.Errorf("%s: %v %%, want %v", h.name, h.share, want)
		}
	}
	if svg := drawPath(hops, receiverHops()); !strings.HasPrefix(svg, "<svg ") || !strings.Contains(svg, "50.0 %") {
		t.Error("no picture")
	}
}

func TestMedian(t *testing.T) {
	var m []measured
	for _, v := range []float64{5, 1, 3} {
		var x measured
		x.client.Gbps = v
		m = append(m, x)
	}
	gbps := func(m measured) float64 { return m.client.Gbps }
	if median(m, gbps) != 3 || median(m[:2], gbps) != 3 || median(nil, gbps) != 0 {
		t.Error("median")
	}
}

// TestProxy holds the proxy's delay and its order.
func TestProxy(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	in, out := make(chan []byte, 8), make(chan []byte, 8)
	began := time.Now()
	go carry(ctx, 20*time.Millisecond, 0, func(p []byte) (int, error) {
		select {
		case b := <-in:
			return copy(p, b), nil
		case <-ctx.Done():
			return 0, net.ErrClosed
		}
	}, func(p []byte) { out <- append([]byte(nil), p...) })
	for i := range 5 {
		in <- []byte{byte(i)}
	}
	for i := range 5 {
		if b := <-out; b[0] != byte(i) {
			t.Fatalf("%d came as number %d", b[0], i)
		}
	}
	if d := time.Since(began); d < 20*time.Millisecond {
		t.Errorf("delayed by %v only", d)
	}
}
