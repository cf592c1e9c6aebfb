package recovery

import (
	"strings"
	"testing"
	"time"
)

func TestInitialWindow(t *testing.T) {
	// RFC 9002, Section 7.2: "ten times the maximum datagram size
	// (max_datagram_size), while limiting the window to the larger of 14,720
	// bytes or twice the maximum datagram size."
	for md, want := range map[int]int{1200: 12000, 1452: 14520, 1472: 14720, 1500: 14720, 8000: 16000, 65000: 130000} {
		c := NewNewReno(md)
		if c.Window() != want {
			t.Errorf("datagrams of %d: window %d, want %d", md, c.Window(), want)
		}
		// RFC 9002, Section 7: "An endpoint MUST NOT send a packet if it would
		// cause bytes_in_flight (see Appendix B.2) to be larger than the
		// congestion window"
		if !c.CanSend(0) || !c.CanSend(want-md) || c.CanSend(want-md+1) {
			t.Errorf("datagrams of %d: CanSend is off", md)
		}
	}
}

func TestSetMaxDatagram(t *testing.T) {
	c := NewNewReno(1200)
	// RFC 9002, Section 7.2: "If the maximum datagram size changes during the
	// connection, the initial congestion window SHOULD be recalculated with the
	// new size."
	c.SetMaxDatagram(1452)
	if c.Window() != 14520 {
		t.Errorf("window %d, want 14520", c.Window())
	}
	c.OnLost(time.Unix(9, 0), time.Unix(8, 0), 1)
	c.SetMaxDatagram(1200)
	if c.Window() != 7260 {
		t.Errorf("window %d, want 7260", c.Window())
	}
	c.SetMaxDatagram(9000)
	if c.Window() != 18000 {
		t.Errorf("window %d, want two datagrams", c.Window())
	}
}

func TestSlowStart(t *testing.T) {
	r := newRig(t)
	r.sendN(AppData, 10)
	r.at(50 * ms)
	// RFC 9002, Section 7.3.1: "While a sender is in slow start, the congestion
	// window increases by the number of bytes acknowledged when each
	// acknowledgment is processed."
	r.ack(AppData, AckRange{0, 3})
	r.wantWindow(12000 + 4800)
	r.ack(AppData, AckRange{0, 9})
	r.wantWindow(24000)
	if got := r.cc.PacingRate(48 * ms); got != 1_000_000 {
		t.Errorf("pacing rate %d, want 2 windows in 48 ms", got)
	}
}

func TestRecoveryPeriod(t *testing.T) {
	r := newRig(t)
	r.sendN(AppData, 10)
	r.at(50 * ms)
	r.ack(AppData, AckRange{4, 9}, AckRange{0, 2})
	r.wantLost(3)
	// RFC 9002, Section 7.3.2: "On entering a recovery period, a sender MUST set
	// the slow start threshold to half the value of the congestion window when
	// loss is detected." Packets sent before the period do not count for it.
	r.wantWindow(6000)
	if !strings.Contains(r.cc.String(), "congestion avoidance") {
		t.Errorf("state %q", r.cc)
	}
	// RFC 9002, Section 7.3.2: "during a recovery period, the congestion window
	// does not change in response to new losses or increases in the ECN-CE
	// count."
	r.cc.OnLost(r.now.Add(ms), r.start.Add(50*ms), 1)
	r.cc.OnCE(r.now.Add(ms), r.start.Add(50*ms), 1)
	r.wantWindow(6000)
	// RFC 9002, Section 7.3.2: "A recovery period ends and the sender enters
	// congestion avoidance when a packet sent during the recovery period is
	// acknowledged."
	r.at(60 * ms)
	r.sendN(AppData, 5) // a window
	r.at(110 * ms)
	// RFC 9002, Section 7.3.3: "MUST limit the increase to the congestion window
	// to at most one maximum datagram size for each congestion window that is
	// acknowledged."
	r.ack(AppData, AckRange{0, 13})
	r.wantWindow(6000)
	r.ack(AppData, AckRange{14, 14})
	r.wantWindow(7200)
	if got := r.cc.PacingRate(9 * ms); got != 1_000_000 {
		t.Errorf("pacing rate %d, want 1.25 windows in 9 ms", got)
	}
	// A new loss is a new period.
	r.cc.OnLost(r.start.Add(120*ms), r.start.Add(60*ms), 1)
	r.wantWindow(3600)
}

