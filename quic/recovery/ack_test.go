package recovery

import (
	"errors"
	"math"
	"testing"
	"time"
)

func TestAckInOrder(t *testing.T) {
	r := newRig(t)
	r.sendN(AppData, 10)
	r.wantInFlight(12000)
	r.at(50 * ms)
	res := r.ack(AppData, AckRange{8, 9}, AckRange{5, 6}, AckRange{0, 3})
	r.wantAcked(0, 1, 2, 3, 5, 6, 8, 9)
	// RFC 9002, Section 6.1: "The packet was sent kPacketThreshold packets
	// before an acknowledged packet"
	r.wantLost(4)
	r.wantInFlight(1200)
	if res.NewlyAcked != 8 || !res.LargestNewlyAcked || !res.RTTUpdated || res.Lost != 1 {
		t.Errorf("result %+v", res)
	}
	if r.rtt.Latest() != 50*ms || r.loss.LargestAcked(AppData) != 9 {
		t.Errorf("rtt %v, largest %d", r.rtt.Latest(), r.loss.LargestAcked(AppData))
	}
	// The same frame again brings nothing.
	if res := r.ack(AppData, AckRange{8, 9}, AckRange{5, 6}, AckRange{0, 3}); res != (AckResult{}) {
		t.Errorf("duplicate frame: %+v", res)
	}
	// An acknowledgment of a packet already lost changes nothing either.
	r.ack(AppData, AckRange{0, 9})
	r.wantAcked(7)
	r.wantInFlight(0)
	if n := r.loss.Tracked(AppData); n != 0 {
		t.Errorf("%d packets tracked after all", n)
	}
}

func TestRTTSampleConditions(t *testing.T) {
	quiet := SentPacket{Size: 40}
	full := SentPacket{Size: 1200, AckEliciting: true}
	tests := []struct {
		name   string
		sent   []SentPacket
		before []AckRange
		frame  []AckRange
		want   bool
	}{
		{"both", []SentPacket{full, full}, nil, []AckRange{{0, 1}}, true},
		// RFC 9002, Section 5.1: "an ACK frame SHOULD NOT be used to update RTT
		// estimates if it does not newly acknowledge the largest acknowledged
		// packet."
		{"largest is known", []SentPacket{full, full}, []AckRange{{1, 1}}, []AckRange{{0, 1}}, false},
		// RFC 9002, Section 5.1: "An RTT sample MUST NOT be generated on
		// receiving an ACK frame that does not newly acknowledge at least one
		// ack-eliciting packet."
		{"not ack-eliciting", []SentPacket{quiet, quiet}, nil, []AckRange{{0, 1}}, false},
		{"one is ack-eliciting", []SentPacket{full, quiet}, nil, []AckRange{{0, 1}}, true},
		{"the ack-eliciting one is known", []SentPacket{full, quiet}, []AckRange{{0, 0}}, []AckRange{{0, 1}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			for _, p := range tt.sent {
				r.sendPacket(AppData, p)
			}
			if tt.before != nil {
				r.ack(AppData, tt.before...)
			}
			r.at(30 * ms)
			if got := r.ack(AppData, tt.frame...).RTTUpdated; got != tt.want {
				t.Errorf("RTT updated %v, want %v", got, tt.want)
			}
		})
	}
}

// RFC 9002, Section 5.3: "MAY ignore the acknowledgment delay for Initial
// packets"
func TestAckDelayBySpace(t *testing.T) {
	for space, want := range map[Space]time.Duration{Initial: 60 * ms, Handshake: 50 * ms, AppData: 50 * ms} {
		r := newRig(t)
		r.state = State{PeerValidated: true}
		r.send(space)
		r.at(50 * ms)
		r.ack(space, AckRange{0, 0})
		r.send(space)
		r.at(180 * ms) // 130 ms
		r.ackDelayed(space, 80*ms, nil, AckRange{0, 1})
		if got := r.rtt.Smoothed(); got != want {
			t.Errorf("%v: smoothed %v, want %v", space, got, want)
		}
	}
}

