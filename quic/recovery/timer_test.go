package recovery

import (
	"testing"
	"time"
)

// withRTT gives the path a history: PTO is 100 ms, and 125 ms in AppData.
func (r *rig) withRTT() {
	r.rtt = RTT{smoothed: 60 * ms, variation: 10 * ms, min: 60 * ms, latest: 60 * ms, sampled: true}
}

var established = State{Confirmed: true, HasHandshakeKeys: true, PeerValidated: true}

// ptoCases are timers and what they bring.
var ptoCases = []struct {
	name  string
	state State
	sent  map[Space]time.Duration // when the last ack-eliciting packet went
	want  time.Duration           // -1: none
	space Space
	n     int
}{
	{"nothing in flight", established, nil, -1, 0, 0},
	// RFC 9002, Section 6.2.1: "PTO = smoothed_rtt + max(4*rttvar,
	// kGranularity) + max_ack_delay"
	{"application data", established, map[Space]time.Duration{AppData: 7 * ms}, 132 * ms, AppData, 2},
	// RFC 9002, Section 6.2.1: "When the PTO is armed for Initial or
	// Handshake packet number spaces, the max_ack_delay in the PTO period
	// computation is set to 0"
	{"initial", State{PeerValidated: true}, map[Space]time.Duration{Initial: 7 * ms}, 107 * ms, Initial, 2},
	{"handshake", State{PeerValidated: true}, map[Space]time.Duration{Handshake: 7 * ms}, 107 * ms, Handshake, 2},
	// RFC 9002, Section 6.2.1: "When ack-eliciting packets in multiple
	// packet number spaces are in flight, the timer MUST be set to the
	// earlier value of the Initial and Handshake packet number spaces."
	{"initial first", State{PeerValidated: true}, map[Space]time.Duration{Initial: 3 * ms, Handshake: 7 * ms}, 103 * ms, Initial, 2},
	{"handshake first", State{PeerValidated: true}, map[Space]time.Duration{Initial: 7 * ms, Handshake: 3 * ms}, 103 * ms, Handshake, 2},
	// RFC 9002, Section 6.2.1: "An endpoint MUST NOT set its PTO timer for
	// the Application Data packet number space until the handshake is
	// confirmed."
	{"not confirmed", State{PeerValidated: true}, map[Space]time.Duration{AppData: 0}, -1, 0, 0},
	{"0-RTT", State{PeerValidated: true}, map[Space]time.Duration{AppData: 0, Initial: 1 * ms}, 101 * ms, Initial, 2},
	// RFC 9002, Section 6.2.2.1: "If no additional data can be sent, the
	// server's PTO timer MUST NOT be armed until datagrams have been
	// received from the client"
	{"amplification limit", State{PeerValidated: true, AmplificationLimited: true}, map[Space]time.Duration{Initial: 0, Handshake: 0}, -1, 0, 0},
	// RFC 9002, Section 6.2.2.1: "the client MUST set the PTO timer if the
	// client has not received an acknowledgment for any of its Handshake
	// packets and the handshake is not confirmed (see Section
	// 4.1.2 of [QUIC-TLS]), even if there are no packets in flight. When the PTO fires, the client MUST send a
	// Handshake packet if it has Handshake keys, otherwise it MUST send an
	// Initial packet"
	{"deadlock, no keys", State{}, nil, 100 * ms, Initial, 1},
	{"deadlock, keys", State{HasHandshakeKeys: true}, nil, 100 * ms, Handshake, 1},
	{"deadlock, 0-RTT in flight", State{HasHandshakeKeys: true}, map[Space]time.Duration{AppData: 0}, 100 * ms, Handshake, 1},
}

func TestPTODeadline(t *testing.T) {
	for _, tt := range ptoCases {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.state = tt.state
			r.withRTT()
			for _, space := range []Space{Initial, Handshake, AppData} {
				if at, ok := tt.sent[space]; ok {
					r.at(0)
					r.send(space)
					r.at(at)
					r.send(space)
				}
			}
			r.at(0)
			r.wantDeadline(tt.want, true)
			if tt.want < 0 {
				r.at(time.Hour)
				if _, probes := r.timeout(); probes != 0 {
					t.Fatalf("%d probes without a timer", probes)
				}
				return
			}
			in := r.loss.InFlight()
			if len(tt.sent) > 0 {
				r.at(tt.want - 1)
				if _, probes := r.timeout(); probes != 0 {
					t.Fatalf("%d probes before the deadline", probes)
				}
			} else {
				// Without an event the time counts from the question.
				r.loss.lastEvent = r.start
			}
			r.at(tt.want)
			space, probes := r.timeout()
			if space != tt.space || probes != tt.n {
				t.Errorf("%d probes in %v, want %d in %v", probes, space, tt.n, tt.space)
			}
			// RFC 9002, Section 6.2: "A PTO timer expiration event does not
			// indicate packet loss and MUST NOT cause prior unacknowledged
			// packets to be marked as lost."
			r.wantLost()
			r.wantInFlight(in)
		})
	}
}

