package simnet_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/simnet"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

const (
	datagram    = 1200
	maxAckDelay = 25 * time.Millisecond
)

// transfer moves total datagrams over a link with the loss recovery of
// quic/recovery: each datagram is a packet number and the number of a chunk,
// and a lost chunk goes out again in another packet.
type transfer struct {
	t        *testing.T
	conn     *simnet.Endpoint
	peer     netip.AddrPort
	loss     recovery.Loss
	rtt      recovery.RTT
	cc       recovery.Controller
	pacer    recovery.Pacer
	state    recovery.State
	again    []uint64 // chunks lost
	next     uint64
	total    uint64
	done     map[uint64]bool
	lost     int
	probes   int
	minCwnd  int
	overshot bool
}

func (s *transfer) run(frames <-chan []byte) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for uint64(len(s.done)) < s.total {
		wake := s.send()
		if d, _ := s.loss.Deadline(time.Now(), &s.rtt, s.state); !d.IsZero() && (wake.IsZero() || d.Before(wake)) {
			wake = d
		}
		if !wake.IsZero() {
			timer.Reset(time.Until(wake))
		}
		select {
		case b := <-frames:
			s.ack(b)
		case <-timer.C:
			now := time.Now()
			if d, _ := s.loss.Deadline(now, &s.rtt, s.state); !d.IsZero() && !d.After(now) {
				space, n := s.loss.OnTimeout(now, &s.rtt, s.state, s.cc, s.onLost)
				for range n {
					s.probes++
					s.packet(now, space)
				}
			}
		}
		s.minCwnd = min(s.minCwnd, s.cc.Window())
	}
}

// send sends what window and pacer allow and returns when to go on.
func (s *transfer) send() time.Time {
	now := time.Now()
	for {
		if s.next == s.total && len(s.again) == 0 {
			s.loss.SetAppLimited(true)
			return time.Time{}
		}
		s.loss.SetAppLimited(false)
		if !s.cc.CanSend(s.loss.InFlight()) {
			return time.Time{}
		}
		if s.pacer.Budget(now, s.cc.PacingRate(s.rtt.Smoothed())) < datagram {
			return s.pacer.Next(now, s.pacer.Quantum())
		}
		s.packet(now, recovery.AppData)
		s.overshot = s.overshot || s.loss.InFlight() > s.cc.Window()
	}
}

func (s *transfer) packet(now time.Time, space recovery.Space) {
	chunk := s.next
	switch {
	case len(s.again) > 0:
		chunk, s.again = s.again[0], s.again[1:]
	case s.next < s.total:
		s.next++
	default:
		chunk = s.total // a probe with nothing new
	}
	p := recovery.SentPacket{PN: s.loss.NextPN(space), Size: datagram, AckEliciting: true, ECN: s.loss.ECNMark()}
	p.Add(recovery.Record{Off: chunk})
	data := make([]byte, datagram)
	binary.BigEndian.PutUint64(data, p.PN)
	m := udp.SendMsg{Data: data, Remote: s.peer}
	if p.ECN {
		m.ECN = udp.ECT0
	}
	if err := s.conn.Send(&m); err != nil {
		s.t.Error(err)
	}
	p.SendState = s.cc.OnSent(now, datagram, s.loss.InFlight())
	s.loss.Sent(now, space, &p)
	s.pacer.Sent(now, datagram)
}

func (s *transfer) onLost(p *recovery.SentPacket) {
	s.lost++
	if chunk := p.At(0).Off; chunk < s.total && !s.done[chunk] {
		s.again = append(s.again, chunk)
	}
}

// ack reads what receiver writes: delay, ECN counts, ranges.
func (s *transfer) ack(b []byte) {
	next := func() uint64 { v := binary.BigEndian.Uint64(b); b = b[8:]; return v }
	delay := time.Duration(next())
	ecn := &[3]uint64{next(), next(), next()}
	var ranges []recovery.AckRange
	for len(b) > 0 {
		ranges = append(ranges, recovery.AckRange{Smallest: next(), Largest: next()})
	}
	_, err := s.loss.Ack(time.Now(), recovery.AppData, ranges, ecn, delay, s.state, &s.rtt, s.cc, func(p *recovery.SentPacket) {
		if chunk := p.At(0).Off; chunk < s.total {
			s.done[chunk] = true
			s.again = slices.DeleteFunc(s.again, func(c uint64) bool { return c == chunk })
		}
	}, s.onLost)
	if err != nil {
		s.t.Error(err)
	}
}

// receive acknowledges what comes to conn.
func receive(conn *simnet.Endpoint) {
	var r recovery.Received
	r.Init(recovery.AppData, maxAckDelay)
	in := make(chan udp.RecvMsg)
	go func() {
		defer close(in)
		for {
			m := udp.RecvMsg{Buf: make([]byte, udp.MinRecvBuffer)}
			if conn.Recv(&m) != nil {
				return
			}
			in <- m
		}
	}()
	var peer netip.AddrPort
	timer := time.NewTimer(time.Hour)
	for {
		select {
		case m, ok := <-in:
			if !ok {
				return
			}
			peer = m.Remote
			r.Add(time.Now(), binary.BigEndian.Uint64(m.Buf), true, m.ECN)
		case <-timer.C:
		}
		now := time.Now()
		d := r.AckDeadline()
		if d.IsZero() {
			continue
		}
		if d.After(now) {
			timer.Reset(d.Sub(now))
			continue
		}
		b := binary.BigEndian.AppendUint64(nil, uint64(r.Delay(now)))
		ecn := r.ECNCounts()
		if ecn == nil {
			ecn = &[3]uint64{}
		}
		for _, v := range ecn {
			b = binary.BigEndian.AppendUint64(b, v)
		}
		for _, v := range r.Ranges() {
			b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, v.Smallest), v.Largest)
		}
		if conn.Send(&udp.SendMsg{Data: b, Remote: peer}) == nil {
			r.OnAckSent(now)
		}
	}
}

