package recovery

import (
	"testing"
	"time"
)

// sendMarked sends n packets, marked where ECNMark says so, and returns how
// many were.
func (r *rig) sendMarked(n int) (marked uint64) {
	for range n {
		p := SentPacket{Size: 1200, AckEliciting: true, ECN: r.loss.ECNMark(), Path: r.loss.path}
		if p.ECN {
			marked++
		}
		r.sendPacket(AppData, p)
	}
	return marked
}

func TestECNOff(t *testing.T) {
	r := newRig(t)
	if r.sendMarked(20) != 0 || r.loss.ECNFailed() {
		t.Error("marks without EnableECN")
	}
	r.ackDelayed(AppData, 0, &[3]uint64{5, 5, 5}, AckRange{0, 19})
	if r.loss.ECNMark() {
		t.Error("counts switched marking on")
	}
}

func TestECNCapable(t *testing.T) {
	r := newRig(t)
	r.loss.EnableECN()
	// RFC 9000, Section 13.4.2: "the endpoint could set an ECT codepoint for only
	// the first ten outgoing packets on a path"
	if n := r.sendMarked(15); n != ecnTestPackets {
		t.Fatalf("%d packets marked, want %d", n, ecnTestPackets)
	}
	// RFC 9000, Appendix A.4: "From the "unknown" state, successful validation of
	// the ECN counts in an ACK frame (see Section 13.4.2.1) causes the ECN state
	// for the path to become "capable", unless no marked packet has been acknowledged."
	r.ackDelayed(AppData, 0, &[3]uint64{}, AckRange{10, 11})
	if r.loss.ECNMark() || r.loss.ECNFailed() {
		t.Fatal("capable without a marked packet acknowledged")
	}
	r = newRig(t)
	r.loss.EnableECN()
	r.sendMarked(15)
	r.ackDelayed(AppData, 0, &[3]uint64{10, 0, 0}, AckRange{0, 14})
	if !r.loss.ECNMark() {
		t.Fatal("not capable")
	}
	if n := r.sendMarked(20); n != 20 {
		t.Fatalf("%d of 20 packets marked", n)
	}
	// RFC 9002, Section 7.1: "QUIC treats a Congestion Experienced (CE) codepoint
	// in the IP header as a signal of congestion."
	r.at(10 * ms)
	window := r.cc.Window()
	res := r.ackDelayed(AppData, 0, &[3]uint64{29, 0, 1}, AckRange{15, 34})
	if !res.Congested {
		t.Error("the CE count rose unnoticed")
	}
	r.wantWindow(window / 2)
	if !r.loss.ECNMark() {
		t.Error("a congestion mark disabled ECN")
	}
}

func TestECNFails(t *testing.T) {
	tests := []struct {
		name   string
		counts *[3]uint64
		want   bool
	}{
		{"right", &[3]uint64{10, 0, 0}, false},
		{"some congestion", &[3]uint64{7, 0, 3}, false},
		// RFC 9000, Section 13.4.2.1: "ECN validation fails if the corresponding
		// ECN counts are not present in the ACK frame."
		{"no counts", nil, true},
		// RFC 9000, Section 13.4.2.1: "ECN validation also fails if the sum of
		// the increase in ECT(0) and ECN-CE counts is less than the number of
		// newly acknowledged packets that were originally sent with an ECT(0)
		// marking."
		{"too few", &[3]uint64{8, 0, 1}, true},
		{"none", &[3]uint64{}, true},
		// RFC 9000, Section 13.4.2.1: "ECN validation can fail if the received
		// total count for either ECT(0) or ECT(1) exceeds the total number of
		// packets sent with each corresponding ECT codepoint."
		{"too many", &[3]uint64{11, 0, 0}, true},
		{"too many with CE", &[3]uint64{10, 0, 1}, true},
		{"absurd", &[3]uint64{1 << 61, 0, 1 << 61}, true},
		// RFC 9000, Section 13.4.2.1: "validation will fail when an endpoint
		// receives a non-zero ECN count corresponding to an ECT codepoint that
		// it never applied."
		{"ECT(1)", &[3]uint64{10, 1, 0}, true},
		// RFC 9000, Appendix A.4: "An endpoint can also mark the ECN state for a
		// path as "failed" if marked packets are all declared lost or if they
		// are all ECN-CE marked."
		{"all CE", &[3]uint64{0, 0, 10}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.loss.EnableECN()
			r.sendMarked(12)
			r.ackDelayed(AppData, 0, tt.counts, AckRange{0, 11})
			if r.loss.ECNFailed() != tt.want {
				t.Fatalf("failed %v, want %v", r.loss.ECNFailed(), tt.want)
			}
			// RFC 9000, Section 13.4.2.2: "If validation fails, then the endpoint
			// MUST disable ECN."
			if r.loss.ECNMark() == tt.want {
				t.Errorf("marking %v", r.loss.ECNMark())
			}
			// Either way data flows on.
			r.sendMarked(5)
			if res := r.ackDelayed(AppData, 0, tt.counts, AckRange{0, 16}); res.NewlyAcked != 5 {
				t.Errorf("%d acknowledged", res.NewlyAcked)
			}
		})
	}
}