func TestPTOBackoff(t *testing.T) {
	r := newRig(t)
	r.withRTT()
	r.send(AppData)
	want := 125 * ms
	for range 5 {
		r.wantDeadline(want, true)
		r.at(want)
		if _, probes := r.timeout(); probes != 2 {
			t.Fatalf("%d probes", probes)
		}
		// RFC 9002, Section 6.2.1: "When a PTO timer expires, the PTO backoff
		// MUST be increased, resulting in the PTO period being set to twice its
		// current value."
		want *= 2
		r.wantDeadline(want, true)
	}
	// RFC 9002, Section 6.2.1: "A sender SHOULD restart its PTO timer every time
	// an ack-eliciting packet is sent or acknowledged"
	r.send(AppData)
	r.wantDeadline(2000*ms+want, true)
	// RFC 9002, Section 6.2.1: "The PTO backoff factor is reset when an
	// acknowledgment is received"
	r.withRTT()
	r.ack(AppData, AckRange{0, 0})
	if r.loss.PTOCount() != 0 {
		t.Errorf("PTO count %d", r.loss.PTOCount())
	}
	for range 200 {
		r.loss.ptoCount++
	}
	if d, _ := r.loss.Deadline(r.now, &r.rtt, r.state); d.Sub(r.now) > maxBackoff {
		t.Errorf("deadline %v away", d.Sub(r.now))
	}
}

func TestPTOBackoffOfClient(t *testing.T) {
	r := newRig(t)
	r.state = State{}
	r.send(Initial)
	r.at(time.Second)
	r.timeout()
	r.send(Initial)
	// RFC 9002, Section 6.2.1: "That is, a client does not reset the PTO backoff
	// factor on receiving acknowledgments in Initial packets."
	r.ack(Initial, AckRange{0, 1})
	if r.loss.PTOCount() != 1 {
		t.Errorf("PTO count %d, want 1", r.loss.PTOCount())
	}
	// The server may be blocked: the client asks on.
	if d, pto := r.loss.Deadline(r.now, &r.rtt, r.state); d.IsZero() || !pto {
		t.Error("no timer")
	}
	r.state.HasHandshakeKeys = true
	r.send(Handshake)
	r.state.PeerValidated = true
	r.ack(Handshake, AckRange{0, 0})
	if r.loss.PTOCount() != 0 {
		t.Errorf("PTO count %d, want 0", r.loss.PTOCount())
	}
	r.wantDeadline(-1, true)
}

// RFC 9002, Section 6.2.2.1: "When the server receives a datagram from the
// client, the amplification limit is increased and the server resets the PTO
// timer. If the PTO timer is then set to a time in the past, it is executed
// immediately."
func TestPTOAfterAmplificationLimit(t *testing.T) {
	r := newRig(t)
	r.state = State{PeerValidated: true, AmplificationLimited: true}
	r.send(Initial)
	r.send(Handshake)
	r.at(5 * time.Second)
	r.wantDeadline(-1, true)
	r.state.AmplificationLimited = false
	if d, pto := r.loss.Deadline(r.now, &r.rtt, r.state); !pto || d.After(r.now) {
		t.Fatal("the timer is not in the past")
	}
	if _, probes := r.timeout(); probes != 2 {
		t.Fatalf("%d probes", probes)
	}
}

// The anti-deadlock timer does not run away from a caller who keeps asking.
func TestAntiDeadlockTimerIsFixed(t *testing.T) {
	r := newRig(t)
	r.state = State{}
	r.withRTT()
	r.send(Initial)
	r.at(60 * ms)
	r.ack(Initial, AckRange{0, 0})
	r.withRTT()
	for i := range 20 {
		r.at(60*ms + time.Duration(i)*4*ms)
		r.wantDeadline(160*ms, true)
	}
	r.at(160 * ms)
	if space, probes := r.timeout(); space != Initial || probes != 1 {
		t.Errorf("%d probes in %v", probes, space)
	}
	r.wantDeadline(160*ms+200*ms, true)
}

// RFC 9002, Section 6.2.1: "The PTO timer MUST NOT be set if a timer is set for
// time threshold loss detection"
func TestLossTimerFirst(t *testing.T) {
	r := newRig(t)
	r.sendN(AppData, 2)
	r.at(60 * ms)
	r.ack(AppData, AckRange{1, 1})
	r.wantDeadline(67500*time.Microsecond, false)
	// Late timers are no different.
	r.at(3 * time.Second)
	if _, probes := r.timeout(); probes != 0 {
		t.Fatal("probes with a loss timer")
	}
	r.wantLost(0)
	r.wantDeadline(-1, true)
	if n := r.loss.Tracked(AppData); n != 0 {
		t.Errorf("%d packets tracked", n)
	}
}