func TestMinimumWindow(t *testing.T) {
	r := newRig(t)
	for i := range 50 {
		now := r.start.Add(time.Duration(i) * time.Second)
		r.cc.OnLost(now.Add(ms), now, 1)
	}
	// RFC 9002, Section 7.2: "The RECOMMENDED value is 2 * max_datagram_size."
	r.wantWindow(2400)
	if !r.cc.CanSend(1200) {
		t.Error("two datagrams do not fit")
	}
}

func TestPersistentCongestionWindow(t *testing.T) {
	r := newRig(t)
	r.cc.OnLost(r.start, r.start.Add(-1), 1)
	r.cc.OnPersistent(r.start)
	r.wantWindow(2400)
	// RFC 9002, Section 7.3.1: "A sender reenters slow start any time the
	// congestion window is less than the slow start threshold, which only
	// occurs after persistent congestion is declared."
	p := &SentPacket{Sent: r.start.Add(-1), Size: 1200}
	r.cc.OnAcked(r.start, p, 2400, false)
	r.wantWindow(3600)
}

func TestAppLimited(t *testing.T) {
	tests := []struct {
		name     string
		avoid    bool
		limited  bool
		inFlight int
		grows    bool
	}{
		// RFC 9002, Section 7.8: "When bytes in flight is smaller than the
		// congestion window and sending is not pacing limited, the congestion
		// window is underutilized. [...] When this occurs, the congestion window
		// SHOULD NOT be increased in either slow start or congestion avoidance."
		{"slow start, idle", false, true, 1200, false},
		{"slow start, half full", false, true, 6000, true},
		{"avoidance, idle", true, true, 1200, false},
		{"avoidance, half full", true, true, 3000, false},
		{"avoidance, full", true, true, 6000, true},
		// RFC 9002, Section 7.8: "A sender SHOULD NOT consider itself
		// application limited if it would have fully utilized the congestion
		// window without pacing delay."
		{"slow start, paced", false, false, 1200, true},
		{"avoidance, paced", true, false, 1200, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			if tt.avoid {
				r.cc.OnLost(r.start, r.start, 1) // window 6000
			}
			before := r.cc.Window()
			for range 5 {
				r.cc.OnAcked(r.now, &SentPacket{Sent: r.start.Add(1), Size: 1200}, tt.inFlight, tt.limited)
			}
			if grew := r.cc.Window() > before; grew != tt.grows {
				t.Errorf("window %d after %d, want growth %v", r.cc.Window(), before, tt.grows)
			}
		})
	}
}

// The transport's word reaches the controller through Loss, with what was in
// flight before the ACK frame. In slow start the window grows to twice what was
// in use and no further.
func TestAppLimitedThroughLoss(t *testing.T) {
	for _, tt := range []struct {
		sent    int
		limited bool
		want    int
	}{{2, true, 12000}, {2, false, 14400}, {6, true, 15600}, {6, false, 19200}} {
		r := newRig(t)
		r.sendN(AppData, tt.sent)
		r.loss.SetAppLimited(tt.limited)
		r.ack(AppData, AckRange{0, uint64(tt.sent - 1)})
		r.wantWindow(tt.want)
	}
}

func TestWindowDoesNotOverflow(t *testing.T) {
	r := newRig(t)
	p := &SentPacket{Sent: r.start.Add(1), Size: 65535}
	for range 40000 {
		r.cc.OnAcked(r.now, p, 1<<30, false)
	}
	r.wantWindow(maxWindow)
	if got := r.cc.PacingRate(0); got <= 0 {
		t.Errorf("pacing rate %d", got)
	}
}
