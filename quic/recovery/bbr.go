package recovery

import (
	"fmt"
	"math"
	"time"
)

// BBR version 3 (draft-ietf-ccwg-bbr). It models the path by two figures, the
// bandwidth of the bottleneck and the round trip without queue, and sends at
// that rate. Loss alone does not slow it down; loss above a threshold, or
// marks, while it probes for more, bounds what it keeps in flight.
//
// The parts: this file has the state, what the transport calls, and the
// figures that come of it (window, pacing rate); bbr_model.go measures the path;
// bbr_state.go moves between the states.

type bbrState uint8

const (
	bbrStartup bbrState = iota
	bbrDrain
	bbrDown
	bbrCruise
	bbrRefill
	bbrUp
	bbrProbeRTT
)

var bbrStateNames = [...]string{"startup", "drain", "probe bandwidth: down", "probe bandwidth: cruise",
	"probe bandwidth: refill", "probe bandwidth: up", "probe round trip"}

// Constants of the draft, under its names in lower case.
const (
	bbrStartupPacingGain = 2.77 // 4 * ln(2)
	bbrDrainPacingGain   = 0.5
	bbrDownPacingGain    = 0.9
	bbrUpPacingGain      = 1.25
	bbrCwndGain          = 2.0
	bbrUpCwndGain        = 2.25
	bbrProbeRTTCwndGain  = 0.5
	bbrPacingMargin      = 0.99 // paces one per cent below the estimate
	bbrLossThreshold     = 0.02
	bbrBeta              = 0.7
	bbrHeadroom          = 0.15 // left to others below inflightHi
	bbrMinPipeDatagrams  = 4

	bbrFullBandwidthGrowth = 1.25
	bbrFullBandwidthRounds = 3
	bbrFullLossCount       = 6

	bbrMinRTTFilter      = 10 * time.Second
	bbrProbeRTTInterval  = 5 * time.Second
	bbrProbeRTTDuration  = 200 * time.Millisecond
	bbrExtraAckedRounds  = 10
	bbrProbeWaitBase     = 2 * time.Second
	bbrProbeWaitRandom   = time.Second
	bbrProbeMaxRounds    = 63
	bbrProbeRandomRounds = 2

	// Marks: the share of marked bytes is averaged with this gain; a round
	// with more than half of them marked is as one with too much loss; and the
	// lower bounds shrink by the average times a third.
	bbrECNGain      = 1.0 / 16
	bbrECNThreshold = 0.5
	bbrECNFactor    = 1.0 / 3
)

// infinite is a bound that does not bind.
const infinite = math.MaxInt

type bbr struct {
	maxDatagram int
	window      int
	grown       bool // the window is not the initial one any more
	state       bbrState
	pacingRate  float64 // bytes per second; 0: no sample yet
	pacingGain  float64
	cwndGain    float64
	seed        uint64 // of the generator that spreads the probes of many flows

	sampler bbrSampler
	model   bbrModel
	probe   bbrProbe

	// Recovery periods, for packet conservation.
	recovery   time.Time
	priorCwnd  int // the window before ProbeRTT or recovery
	inRecovery bool

	idleRestart bool
	undone      uint64
}

// NewBBR returns the controller of draft-ietf-ccwg-bbr, in Startup. maxDatagram
// is the size of a full datagram, at least 1200.
func NewBBR(maxDatagram int) Controller {
	b := &bbr{maxDatagram: maxDatagram, window: initialWindow(maxDatagram)}
	b.model.init()
	b.enterStartup()
	return b
}

// Window is the congestion window.
func (b *bbr) Window() int { return b.window }

// CanSend applies RFC 9002, Section 7, as lossBased.CanSend does.
func (b *bbr) CanSend(inFlight int) bool { return inFlight <= b.window-b.maxDatagram }

// PacingRate is the rate of the model. Before there is one it is that of the
// initial window.
func (b *bbr) PacingRate(smoothed time.Duration) int64 {
	if b.pacingRate == 0 {
		return paceRate(b.window, smoothed, int64(100*bbrStartupPacingGain), 100)
	}
	return int64(max(b.pacingRate, 1))
}