// TestTransfer is loss recovery, congestion control and pacing at work on links
// of many kinds: every transfer ends, at a speed the link deserves.
func TestTransfer(t *testing.T) {
	const ms = time.Millisecond
	tests := []struct {
		name    string
		p       simnet.Params
		total   uint64
		atMost  time.Duration
		maxLost int // 0: any
		ecn     bool
	}{
		// 12.5 MB/s: 10000 datagrams take 0.96 s. Slow start goes to twice what
		// path and queue hold, 1.3 MB, and loses the half of it.
		{"100 Mbit/s", simnet.Params{Delay: 10 * ms, Rate: 12_500_000, Queue: 1 << 20}, 10_000, 1200 * ms, 1300, false},
		{"shallow queue", simnet.Params{Delay: 10 * ms, Rate: 12_500_000, Queue: 64 << 10}, 10_000, 3 * time.Second, 0, false},
		{"marking queue", simnet.Params{Delay: 10 * ms, Rate: 12_500_000, Queue: 1 << 20, MarkAt: 100 << 10}, 10_000, 2 * time.Second, 1, true},
		{"loopback", simnet.Params{Delay: 20 * time.Microsecond}, 10_000, 50 * ms, 1, false},
		{"10 Gbit/s LAN", simnet.Params{Delay: 100 * time.Microsecond, Rate: 1_250_000_000, Queue: 4 << 20}, 50_000, 100 * ms, 0, false},
		{"1 % loss", simnet.Params{Delay: 10 * ms, Loss: 0.01}, 5000, 15 * time.Second, 200, false},
		{"20 % loss both ways", simnet.Params{Delay: 10 * ms, Loss: 0.2}, 500, time.Minute, 0, false},
		{"runs of loss", simnet.Params{Delay: 10 * ms, Loss: 0.005, LossRun: 8}, 2000, time.Minute, 0, false},
		{"reordered and doubled", simnet.Params{Delay: 10 * ms, Jitter: 2 * ms, Reorder: 0.02, ReorderBy: 2 * ms, Duplicate: 0.1}, 3000, 15 * time.Second, 0, false},
		{"no ECN on the path", simnet.Params{Delay: 10 * ms, ECN: simnet.ECNDropAll}, 1000, 5 * time.Second, 0, true},
		{"all CE", simnet.Params{Delay: 10 * ms, ECN: simnet.ECNAllCE}, 1000, 5 * time.Second, 1, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, took := move(t, tt.p, tt.total, tt.ecn)
				t.Logf("%d chunks in %v, %d lost, %d probes, %v, srtt %v", tt.total, took, s.lost, s.probes, s.cc, s.rtt.Smoothed())
				if took > tt.atMost {
					t.Errorf("took %v, want at most %v", took, tt.atMost)
				}
				if tt.maxLost > 0 && s.lost >= tt.maxLost {
					t.Errorf("%d packets lost, want less than %d", s.lost, tt.maxLost)
				}
				if s.minCwnd < 2*datagram || s.overshot {
					t.Errorf("window down to %d, overshot %v", s.minCwnd, s.overshot)
				}
			})
		})
	}
}

func move(t *testing.T, p simnet.Params, total uint64, ecn bool) (*transfer, time.Duration) {
	t.Helper()
	n := simnet.New(11, p)
	defer n.Close()
	a, err := n.Listen(netip.MustParseAddrPort("192.0.2.1:1"), simnet.Options{ECN: true})
	if err != nil {
		t.Fatal(err)
	}
	b, err := n.Listen(netip.MustParseAddrPort("192.0.2.2:2"), simnet.Options{ECN: true, RecvBuffer: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	s := &transfer{t: t, conn: a, peer: b.LocalAddr(), cc: recovery.NewNewReno(datagram), total: total, done: map[uint64]bool{}, minCwnd: 1 << 30}
	s.state = recovery.State{Confirmed: true, HasHandshakeKeys: true, PeerValidated: true}
	s.rtt.Init(0)
	s.loss.Init(maxAckDelay)
	s.loss.SetRandom(func(n uint64) uint64 { return n / 2 })
	s.pacer.Init(datagram)
	if ecn {
		s.loss.EnableECN()
	}
	frames := make(chan []byte, 1024)
	ended := make(chan struct{})
	go receive(b)
	go func() {
		defer close(frames)
		m := udp.RecvMsg{Buf: make([]byte, udp.MinRecvBuffer)}
		for a.Recv(&m) == nil {
			select {
			case frames <- slices.Clone(m.Buf[:m.N]):
			case <-ended:
				return
			}
		}
	}()
	start := time.Now()
	s.run(frames)
	took := time.Since(start)
	close(ended)
	n.Close()
	for range frames {
		continue
	}
	return s, took
}