func TestAckRefused(t *testing.T) {
	r := newRig(t)
	r.loss.skip.at = 5
	r.sendN(AppData, 10) // 0..4, 6..10
	tests := []struct {
		name   string
		ranges []AckRange
		want   error
	}{
		// RFC 9000, Section 13.1: "An endpoint SHOULD treat receipt of an
		// acknowledgment for a packet it did not send as a connection error of
		// type PROTOCOL_VIOLATION, if it is able to detect the condition."
		{"never sent", []AckRange{{11, 11}}, ErrAckUnsent},
		{"far", []AckRange{{0, math.MaxUint64}}, ErrAckUnsent},
		// RFC 9000, Section 21.4: "An endpoint MAY skip packet numbers when
		// sending packets to detect this behavior. An endpoint can then
		// immediately close the connection with a connection error of type
		// PROTOCOL_VIOLATION"
		{"skipped", []AckRange{{5, 5}}, ErrAckSkipped},
		{"skipped, among others", []AckRange{{0, 10}}, ErrAckSkipped},
		{"skipped, in a later range", []AckRange{{9, 10}, {3, 7}, {0, 0}}, ErrAckSkipped},
		{"skipped, at the end", []AckRange{{9, 10}, {3, 5}}, ErrAckSkipped},
		{"none", nil, ErrAckRanges},
		{"ascending", []AckRange{{0, 1}, {6, 7}}, ErrAckRanges},
		{"overlapping", []AckRange{{6, 10}, {4, 6}}, ErrAckRanges},
		{"adjacent", []AckRange{{3, 4}, {1, 2}}, ErrAckRanges},
		{"inverted", []AckRange{{4, 3}}, ErrAckRanges},
		{"below zero", []AckRange{{0, 4}, {math.MaxUint64 - 1, math.MaxUint64}}, ErrAckRanges},
		{"below one", []AckRange{{1, 4}, {0, math.MaxUint64}}, ErrAckRanges},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := r.tryAck(AppData, 0, nil, tt.ranges...); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if len(r.acked)+len(r.lost) != 0 || r.loss.InFlight() != 12000 || r.loss.LargestAcked(AppData) != -1 {
				t.Error("a refused frame changed something")
			}
		})
	}
	r.ack(AppData, AckRange{6, 10}, AckRange{0, 4})
	r.wantInFlight(0)
	if _, err := r.tryAck(Initial, 0, nil, AckRange{0, 0}); !errors.Is(err, ErrAckUnsent) {
		t.Errorf("another space: error %v", err)
	}
}

// Skipped numbers are remembered for long, and an honest peer is never accused.
func TestSkipping(t *testing.T) {
	r := newRig(t)
	r.loss.Init(0)
	seed := uint64(1)
	r.loss.SetRandom(func(n uint64) uint64 { seed = seed*6364136223846793005 + 1; return (seed >> 33) % n })
	skipped := []uint64{}
	next := uint64(0)
	for range 20000 {
		pn := r.loss.NextPN(AppData)
		if again := r.loss.NextPN(AppData); again != pn {
			t.Fatalf("NextPN gave %d and then %d", pn, again)
		}
		switch {
		case pn == next+1:
			skipped = append(skipped, next)
		case pn != next:
			t.Fatalf("number %d after %d", pn, next)
		}
		next = pn + 1
		r.send(AppData)
		if _, err := r.tryAck(AppData, 0, nil, AckRange{pn, pn}); err != nil {
			t.Fatal(err)
		}
	}
	if len(skipped) < 8 || skipped[0] > firstSkip {
		t.Fatalf("skipped %v", skipped)
	}
	for _, pn := range skipped {
		if _, err := r.tryAck(AppData, 0, nil, AckRange{pn, pn}); !errors.Is(err, ErrAckSkipped) {
			t.Errorf("acknowledging %d: %v", pn, err)
		}
	}
}