// OnSent notes what is needed to measure the rate at which the packet arrives.
func (b *bbr) OnSent(now time.Time, bytes, inFlight int) SendState {
	s := &b.sampler
	if inFlight == 0 && s.limitedUntil != 0 && s.started {
		b.restart(now)
	}
	return s.onSent(now, bytes, inFlight)
}

// restart is BBRHandleRestartFromIdle: the pipe is empty, the model still holds,
// and sending at its rate, not above, builds no queue.
func (b *bbr) restart(now time.Time) {
	b.idleRestart = true
	b.model.extraStart = now
	b.model.extraDelivered = 0
	switch {
	case b.probing():
		b.setPacingRate(1)
	case b.state == bbrProbeRTT:
		b.checkProbeRTTDone(now)
	}
}

// probing reports one of the states of ProbeBW.
func (b *bbr) probing() bool { return b.state >= bbrDown && b.state <= bbrUp }

func (b *bbr) OnAcked(now time.Time, p *SentPacket, _ int, appLimited bool) {
	b.sampler.onAcked(now, p)
	if b.inRecovery && p.Sent.After(b.recovery) {
		b.exitRecovery()
	}
}

func (b *bbr) OnPacketLost(now time.Time, p *SentPacket) {
	b.sampler.lost += uint64(p.Size)
	b.model.lostInRound += int(p.Size)
	m := &b.model
	m.lossInRound = true
	if b.sampler.lastLost != p.PN-1 || m.lossEvents == 0 {
		m.lossEvents++
	}
	b.sampler.lastLost = p.PN
	b.checkLostTooHigh(now, p)
}

// OnLost begins a recovery period: for a round what is sent is what arrives.
func (b *bbr) OnLost(now, largestLostSent time.Time, _ int) {
	if b.inRecovery && !largestLostSent.After(b.recovery) {
		return
	}
	b.recovery = now
	if !b.inRecovery {
		b.saveCwnd()
	}
	b.inRecovery = true
}

func (b *bbr) exitRecovery() {
	b.inRecovery = false
	b.restoreCwnd()
}

// OnSpurious takes back what the loss did to the lower bounds.
func (b *bbr) OnSpurious(_, declared time.Time) {
	m := &b.model
	m.lossInRound = false
	if b.inRecovery && !declared.Before(b.recovery) {
		b.exitRecovery()
	}
	if !m.undo.armed || declared.Before(m.undo.at) {
		return
	}
	m.bwLo, m.inflightLo = max(m.bwLo, m.undo.bwLo), max(m.inflightLo, m.undo.inflightLo)
	m.inflightHi = max(m.inflightHi, m.undo.inflightHi)
	if m.undo.fullBandwidth != m.fullBandwidth && b.state == bbrStartup {
		m.resetFullBandwidth()
	}
	m.undo.armed = false
	b.undone++
}

// OnPersistent follows RFC 9002, Section 7.6.2. The model stays, and the window
// returns to it as acknowledgments come.
func (b *bbr) OnPersistent(time.Time) {
	b.saveCwnd()
	b.window = 2 * b.maxDatagram
	b.inRecovery = false
	b.grown = true
}

func (b *bbr) OnCE(_, _ time.Time, marks uint64) {
	b.model.ceInRound += int(marks) * b.maxDatagram
}

// SetMaxDatagram follows RFC 9002, Section 7.2, as lossBased.SetMaxDatagram does.
func (b *bbr) SetMaxDatagram(n int) {
	b.maxDatagram = n
	if !b.grown {
		b.window = initialWindow(n)
	}
	b.window = max(b.window, b.minPipe())
}

func (b *bbr) minPipe() int { return bbrMinPipeDatagrams * b.maxDatagram }

// OnAckEnd is BBRUpdateOnACK.
func (b *bbr) OnAckEnd(now time.Time, e *AckEvent) {
	s := &b.sampler
	s.finish(now, e)
	b.updateModel(now, e)
	b.updateState(now, e)
	b.setPacingRate(b.pacingGain)
	b.setCwnd(e)
	s.startFrame()
}