// Lies told by a path that was capable end in ECN being disabled, and the
// window recovers.
func TestECNLies(t *testing.T) {
	for name, lie := range map[string]func(i uint64) *[3]uint64{
		"all CE":     func(i uint64) *[3]uint64 { return &[3]uint64{10, 0, i * 4} },
		"decreasing": func(i uint64) *[3]uint64 { return &[3]uint64{10 - min(i, 10), 0, 0} },
		"gone":       func(uint64) *[3]uint64 { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.loss.EnableECN()
			r.sendMarked(10)
			r.ackDelayed(AppData, 0, &[3]uint64{10, 0, 0}, AckRange{0, 9})
			for i := uint64(1); i <= 100; i++ {
				r.now = r.now.Add(20 * ms)
				r.sendMarked(4)
				last := r.loss.NextPN(AppData) - 1
				r.now = r.now.Add(20 * ms)
				r.ackDelayed(AppData, 0, lie(i), AckRange{0, last})
			}
			if !r.loss.ECNFailed() {
				t.Error("still marking")
			}
			if r.cc.Window() < 12000 {
				t.Errorf("window stuck at %d", r.cc.Window())
			}
		})
	}
}

// RFC 9000, Section 13.4.2.1: "An endpoint MUST NOT fail ECN validation as a
// result of processing an ACK frame that does not increase the largest
// acknowledged packet number."
func TestECNReorderedFrame(t *testing.T) {
	r := newRig(t)
	r.loss.EnableECN()
	r.sendMarked(12)
	r.ackDelayed(AppData, 0, &[3]uint64{2, 0, 0}, AckRange{2, 2}, AckRange{0, 0})
	r.ackDelayed(AppData, 0, &[3]uint64{1, 0, 0}, AckRange{0, 2})
	if r.loss.ECNFailed() {
		t.Error("a reordered frame failed the validation")
	}
}

// RFC 9000, Section 13.4.2: "If all packets marked with non-zero ECN codepoints
// are subsequently lost, it can disable marking on the assumption that the
// marking caused the loss."
func TestECNBlackhole(t *testing.T) {
	r := newRig(t)
	r.loss.EnableECN()
	r.sendMarked(20) // ten of them marked, and lost
	r.ackDelayed(AppData, 0, nil, AckRange{13, 19})
	if !r.loss.ECNFailed() {
		t.Error("still marking")
	}
	// A handshake does not wait for ten losses: probes are not marked.
	r = newRig(t)
	r.state = State{}
	r.loss.EnableECN()
	r.sendMarked(1)
	r.send(Initial)
	r.at(2 * time.Second)
	if _, probes := r.timeout(); probes == 0 || r.loss.ECNMark() {
		t.Error("the probe is marked")
	}
}

func TestECNPathChange(t *testing.T) {
	r := newRig(t)
	r.loss.EnableECN()
	r.sendMarked(10)
	r.ack(AppData, AckRange{0, 9})
	if !r.loss.ECNFailed() {
		t.Fatal("not failed")
	}
	// RFC 9000, Section 13.4.2: "An endpoint thus attempts to use ECN and
	// validates this for each new connection, when switching to a server's
	// preferred address, and on active connection migration to a new path."
	r.loss.OnPathChange(1)
	if n := r.sendMarked(10); n != 10 {
		t.Fatalf("%d of 10 packets marked on the new path", n)
	}
	r.ackDelayed(AppData, 0, &[3]uint64{10, 0, 0}, AckRange{0, 19})
	if !r.loss.ECNMark() {
		t.Error("the new path is not capable")
	}
}
