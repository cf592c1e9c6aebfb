package recovery

import (
	"testing"
	"time"
)

func TestPersistentCongestionExample(t *testing.T) {
	// RFC 9002, Section 7.6.3, in units of 100 ms: "smoothed_rtt +
	// max(4*rttvar, kGranularity) + max_ack_delay = 2"
	const unit = 100 * ms
	r := newRig(t)
	r.loss.SetMaxAckDelay(0)
	r.loss.firstSample = r.start.Add(-1)
	send := func(at int) { r.at(time.Duration(at) * unit); r.send(AppData) }
	r.send(AppData) // 0 here, #1 there
	send(1)
	r.at(120 * ms)
	r.ack(AppData, AckRange{0, 0})
	// The sample of 20 ms at the end leaves a deviation of 45 ms, and with it
	// 20 + 4 * 45 = 200 ms.
	r.rtt = RTT{smoothed: 20 * ms, variation: 60 * ms, min: 10 * ms, latest: 10 * ms, sampled: true}
	for _, at := range []int{2, 3, 4, 5, 6, 8, 12} {
		send(at)
	}
	r.at(1220 * ms)
	res := r.ack(AppData, AckRange{8, 8})
	// "Packets 2 through 8 are declared lost when the acknowledgment for packet
	// 9 is received at t = 12.2."
	r.wantLost(1, 2, 3, 4, 5, 6, 7)
	// RFC 9002, Section 7.6.2: "When persistent congestion is declared, the
	// sender's congestion window MUST be reduced to the minimum congestion
	// window (kMinimumWindow)". Packet 9 then raises it in slow start.
	if !res.Persistent {
		t.Error("no persistent congestion")
	}
	r.wantWindow(2400 + 1200)
	// RFC 9002, Section 5.2: "Endpoints SHOULD set the min_rtt to the newest
	// RTT sample after persistent congestion is established."
	if r.rtt.Min() != 20*ms {
		t.Errorf("min RTT %v, want 20ms", r.rtt.Min())
	}
}

func TestPersistentCongestionConditions(t *testing.T) {
	full := SentPacket{Size: 1200, AckEliciting: true}
	padding := SentPacket{Size: 1200, InFlight: true}
	probe := SentPacket{Size: 1200, AckEliciting: true, PMTUProbe: true}
	tests := []struct {
		name      string
		noSample  bool
		first     SentPacket
		last      SentPacket
		spread    time.Duration
		ackMiddle bool
		want      bool
	}{
		{name: "long enough", first: full, last: full, spread: 301 * ms, want: true},
		// RFC 9002, Section 7.6.2: "the duration between the send times of
		// these two packets exceeds the persistent congestion duration"
		{name: "too short", first: full, last: full, spread: 300 * ms},
		// RFC 9002, Section 7.6.2: "none of the packets sent between the send
		// times of these two packets are acknowledged"
		{name: "one got through", first: full, last: full, spread: 301 * ms, ackMiddle: true},
		// RFC 9002, Section 7.6.2: "a prior RTT sample existed when these two
		// packets were sent."
		{name: "no sample", noSample: true, first: full, last: full, spread: time.Minute},
		// RFC 9002, Section 7.6.2: "These two packets MUST be ack-eliciting"
		{name: "padding first", first: padding, last: full, spread: 301 * ms},
		{name: "padding last", first: full, last: padding, spread: 301 * ms},
		{name: "probe last", first: full, last: probe, spread: 301 * ms},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.loss.SetMaxAckDelay(25 * ms)
			r.rtt = RTT{smoothed: 74 * ms, min: 74 * ms, latest: 74 * ms, sampled: true} // PTO 100 ms
			if !tt.noSample {
				r.loss.firstSample = r.start.Add(-1)
			}
			r.sendPacket(AppData, tt.first)
			r.at(tt.spread / 2)
			r.send(AppData)
			r.at(tt.spread)
			r.sendPacket(AppData, tt.last)
			r.sendN(AppData, 3)
			frame := []AckRange{{5, 5}}
			if tt.ackMiddle {
				frame = []AckRange{{5, 5}, {1, 1}}
			}
			// Not even a round trip: the smoothed RTT must stay for the sums.
			r.now = r.now.Add(74 * ms)
			r.rtt.variation = 0
			if res := r.ack(AppData, frame...); res.Persistent != tt.want {
				t.Errorf("persistent %v, want %v; lost %v", res.Persistent, tt.want, r.lost)
			}
		})
	}
}

// A run of losses that two ACK frames establish together counts as one.
func TestPersistentCongestionOverTwoFrames(t *testing.T) {
	r := newRig(t)
	r.rtt = RTT{smoothed: 74 * ms, min: 74 * ms, latest: 74 * ms, sampled: true}
	r.loss.firstSample = r.start.Add(-1)
	r.send(AppData) // 0
	r.at(400 * ms)
	r.sendN(AppData, 2) // 1, 2 within the packet threshold of 3
	r.send(AppData)     // 3
	r.at(401 * ms)
	r.ackDelayed(AppData, 0, nil, AckRange{3, 3})
	r.wantLost(0)
	r.rtt = RTT{smoothed: 74 * ms, min: 1 * ms, latest: 74 * ms, sampled: true}
	r.at(600 * ms)
	r.timeout()
	r.wantLost(1, 2)
	r.wantWindow(2400)
}
