package recovery

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func received(space Space, pns ...uint64) *Received {
	var r Received
	r.Init(space, 25*ms)
	for _, pn := range pns {
		r.Add(time.Unix(0, 0), pn, true, NotECT)
	}
	return &r
}

func TestReceivedRanges(t *testing.T) {
	tests := []struct {
		name string
		pns  []uint64
		want []AckRange
	}{
		{"none", nil, nil},
		{"one", []uint64{0}, []AckRange{{0, 0}}},
		{"ascending", []uint64{0, 1, 2}, []AckRange{{0, 2}}},
		{"descending", []uint64{5, 4, 3}, []AckRange{{3, 5}}},
		{"gap", []uint64{1, 2, 9}, []AckRange{{9, 9}, {1, 2}}},
		{"gap filled", []uint64{1, 3, 2}, []AckRange{{1, 3}}},
		{"duplicate", []uint64{4, 4, 1, 1}, []AckRange{{4, 4}, {1, 1}}},
		{"between", []uint64{1, 9, 5}, []AckRange{{9, 9}, {5, 5}, {1, 1}}},
		{"the largest number", []uint64{1<<62 - 1, 0}, []AckRange{{1<<62 - 1, 1<<62 - 1}, {0, 0}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := received(AppData, tt.pns...)
			if !slices.Equal(r.Ranges(), tt.want) {
				t.Errorf("ranges %v, want %v", r.Ranges(), tt.want)
			}
			for _, pn := range tt.pns {
				if !r.Duplicate(pn) {
					t.Errorf("%d is not a duplicate", pn)
				}
			}
		})
	}
}

// Any order of arrival gives the ranges of the set.
func TestReceivedRandom(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		r := received(AppData)
		set := map[uint64]bool{}
		for range 120 {
			pn := rnd.Uint64N(100)
			if r.Duplicate(pn) != set[pn] {
				t.Fatalf("Duplicate(%d) = %v", pn, !set[pn])
			}
			set[pn] = true
			r.Add(time.Unix(0, 0), pn, false, NotECT)
		}
		var want []AckRange
		for pn := uint64(0); pn < 100; pn++ {
			switch {
			case !set[pn]:
			case len(want) > 0 && want[0].Largest+1 == pn:
				want[0].Largest = pn
			default:
				want = slices.Insert(want, 0, AckRange{pn, pn})
			}
		}
		if !slices.Equal(r.Ranges(), want) {
			t.Fatalf("ranges %v, want %v", r.Ranges(), want)
		}
	}
}

func TestReceivedLimit(t *testing.T) {
	r := received(AppData)
	for pn := uint64(0); pn < 1000; pn += 2 {
		r.Add(time.Unix(0, 0), pn, true, NotECT)
	}
	// RFC 9000, Section 13.2.3: "A receiver limits the number of ACK Ranges
	// (Section 19.3.1) it remembers and sends in ACK frames"
	if n := len(r.Ranges()); n != maxRanges {
		t.Fatalf("%d ranges, want %d", n, maxRanges)
	}
	// RFC 9000, Section 13.2.3: "A receiver SHOULD include an ACK Range
	// containing the largest received packet number in every ACK frame."
	if got := r.Ranges()[0]; got != (AckRange{998, 998}) {
		t.Fatalf("first range %v", got)
	}
	// RFC 9000, Section 13.2.3: "A receiver MUST retain an ACK Range unless it
	// can ensure that it will not subsequently accept packets with numbers in
	// that range."
	lowest := r.Ranges()[maxRanges-1].Smallest
	for pn := uint64(0); pn < lowest; pn++ {
		if dup := r.Duplicate(pn); dup != (pn <= lowest-2) {
			t.Fatalf("Duplicate(%d) = %v, lowest kept is %d", pn, dup, lowest)
		}
	}
	// A packet older than all ranges that are kept is not accepted twice.
	r.Add(time.Unix(0, 0), lowest-1, true, NotECT)
	if !r.Duplicate(lowest - 1) {
		t.Fatalf("%d accepted twice", lowest-1)
	}
}

