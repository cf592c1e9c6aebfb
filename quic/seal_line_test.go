package quic

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// connectSealers is connect with sealers at the client.
func connectSealers(t testing.TB, n int) (client, server *Conn) {
	t.Helper()
	ccfg := clientConfig()
	ccfg.MaxUDPPayload = 1400
	ep, from := newLoopback(t, serverConfig()), newLoopback(t, nil, WithSealers(n))
	ctx := sealersContext(t)
	client, err := from.Dial(ctx, ep.LocalAddr(), ccfg)
	if err != nil {
		t.Fatal(err)
	}
	if server, err = ep.Accept(ctx); err != nil {
		t.Fatal(err)
	}
	return client, server
}

// sealersContext leaves a busy machine time for what is sealed under the race detector.
func sealersContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// TestSealers sends several streams at once, in writes of all sizes, through
// batches that others seal: every byte arrives, and nothing is refused. With key
// updates in between, more of them than RFC 9001 wants (Section 6.5), packets of
// a phase whose keys are not ready yet are lost, and sent again.
func TestSealers(t *testing.T) {
	t.Run("one key", func(t *testing.T) { testSealers(t, false) })
	t.Run("key updates", func(t *testing.T) { testSealers(t, true) })
}

func testSealers(t *testing.T, updates bool) {
	client, server := connectSealers(t, 2)
	ctx := sealersContext(t)
	const streams, size = 4, 6 << 20
	var wg sync.WaitGroup
	sums := make([][32]byte, streams)
	for i := range streams {
		wg.Go(func() {
			s, err := client.OpenUniStream(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			r := rand.New(rand.NewPCG(uint64(i), 1))
			data := make([]byte, size)
			for j := range data {
				data[j] = byte(r.Uint32())
			}
			sums[s.ID()>>2] = sha256.Sum256(data)
			for len(data) > 0 {
				n := min(len(data), 1+r.IntN(600<<10))
				if _, err := io.Copy(s, io.MultiReader(bytes.NewReader(data[:n/2]), bytes.NewReader(data[n/2:n]))); err != nil {
					t.Error(err)
					return
				}
				data = data[n:]
				if updates {
					_ = client.UpdateKeys() // often too early, and refused
				}
			}
			if err := s.CloseWrite(); err != nil {
				t.Error(err)
			}
		})
	}
	for range streams {
		s, err := server.AcceptUniStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			h := sha256.New()
			if n, err := io.Copy(h, s); err != nil || n != size {
				t.Errorf("stream %d: %d bytes, %v", s.ID(), n, err)
				return
			}
			if !bytes.Equal(h.Sum(nil), sums[s.ID()>>2][:]) {
				t.Errorf("stream %d is not what was sent", s.ID())
			}
		})
	}
	wg.Wait()
	st := client.Stats()
	t.Logf("%d batches, %d of them sealed by others, %d key updates", st.Batches, st.BatchesSealedAside, st.KeyUpdates)
	if st.BatchesSealedAside == 0 || client.ep.Stats().Sealer.TxSwError != 0 {
		t.Errorf("%d batches sealed by others, %+v", st.BatchesSealedAside, client.ep.Stats().Sealer)
	}
	if n := client.ep.Stats().BatchesSealedAside; n < st.BatchesSealedAside {
		t.Errorf("%d of them counted by the endpoint", n)
	}
	if updates && st.KeyUpdates == 0 {
		t.Error("no key update")
	}
	if drops := server.ep.Stats().Drops["decrypt"]; drops != 0 && !updates {
		t.Errorf("%d packets could not be opened", drops)
	}
}

// A sendRecorder notes the beginnings of the datagrams that are sent.
type sendRecorder struct {
	udp.PacketConn
	mu   sync.Mutex
	sent [][]byte
}

func (r *sendRecorder) Send(m *udp.SendMsg) error {
	before := m.Data
	err := r.PacketConn.Send(m)
	r.mu.Lock()
	defer r.mu.Unlock()
	for data := before[:m.Sent]; len(data) > 0; {
		n := len(data)
		if m.SegmentSize > 0 {
			n = min(n, m.SegmentSize)
		}
		r.sent = append(r.sent, bytes.Clone(data[:min(n, 64)]))
		data = data[n:]
	}
	return err
}

// TestSealersKeepOrder: whoever seals a batch, packets leave in the order of their
// numbers, each once.
func TestSealersKeepOrder(t *testing.T) {
	s, err := udp.ListenOne(netip.MustParseAddrPort("127.0.0.1:0"), udp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	out := &sendRecorder{PacketConn: s}
	from, ep := NewEndpoint([]udp.PacketConn{out}, nil, WithSealers(3)), newLoopback(t, serverConfig())
	ctx := sealersContext(t)
	ccfg := clientConfig()
	ccfg.MaxUDPPayload = 1400
	client, err := from.Dial(ctx, ep.LocalAddr(), ccfg)
	if err != nil {
		t.Fatal(err)
	}
	server, err := ep.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	move(t, ctx, client, server, 24<<20)
	client.lock()
	key, idLen := client.app.tx, client.dst().Len()
	client.unlock()
	out.mu.Lock()
	sent := out.sent
	out.mu.Unlock()
	last, packets := int64(-1), 0
	for i, b := range sent {
		if wire.IsLong(b[0]) {
			continue
		}
		n, truncated, ok := key.UnprotectHeader(b, 1+idLen)
		if !ok {
			t.Fatalf("datagram %d has no header", i)
		}
		pn := int64(wire.DecodePacketNumber(last, truncated, n))
		if pn <= last {
			t.Fatalf("packet %d was sent behind packet %d", pn, last)
		}
		last = pn
		packets++
	}
	st := client.Stats()
	t.Logf("%d packets in %d batches, %d of them sealed by others", packets, st.Batches, st.BatchesSealedAside)
	if st.BatchesSealedAside == 0 || packets < 24<<20/1400 {
		t.Errorf("%d packets, %d batches sealed by others", packets, st.BatchesSealedAside)
	}
	_, _ = from.Close(ctx), ep.Close(ctx)
}

// TestSealersClose: a connection that is closed in the middle of it leaves nothing behind.
func TestSealersClose(t *testing.T) {
	for range 20 {
		client, server := connectSealers(t, 2)
		ctx := sealersContext(t)
		s, err := client.OpenUniStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			_, err := s.ReadFrom(&zeros{1 << 40})
			done <- err
		}()
		in, err := server.AcceptUniStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, in, 1<<20); err != nil {
			t.Fatal(err)
		}
		_ = client.CloseWithError(7, "enough")
		var ae *ApplicationError
		if err := <-done; !errors.As(err, &ae) {
			t.Errorf("the writer ended with %v", err)
		}
	}
}

func BenchmarkSealers(b *testing.B) {
	for _, n := range []int{0, 1} {
		b.Run(map[int]string{0: "none", 1: "one"}[n], func(b *testing.B) {
			client, server := connectSealers(b, n)
			ctx := sealersContext(b)
			const size = 128 << 20
			b.SetBytes(size)
			cpu := cpuSeconds()
			for b.Loop() {
				move(b, ctx, client, server, size)
			}
			b.ReportMetric((cpuSeconds()-cpu)/float64(b.N)*8, "cpu-s/GiB")
			st := client.Stats()
			b.ReportMetric(float64(st.BatchesSealedAside)/float64(st.Batches), "aside")
		})
	}
}