func TestPacketThreshold(t *testing.T) {
	for _, tt := range []struct {
		name string
		skip uint64
		ack  uint64
		lost []uint64
	}{
		// RFC 9002, Section 6.1.1: "implementations SHOULD NOT use a packet
		// threshold less than 3"
		{"two later", 1 << 60, 2, nil},
		{"three later", 1 << 60, 3, []uint64{0}},
		{"four later", 1 << 60, 4, []uint64{0, 1}},
		// RFC 9002, Appendix A.10: the packet threshold assumes that
		// the sender leaves no gaps holds for what is counted.
		{"two later and a gap", 2, 3, nil},
		{"three later and a gap", 2, 4, []uint64{0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.loss.skip.at = tt.skip
			r.sendN(AppData, 6)
			r.ack(AppData, AckRange{tt.ack, tt.ack})
			r.wantLost(tt.lost...)
		})
	}
}

func TestTimeThreshold(t *testing.T) {
	r := newRig(t)
	r.send(AppData)
	r.at(80 * ms)
	r.ack(AppData, AckRange{0, 0}) // an RTT of 80 ms
	r.send(AppData)                // 1, at 80
	r.at(100 * ms)
	r.send(AppData) // 2, at 100
	r.at(130 * ms)
	r.send(AppData) // 3, at 130
	r.at(165 * ms)
	r.ackDelayed(AppData, 0, nil, AckRange{2, 2}) // 65 ms: smoothed 78.125
	// RFC 9002, Section 6.1.2: "If packets sent prior to the largest
	// acknowledged packet cannot yet be declared lost, then a timer SHOULD be
	// set for the remaining time."
	r.wantLost()
	delay := r.rtt.lossDelay(timeThreshold)
	r.wantDeadline(80*ms+delay, false)
	r.at(80*ms + delay - 1)
	if _, probes := r.timeout(); probes != 0 {
		t.Fatal("a probe before the deadline")
	}
	r.wantLost()
	r.at(80*ms + delay)
	// RFC 9002, Section 6.1.2: "Once a later packet within the same packet
	// number space has been acknowledged, an endpoint SHOULD declare an earlier
	// packet lost if it was sent a threshold amount of time in the past."
	if _, probes := r.timeout(); probes != 0 {
		t.Fatal("the loss timer asks for probes")
	}
	r.wantLost(1)
	// RFC 9002, Section 6.1: "was sent prior to an acknowledged packet": packet
	// 3 was not.
	r.wantInFlight(1200)
}

func TestLostOnOtherPath(t *testing.T) {
	r := newRig(t)
	r.sendN(AppData, 5)
	r.loss.OnPathChange(1)
	r.wantInFlight(0)
	window := r.cc.Window()
	p := SentPacket{Size: 1200, AckEliciting: true, Path: 1}
	r.sendPacket(AppData, p) // 5
	r.wantInFlight(1200)
	r.at(40 * ms)
	// RFC 9002, Section 5.3: "Packets sent on other paths do not contribute RTT
	// samples to the current path, as described in Section 9.4 of
	// [QUIC-TRANSPORT]."
	if res := r.ack(AppData, AckRange{4, 4}); res.RTTUpdated {
		t.Error("a packet of the old path gave an RTT sample")
	}
	// RFC 9002, Section 7: "The congestion controller is per path, so packets
	// sent on other paths do not alter the current path's congestion
	// controller"
	r.wantLost(0, 1)
	r.wantWindow(window)
	r.wantInFlight(1200)
	if res := r.ack(AppData, AckRange{4, 5}); !res.RTTUpdated {
		t.Error("a packet of the new path gave no RTT sample")
	}
	r.wantWindow(window + 1200)
	r.wantInFlight(0)
}

