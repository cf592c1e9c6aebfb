package quic

import (
	"bytes"
	"context"
	"io"
	"strconv"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// zeros is an endless source that costs nothing.
type zeros struct{ n int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.n == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), z.n))
	z.n -= int64(n)
	return n, nil
}

// BenchmarkBulk moves one stream over loopback, both ends in this process, in
// datagrams of Ethernet's size, of jumbo frames, and as large as loopback takes.
func BenchmarkBulk(b *testing.B) {
	for _, payload := range []int{1400, jumboDatagram, 0} {
		b.Run(map[bool]string{true: "auto", false: strconv.Itoa(payload)}[payload == 0], func(b *testing.B) { bulk(b, payload) })
	}
}

func bulk(b *testing.B, payload int) {
	scfg, ccfg := serverConfig(), clientConfig()
	scfg.MaxUDPPayload, ccfg.MaxUDPPayload = payload, payload
	client, server := connect(b, scfg, ccfg)
	ctx := testContext(b)
	const size = 256 << 20
	b.SetBytes(size)
	start := cpuSeconds()
	for b.Loop() {
		move(b, ctx, client, server, size)
	}
	gib := float64(b.N) * size / (1 << 30)
	b.ReportMetric((cpuSeconds()-start)/gib, "cpu-s/GiB(both)")
	st, rt := client.Stats(), server.Stats()
	b.ReportMetric(float64(st.StreamBytesCopied)/(gib*(1<<30)), "tx-copies/byte")
	b.ReportMetric(float64(rt.StreamBytesCopied)/(gib*(1<<30)), "rx-copies/byte")
	b.ReportMetric(float64(st.DatagramsSent)/float64(st.Batches), "datagrams/batch")
	b.Logf("client %+v", st)
}

// BenchmarkExchange is a request of 512 bytes and an answer of 4096 on a stream of
// their own, one in flight, over loopback.
func BenchmarkExchange(b *testing.B) {
	client, server := connect(b, serverConfig(), clientConfig())
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	answer := make([]byte, 4096)
	go func() {
		request := make([]byte, 1024)
		for {
			s, err := server.AcceptStream(ctx)
			if err != nil {
				return
			}
			for err == nil {
				_, err = s.Read(request)
			}
			if _, err := s.SendAll(bytes.NewReader(answer)); err != nil {
				return
			}
		}
	}()
	request, got := make([]byte, 512), make([]byte, 8192)
	b.ReportAllocs()
	start := cpuSeconds()
	for b.Loop() {
		s, err := client.OpenStream(ctx)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.SendAll(bytes.NewReader(request)); err != nil {
			b.Fatal(err)
		}
		n := 0
		for err == nil {
			var k int
			k, err = s.Read(got)
			n += k
		}
		if n != len(answer) || err != io.EOF {
			b.Fatal(n, err)
		}
	}
	b.ReportMetric((cpuSeconds()-start)*1e9/float64(b.N), "cpu-ns/op(both)")
}

// BenchmarkRecvBuf puts a batch of 46 pieces in order and takes views of it.
func BenchmarkRecvBuf(b *testing.B) {
	const n, size = 46, 1370
	var a accounts
	var r recvBuf
	var store [maxViews][]byte
	data := make([]byte, size)
	b.SetBytes(n * size)
	b.ReportAllocs()
	for b.Loop() {
		buf := udp.NewBuffer()
		a.batchBuf, a.batchBig, a.batch = buf, true, nil
		for range n {
			if err := r.insert(&a, r.end, data); err != nil {
				b.Fatal(err)
			}
		}
		a.batch = nil
		buf.Release()
		if views := r.views(store[:0], maxViews, maxViewBytes); len(views) != n {
			b.Fatal(len(views))
		}
		r.consume(&a, n*size)
	}
}

// BenchmarkSendBuf writes a chunk, sends it in packets and has them acknowledged.
func BenchmarkSendBuf(b *testing.B) {
	const n, size = 46, 1370
	var s sendBuf
	b.SetBytes(n * size)
	b.ReportAllocs()
	for b.Loop() {
		s.grow(s.roomy(), n*size)
		for s.next < s.end {
			s.find(s.next)
			s.sent(s.next, s.next+size)
		}
		for s.start < s.end {
			s.ack(s.start, s.start+size)
		}
	}
}
