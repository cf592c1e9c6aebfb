package recovery

import (
	"testing"
	"time"
)

func TestRTTInitial(t *testing.T) {
	var r RTT
	r.Init(0)
	// RFC 9002, Section 6.2.2: "When no previous RTT is available, the initial
	// RTT SHOULD be set to 333 milliseconds."
	if r.Smoothed() != 333*ms || r.Var() != 333*ms/2 || r.HasSample() || r.Min() != 0 || r.Latest() != 0 {
		t.Fatalf("after Init: %+v", r)
	}
	// RFC 9002, Section 6.2.2: "This results in handshakes starting with a PTO
	// of 1 second"
	if got := r.PTO(0).Round(ms); got != 999*ms {
		t.Fatalf("PTO %v", got)
	}
	r.Init(20 * ms)
	if r.Smoothed() != 20*ms || r.Var() != 10*ms {
		t.Fatalf("after Init(20ms): %+v", r)
	}
}

func TestRTTUpdate(t *testing.T) {
	type sample struct{ latest, delay time.Duration }
	tests := []struct {
		name               string
		samples            []sample
		confirmed          bool
		min, smoothed, dev time.Duration
	}{
		// RFC 9002, Section 5.3: "On the first RTT sample after
		// initialization, smoothed_rtt and rttvar are set as follows:"
		// "smoothed_rtt = latest_rtt" "rttvar = latest_rtt / 2"
		{"first", []sample{{100 * ms, 30 * ms}}, true, 100 * ms, 100 * ms, 50 * ms},
		// RFC 9002, Section 5.2: "min_rtt MUST be set to the lesser of
		// min_rtt and latest_rtt [...] on all other samples."
		{"smaller", []sample{{100 * ms, 0}, {60 * ms, 0}}, true, 60 * ms, 95 * ms, 47500 * time.Microsecond},
		// RFC 9002, Appendix A.7: "rttvar = 3/4 * rttvar + 1/4 *
		// abs(smoothed_rtt - adjusted_rtt)", then "smoothed_rtt = 7/8 *
		// smoothed_rtt + 1/8 * adjusted_rtt"
		{"larger", []sample{{100 * ms, 0}, {180 * ms, 0}}, true, 100 * ms, 110 * ms, 57500 * time.Microsecond},
		// RFC 9002, Section 5.3: "if (latest_rtt >= min_rtt + ack_delay):
		// adjusted_rtt = latest_rtt - ack_delay"
		{"delay", []sample{{100 * ms, 0}, {120 * ms, 20 * ms}}, true, 100 * ms, 100 * ms, 37500 * time.Microsecond},
		// RFC 9002, Section 5.3: "MUST NOT subtract the acknowledgment delay
		// from the RTT sample if the resulting value is smaller than the
		// min_rtt."
		{"implausible delay", []sample{{100 * ms, 0}, {108 * ms, 20 * ms}}, true, 100 * ms, 101 * ms, 39500 * time.Microsecond},
		// RFC 9002, Section 5.3: "MUST use the lesser of the acknowledgment
		// delay and the peer's max_ack_delay after the handshake is confirmed"
		{"delay beyond the maximum", []sample{{100 * ms, 0}, {205 * ms, 80 * ms}}, true, 100 * ms, 110 * ms, 57500 * time.Microsecond},
		// RFC 9002, Section 5.3: "SHOULD ignore the peer's max_ack_delay until
		// the handshake is confirmed"
		{"unlimited delay", []sample{{100 * ms, 0}, {180 * ms, 80 * ms}}, false, 100 * ms, 100 * ms, 37500 * time.Microsecond},
		{"negative delay", []sample{{100 * ms, 0}, {180 * ms, -80 * ms}}, false, 100 * ms, 110 * ms, 57500 * time.Microsecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var r RTT
			r.Init(0)
			for _, s := range tt.samples {
				r.Update(s.latest, s.delay, 25*ms, tt.confirmed)
			}
			if r.Min() != tt.min || r.Smoothed() != tt.smoothed || r.Var() != tt.dev {
				t.Errorf("min %v smoothed %v var %v, want %v %v %v", r.Min(), r.Smoothed(), r.Var(), tt.min, tt.smoothed, tt.dev)
			}
			if last := tt.samples[len(tt.samples)-1].latest; r.Latest() != last || !r.HasSample() {
				t.Errorf("latest %v, want %v", r.Latest(), last)
			}
		})
	}
}

func TestRTTBounds(t *testing.T) {
	var r RTT
	r.Init(0)
	for range 100 {
		r.Update(0, 0, 0, true)
	}
	// RFC 9002, Section 6.2.1: "The PTO period MUST be at least kGranularity to
	// avoid the timer expiring immediately."
	if got := r.PTO(0); got < granularity {
		t.Errorf("PTO %v of a path without delay", got)
	}
	// RFC 9002, Section 6.1.2: "this time threshold MUST be set to at least the
	// local timer granularity"
	if got := r.lossDelay(timeThreshold); got != granularity {
		t.Errorf("loss delay %v, want %v", got, granularity)
	}
	r.Init(0)
	r.Update(80*ms, 0, 0, true)
	// RFC 9002, Section 6.1.2: "The RECOMMENDED time threshold
	// (kTimeThreshold), expressed as an RTT multiplier, is 9/8."
	if got := r.lossDelay(timeThreshold); got != 90*ms {
		t.Errorf("loss delay %v, want 90ms", got)
	}
	r.Update(40*ms, 0, 0, true)
	r.Update(50*ms, 0, 0, true)
	r.ResetMin()
	if r.Min() != 50*ms {
		t.Errorf("min %v after ResetMin, want 50ms", r.Min())
	}
}