func TestReceivedDropBelow(t *testing.T) {
	r := received(AppData, 0, 1, 4, 5, 6, 9)
	// RFC 9000, Section 13.2.4: "When a packet containing an ACK frame is
	// acknowledged, the receiver can stop acknowledging packets less than or
	// equal to the Largest Acknowledged field in the sent ACK frame."
	r.DropBelow(5)
	if want := []AckRange{{9, 9}, {5, 6}}; !slices.Equal(r.Ranges(), want) {
		t.Fatalf("ranges %v, want %v", r.Ranges(), want)
	}
	if !r.Duplicate(3) || r.Duplicate(7) {
		t.Fatal("numbers below count as received, those above as they are")
	}
	r.DropBelow(2)
	r.DropBelow(100)
	if len(r.Ranges()) != 0 {
		t.Fatalf("ranges %v, want none", r.Ranges())
	}
	// RFC 9000, Section 13.2.3: "Receivers can discard all ACK Ranges, but they
	// MUST retain the largest packet number that has been successfully
	// processed"
	if pn, ok := r.Largest(); pn != 9 || !ok {
		t.Fatalf("largest %d %v, want 9", pn, ok)
	}
}

type arrival struct {
	pn        uint64
	eliciting bool
	ecn       uint8
}

func e(pn uint64) arrival { return arrival{pn, true, NotECT} }
func q(pn uint64) arrival { return arrival{pn, false, NotECT} }

// immediateCases are packets and the ACK frame they need.
var immediateCases = []struct {
	name  string
	space Space
	acked []arrival // before the last ACK frame
	after []arrival
	now   bool
	timer bool
}{
	// RFC 9000, Section 13.2.1: "An endpoint MUST acknowledge all
	// ack-eliciting Initial and Handshake packets immediately"
	{"initial", Initial, nil, []arrival{e(0)}, true, true},
	{"handshake", Handshake, nil, []arrival{e(0)}, true, true},
	// RFC 9000, Section 13.2.1: "and all ack-eliciting 0-RTT and 1-RTT
	// packets within its advertised max_ack_delay"
	{"one", AppData, nil, []arrival{e(0)}, false, true},
	// RFC 9000, Section 13.2.2: "A receiver SHOULD send an ACK frame after
	// receiving at least two ack-eliciting packets."
	{"two", AppData, nil, []arrival{e(0), e(1)}, true, true},
	{"one more", AppData, []arrival{e(0), e(1)}, []arrival{e(2)}, false, true},
	// RFC 9000, Section 13.2.1: "An endpoint MUST NOT send a
	// non-ack-eliciting packet in response to a non-ack-eliciting packet,
	// even if there are packet gaps that precede the received packet."
	{"quiet", AppData, []arrival{e(0)}, []arrival{q(1), q(7), q(3)}, false, false},
	// RFC 9000, Section 13.2.1: "when the received packet has a packet
	// number less than another ack-eliciting packet that has been received"
	{"late", AppData, []arrival{e(0), e(2)}, []arrival{e(1)}, true, true},
	{"late, before a quiet one", AppData, []arrival{e(0), q(2)}, []arrival{e(1)}, false, true},
	// RFC 9000, Section 13.2.1: "when the packet has a packet number larger
	// than the highest-numbered ack-eliciting packet that has been received
	// and there are missing packets between that packet and this packet."
	{"gap", AppData, []arrival{e(0)}, []arrival{e(2)}, true, true},
	{"gap of quiet packets", AppData, []arrival{e(0), q(1)}, []arrival{e(2)}, false, true},
	{"first is missing", AppData, nil, []arrival{e(1)}, true, true},
	// RFC 9000, Section 13.2.1: "packets marked with the ECN Congestion
	// Experienced (CE) codepoint in the IP header SHOULD be acknowledged
	// immediately"
	{"congestion", AppData, nil, []arrival{{0, true, CE}}, true, true},
	{"marked", AppData, nil, []arrival{{0, true, ECT0}}, false, true},
	{"duplicate", AppData, []arrival{e(0)}, []arrival{e(0)}, false, false},
}