// setPacingRate is BBRSetPacingRateWithGain. Until the pipe is full the rate only
// grows: one slow sample must not end Startup.
func (b *bbr) setPacingRate(gain float64) {
	bw := b.model.bandwidth()
	if bw == 0 {
		return
	}
	rate := gain * bw * bbrPacingMargin
	if b.model.fullBandwidth || rate > b.pacingRate {
		b.pacingRate = rate
	}
}

// inflight is BBRInflight: gain times the product of bandwidth and round trip,
// with room for batches: acknowledgments and sends come in lumps.
func (b *bbr) inflight(gain float64) int {
	return b.quantize(b.product(gain))
}

func (b *bbr) product(gain float64) int {
	m := &b.model
	if m.minRTT == 0 || m.bandwidth() == 0 {
		return initialWindow(b.maxDatagram)
	}
	return int(min(gain*m.bandwidth()*m.minRTT.Seconds(), maxWindow))
}

func (b *bbr) quantize(n int) int {
	n = max(n, b.offload(), b.minPipe())
	if b.state == bbrUp {
		n += 2 * b.maxDatagram
	}
	return n
}

// offload is BBRUpdateOffloadBudget: three of the bursts that the pacer lets
// go.
func (b *bbr) offload() int {
	quantum := int(min(b.pacingRate*pacerQuantum.Seconds(), maxBatch))
	return 3 * max(quantum, 2*b.maxDatagram)
}

// setCwnd is BBRSetCwnd.
func (b *bbr) setCwnd(e *AckEvent) {
	m := &b.model
	b.grown = true
	most := b.quantize(b.product(b.cwndGain) + m.extraAcked())
	switch {
	case m.fullBandwidth:
		b.window = min(b.window+e.Acked, most)
	case b.window < most || m.delivered() < uint64(initialWindow(b.maxDatagram)):
		b.window += e.Acked
	}
	b.window = min(max(b.window, b.minPipe()), maxWindow)
	if b.inRecovery && !m.fullBandwidth {
		// Packet conservation, while little is known of the path.
		b.window = max(b.window, e.InFlight+e.Acked)
	}
	if b.state == bbrProbeRTT {
		b.window = min(b.window, b.probeRTTCwnd())
	}
	b.boundCwnd()
}

// boundCwnd is BBRBoundCwndForModel.
func (b *bbr) boundCwnd() {
	m := &b.model
	most := infinite
	switch {
	case b.probing() && b.state != bbrCruise:
		most = m.inflightHi
	case b.state == bbrProbeRTT || b.state == bbrCruise:
		most = b.headroom()
	}
	most = max(min(most, m.inflightLo), b.minPipe())
	b.window = min(b.window, most)
}

// headroom is BBRInflightWithHeadroom.
func (b *bbr) headroom() int {
	hi := b.model.inflightHi
	if hi == infinite {
		return infinite
	}
	return max(hi-max(b.maxDatagram, int(bbrHeadroom*float64(hi))), b.minPipe())
}

func (b *bbr) probeRTTCwnd() int { return max(b.product(bbrProbeRTTCwndGain), b.minPipe()) }

func (b *bbr) saveCwnd() {
	if !b.inRecovery && b.state != bbrProbeRTT {
		b.priorCwnd = b.window
	} else {
		b.priorCwnd = max(b.priorCwnd, b.window)
	}
}

func (b *bbr) restoreCwnd() { b.window = max(b.window, b.priorCwnd) }

func (b *bbr) Report(r *Report) {
	*r = Report{Name: "bbr", State: bbrStateNames[b.state], Window: b.window, Undone: b.undone, DeliveryRate: int64(b.model.bandwidth())}
}

func (b *bbr) String() string {
	return fmt.Sprintf("bbr %s window %d bandwidth %.0f", bbrStateNames[b.state], b.window, b.model.bandwidth())
}

// random returns a number below n. Probes of flows that share a bottleneck
// should not coincide; nobody gains by guessing them.
func (b *bbr) random(n uint64) uint64 {
	b.seed = b.seed*6364136223846793005 + 1442695040888963407
	return (b.seed >> 33) % n
}