// Back on a path whose packets are still out, they count again.
func TestPathStorm(t *testing.T) {
	r := newRig(t)
	r.sendN(AppData, 3)
	for i := range 1000 {
		r.loss.OnPathChange(uint8(i))
		if i%250 == 3 {
			r.sendPacket(AppData, SentPacket{Size: 1200, AckEliciting: true, Path: uint8(i)})
		}
	}
	r.loss.OnPathChange(0)
	r.wantInFlight(3600)
	r.ack(AppData, AckRange{0, 6})
	r.wantInFlight(0)
}

func TestPMTUProbeLoss(t *testing.T) {
	r := newRig(t)
	r.sendPacket(AppData, SentPacket{Size: 1452, AckEliciting: true, PMTUProbe: true})
	r.sendN(AppData, 4)
	r.wantInFlight(1452 + 4800)
	window := r.cc.Window()
	r.at(20 * ms)
	// RFC 9000, Section 14.4: "Loss of a QUIC packet that is carried in a PMTU
	// probe is therefore not a reliable indication of congestion and SHOULD NOT
	// trigger a congestion control reaction"
	r.ack(AppData, AckRange{1, 4})
	r.wantLost(0)
	r.wantInFlight(0)
	r.wantWindow(window + 4800)
}

func TestDropSpace(t *testing.T) {
	r := newRig(t)
	r.state = State{}
	r.sendN(Initial, 2)
	r.send(Handshake)
	r.at(time.Second)
	r.timeout()
	if r.loss.PTOCount() != 1 {
		t.Fatalf("PTO count %d", r.loss.PTOCount())
	}
	var gone []uint64
	r.loss.Drop(Initial, func(p *SentPacket) { gone = append(gone, p.PN) })
	// RFC 9002, Section 6.4: "The sender MUST discard all recovery state
	// associated with those packets and MUST remove them from the count of
	// bytes in flight."
	if len(gone) != 2 || gone[0] != 0 || gone[1] != 1 {
		t.Errorf("discarded %v", gone)
	}
	r.wantInFlight(1200)
	// RFC 9002, Section 6.2.2: "When Initial or Handshake keys are discarded,
	// the PTO and loss detection timers MUST be reset"
	if r.loss.PTOCount() != 0 {
		t.Errorf("PTO count %d", r.loss.PTOCount())
	}
	// An ACK frame that was on its way when the keys went is harmless, whatever
	// it says.
	if res, err := r.tryAck(Initial, 0, nil, AckRange{0, 77}); err != nil || res != (AckResult{}) {
		t.Errorf("ACK for a dropped space: %+v, %v", res, err)
	}
}

func TestOnRetry(t *testing.T) {
	r := newRig(t)
	r.state = State{}
	r.send(Initial)
	r.send(AppData) // 0-RTT
	r.at(time.Second)
	r.timeout()
	n := 0
	r.loss.OnRetry(func(*SentPacket) { n++ })
	// RFC 9002, Section 6.3: "Clients that receive a Retry packet reset
	// congestion control and loss recovery state, including resetting any
	// pending timers."
	if n != 2 || r.loss.InFlight() != 0 || r.loss.PTOCount() != 0 {
		t.Errorf("%d packets, %d bytes in flight, PTO count %d", n, r.loss.InFlight(), r.loss.PTOCount())
	}
	// RFC 9000, Section 17.2.5.3: "A client MUST NOT reset the packet number
	// for any packet number space after processing a Retry packet."
	if pn := r.loss.NextPN(Initial); pn != 1 {
		t.Errorf("next Initial is %d", pn)
	}
}

func TestNumberReuse(t *testing.T) {
	r := newRig(t)
	r.send(AppData)
	defer func() {
		if recover() == nil {
			t.Error("a packet number was used twice")
		}
	}()
	r.loss.Sent(r.now, AppData, &SentPacket{PN: 0})
}