func TestReceivedImmediate(t *testing.T) {
	for _, tt := range immediateCases {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Unix(100, 0)
			r := received(tt.space)
			for _, p := range tt.acked {
				r.Add(start, p.pn, p.eliciting, p.ecn)
			}
			if len(tt.acked) > 0 {
				r.OnAckSent(start)
			}
			if r.NeedAckNow() || r.Pending() || !r.AckDeadline().IsZero() {
				t.Fatal("an ACK frame is due before anything arrived")
			}
			for i, p := range tt.after {
				r.Add(start.Add(time.Duration(i)*ms), p.pn, p.eliciting, p.ecn)
			}
			if r.NeedAckNow() != tt.now || r.Pending() != tt.timer {
				t.Errorf("now %v pending %v, want %v %v", r.NeedAckNow(), r.Pending(), tt.now, tt.timer)
			}
			want := time.Time{}
			switch {
			case tt.now:
				want = start
			case tt.timer:
				want = start.Add(25 * ms)
			}
			if got := r.AckDeadline(); !got.Equal(want) {
				t.Errorf("deadline %v, want %v", got, want)
			}
		})
	}
}

func TestReceivedDelay(t *testing.T) {
	start := time.Unix(100, 0)
	r := received(AppData)
	if r.Delay(start) != 0 {
		t.Error("delay of nothing")
	}
	r.Add(start, 5, true, NotECT)
	r.Add(start.Add(3*ms), 4, true, NotECT)
	// RFC 9000, Section 13.2.5: "An endpoint measures the delays intentionally
	// introduced between the time the packet with the largest packet number is
	// received and the time an acknowledgment is sent."
	if got := r.Delay(start.Add(10 * ms)); got != 10*ms || !r.LargestTime().Equal(start) {
		t.Errorf("delay %v, want 10ms", got)
	}
}

func TestReceivedECN(t *testing.T) {
	r := received(AppData)
	r.Add(time.Time{}, 0, true, NotECT)
	if r.ECNCounts() != nil {
		t.Fatal("counts without a marked packet")
	}
	for i, ecn := range []uint8{ECT0, ECT0, CE, ECT1, ECT0, NotECT} {
		r.Add(time.Time{}, uint64(i+1), true, ecn)
	}
	// RFC 9000, Section 13.4.1: "On receiving an IP packet with an ECT(0),
	// ECT(1), or ECN-CE codepoint, an ECN-enabled endpoint accesses the ECN
	// field and increases the corresponding ECT(0), ECT(1), or ECN-CE count."
	if got := *r.ECNCounts(); got != [3]uint64{3, 1, 1} {
		t.Fatalf("counts %v, want 3 1 1", got)
	}
	r.Add(time.Time{}, 3, true, CE)
	if got := *r.ECNCounts(); got != [3]uint64{3, 1, 1} {
		t.Fatalf("a duplicate changed the counts to %v", got)
	}
}

// RFC 9000, Section 13.2.4: "In such a case, a receiver could send a PING or
// other small ack-eliciting frame occasionally, such as once per round trip,
// to elicit an ACK from the peer."
func TestReceivedShouldElicit(t *testing.T) {
	r := received(AppData)
	elicited := 0
	for pn := range uint64(10 * elicitAcks) {
		r.Add(time.Time{}, pn, true, NotECT)
		r.OnAckSent(time.Time{})
		if r.ShouldElicit() {
			elicited++
			r.ElicitSent()
		}
	}
	// RFC 9000, Section 13.2.1: "In that case, an endpoint MUST NOT send an
	// ack-eliciting frame in all packets that would otherwise be
	// non-ack-eliciting, to avoid an infinite feedback loop of acknowledgments."
	if elicited != 10 {
		t.Errorf("elicited %d times in %d ACK frames, want 10", elicited, 10*elicitAcks)
	}
	for pn := uint64(1000); pn < 1000+2*elicitRanges; pn += 2 {
		r.Add(time.Time{}, pn, true, NotECT)
		r.OnAckSent(time.Time{})
	}
	if !r.ShouldElicit() {
		t.Error("many ranges and nothing elicited")
	}
	r.DropBelow(2000)
	if r.ShouldElicit() {
		t.Error("elicits although the peer has just acknowledged")
	}
}

func TestReceivedAllocations(t *testing.T) {
	r := received(AppData)
	pn := uint64(0)
	step := func() {
		for range 1000 {
			pn += 1 + pn%7/6
			r.Add(time.Time{}, pn, true, ECT0)
			if r.NeedAckNow() {
				r.OnAckSent(time.Time{})
			}
		}
	}
	step()
	if n := testing.AllocsPerRun(10, step); n != 0 {
		t.Errorf("%v allocations in 1000 packets", n)
	}
}

func FuzzReceived(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 200, 5, 6, 100})
	f.Add([]byte{255, 0, 254, 1, 253, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := received(AppData)
		for i, c := range b {
			switch {
			case i%11 == 10:
				r.DropBelow(uint64(c))
			case i%7 == 6:
				r.OnAckSent(time.Time{})
			default:
				pn := uint64(c) * uint64(1+i%3)
				r.Add(time.Time{}, pn, c&1 == 0, c&3)
				if !r.Duplicate(pn) {
					t.Fatalf("%d was added and is not a duplicate", pn)
				}
			}
			ranges := r.Ranges()
			if len(ranges) > maxRanges {
				t.Fatalf("%d ranges", len(ranges))
			}
			for j, v := range ranges {
				if v.Smallest > v.Largest || v.Smallest < r.floor || j > 0 && v.Largest+1 >= ranges[j-1].Smallest {
					t.Fatalf("ranges %v, floor %d", ranges, r.floor)
				}
			}
		}
	})
}

func BenchmarkReceivedInOrder(b *testing.B) {
	r := received(AppData)
	now := time.Unix(0, 0)
	b.ReportAllocs()
	for i := range b.N {
		r.Add(now, uint64(i), true, NotECT)
		if r.NeedAckNow() {
			r.OnAckSent(now)
		}
	}
}

// draft-ietf-quic-ack-frequency: an ACK frame for more than the threshold, a
// missing packet once enough others have overtaken it, and at once when asked.
func TestAckFrequency(t *testing.T) {
	var r Received
	now := time.Unix(1000, 0)
	r.Init(AppData, 25*ms)
	r.SetFrequency(4, 10*ms, 3)
	add := func(want bool, pns ...uint64) {
		t.Helper()
		for _, pn := range pns {
			r.Add(now, pn, true, NotECT)
		}
		if r.NeedAckNow() != want {
			t.Fatalf("after %d: due %v, want %v", pns, !want, want)
		}
		if want {
			r.OnAckSent(now)
		}
	}
	add(false, 0, 1, 2, 3)
	if got := r.AckDeadline(); !got.Equal(now.Add(10 * ms)) {
		t.Errorf("deadline in %v, want 10ms", got.Sub(now))
	}
	add(true, 4)
	add(false, 6, 7) // 5 is missing, and overtaken by two
	add(true, 8)
	add(false, 9)
	r.AckNow(now)
	add(true)
	r.SetFrequency(1000, 10*ms, 0)
	for pn := uint64(20); pn < 20+2*(maxAckEvery-1); pn += 2 {
		add(false, pn)
	}
	add(true, 10000)
	r.AckNow(now)
	add(true)
	r.SetFrequency(1, 25*ms, 1)
	add(false, 10001)
	add(true, 10002)
	add(true, 10004)
}