// A peer that elicits acknowledgments for hours and never acknowledges one
// costs a bounded amount of memory, also behind a packet that stays in flight.
func TestAckOnlyPacketsAreReclaimed(t *testing.T) {
	for _, stuck := range []bool{false, true} {
		r := newRig(t)
		if stuck {
			r.send(AppData)
		}
		for i := range 100_000 {
			r.at(time.Duration(i) * 100 * ms)
			r.sendPacket(AppData, SentPacket{Size: 40})
		}
		if n := r.loss.Tracked(AppData); n > maxQuiet+1 {
			t.Errorf("stuck %v: %d packets tracked", stuck, n)
		}
		if n := len(r.loss.app.ring.buf); n > 2*maxQuiet {
			t.Errorf("stuck %v: ring of %d", stuck, n)
		}
		// All the same, an acknowledgment of everything is right.
		last := r.loss.NextPN(AppData) - 1
		r.ack(AppData, AckRange{0, last})
		if n := r.loss.Tracked(AppData); n != 0 || r.loss.InFlight() != 0 {
			t.Errorf("stuck %v: %d packets, %d bytes left", stuck, n, r.loss.InFlight())
		}
	}
}

func TestFull(t *testing.T) {
	r := newRig(t)
	for !r.loss.Full(AppData) {
		r.sendPacket(AppData, SentPacket{Size: 30, AckEliciting: true})
	}
	if n := r.loss.Tracked(AppData); n != maxTracked {
		t.Errorf("full with %d packets", n)
	}
	r.ack(AppData, AckRange{0, 9})
	if r.loss.Full(AppData) {
		t.Error("still full")
	}
}

// The work of an ACK frame does not depend on how much is in flight above it.
func TestAckWalkIsShort(t *testing.T) {
	r := newRig(t)
	r.sendN(AppData, 10000)
	for pn := uint64(0); pn < 9000; pn += 2 {
		r.ack(AppData, AckRange{pn, pn})
		front := r.loss.app.ring.at(0).PN
		if pn >= packetThreshold && front+packetThreshold <= pn {
			t.Fatalf("%d acknowledged and %d is still walked", pn, front)
		}
	}
}

func TestSteadyStateAllocations(t *testing.T) {
	r := newRig(t)
	var p SentPacket
	acked := func(q *SentPacket) { q.Records(func(Record) {}) }
	frame := make([]AckRange, 1)
	step := func() {
		for range 100 {
			p.Reset()
			p.Size, p.AckEliciting = 1200, true
			for i := range 5 {
				p.Add(Record{ID: uint64(i)})
			}
			p.PN = r.loss.NextPN(AppData)
			r.loss.Sent(r.now, AppData, &p)
			r.cc.OnSent(r.now, 1200, r.loss.InFlight())
		}
		r.now = r.now.Add(20 * ms)
		frame[0] = AckRange{p.PN - 49, p.PN}
		if _, err := r.loss.Ack(r.now, AppData, frame, nil, 0, r.state, &r.rtt, r.cc, acked, acked); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		step()
	}
	if n := testing.AllocsPerRun(20, step); n != 0 {
		t.Errorf("%v allocations in 100 packets", n)
	}
}

func FuzzAck(f *testing.F) {
	f.Add([]byte{10, 0, 3, 1, 1, 0, 200, 9})
	f.Add([]byte{1, 1, 1, 1, 255, 254, 3, 2, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newRig(t)
		seen := map[uint64]bool{}
		once := func(p *SentPacket) {
			if seen[p.PN] {
				t.Fatalf("packet %d reported twice", p.PN)
			}
			seen[p.PN] = true
		}
		for i := 0; i+3 < len(b); i += 4 {
			for range b[i] % 16 {
				r.sendPacket(AppData, SentPacket{Size: uint16(b[i+1]) + 40, AckEliciting: b[i+1]&3 != 0, Path: b[i+1] >> 7})
			}
			r.now = r.now.Add(time.Duration(b[i+2]) * ms)
			lo, hi := uint64(b[i+2]), uint64(b[i+3])
			frame := []AckRange{{lo, hi}, {lo / 2, lo / 2}}
			_, err := r.loss.Ack(r.now, AppData, frame, nil, 0, r.state, &r.rtt, r.cc, once, once)
			if err == nil && hi >= r.loss.NextPN(AppData) {
				t.Fatalf("acknowledged %d before it was sent", hi)
			}
			if b[i+3]&7 == 7 {
				r.loss.OnPathChange(b[i] & 1)
			}
			if d, _ := r.loss.Deadline(r.now, &r.rtt, r.state); !d.IsZero() && !d.After(r.now) {
				r.loss.OnTimeout(r.now, &r.rtt, r.state, r.cc, once)
			}
			r.checkCounts()
		}
	})
}

// checkCounts recounts what Loss keeps as sums.
func (r *rig) checkCounts() {
	r.t.Helper()
	bytes := 0
	for i := range NumSpaces {
		s := r.loss.space(i)
		eliciting, quiet := 0, 0
		for j := range s.ring.n {
			p := s.ring.at(j)
			if p.state != outstanding {
				continue
			}
			if p.AckEliciting {
				eliciting++
			}
			if !p.InFlight {
				quiet++
			} else if p.Path == r.loss.path {
				bytes += int(p.Size)
			}
		}
		if eliciting != s.eliciting || quiet != s.quiet {
			r.t.Fatalf("%v: %d eliciting and %d quiet counted as %d and %d", Space(i), eliciting, quiet, s.eliciting, s.quiet)
		}
	}
	if bytes != r.loss.inFlight {
		r.t.Fatalf("%d bytes in flight counted as %d", bytes, r.loss.inFlight)
	}
}

// BenchmarkSentAck is a packet's share of recovery in a bulk transfer: 1000
// packets in flight, 44 to a batch, one ACK frame a batch, with each controller.
func BenchmarkSentAck(b *testing.B) { benchmarkControllers(b, false) }

// BenchmarkSentAckLossy is the same with every tenth packet lost.
func BenchmarkSentAckLossy(b *testing.B) { benchmarkControllers(b, true) }

func benchmarkControllers(b *testing.B, lossy bool) {
	for _, a := range []Algorithm{NewReno, CUBIC, BBR} {
		b.Run(a.String(), func(b *testing.B) { benchmarkSentAck(b, a, lossy) })
	}
}

func benchmarkSentAck(b *testing.B, a Algorithm, lossy bool) {
	r := newRig(b)
	r.cc = NewController(a, 1200)
	const batch, window = 44, 1000
	var p SentPacket
	nothing := func(*SentPacket) {}
	frame := make([]AckRange, 0, 8)
	r.sendN(AppData, window)
	next := uint64(0)
	b.ReportAllocs()
	for i := 0; i < b.N; i += batch {
		for range batch {
			p.Reset()
			p.Size, p.AckEliciting, p.PN = 1200, true, r.loss.NextPN(AppData)
			p.Add(Record{Kind: 8, ID: 4, Off: p.PN * 1200, Len: 1180})
			p.SendState = r.cc.OnSent(r.now, 1200, r.loss.InFlight())
			r.loss.Sent(r.now, AppData, &p)
		}
		r.now = r.now.Add(ms)
		frame = frame[:0]
		for top := int(next) + batch - 1; top >= int(next); top -= 10 {
			if !lossy {
				frame = append(frame, AckRange{next, next + batch - 1})
				break
			}
			frame = append(frame, AckRange{uint64(max(top-8, int(next))), uint64(top)})
		}
		next += batch
		if _, err := r.loss.Ack(r.now, AppData, frame, nil, 0, r.state, &r.rtt, r.cc, nothing, nothing); err != nil {
			b.Fatal(err)
		}
	}
}
