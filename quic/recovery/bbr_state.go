package recovery

import "time"

// bbrProbe is the state of the machine that looks for more bandwidth and for
// the round trip without queue.
type bbrProbe struct {
	cycleAt     time.Time // when the state of ProbeBW was entered
	wait        time.Duration
	roundsSince uint64 // round of the last probe
	refillRound uint64
	upRounds    uint
	upCount     int // bytes acknowledged for one more datagram of inflightHi
	upAcked     int
	sampling    bool // packets sent by the probe are on their way
	ackPhase    bbrAckPhase
	rttDone     time.Time
	rttRound    bool
	rttRoundEnd uint64
}

// bbrAckPhase says what acknowledgments tell of.
type bbrAckPhase uint8

const (
	acksInit bbrAckPhase = iota
	acksRefilling
	acksProbeStarting
	acksProbeFeedback
	acksProbeStopping
)

func (b *bbr) enterStartup() {
	b.state, b.pacingGain, b.cwndGain = bbrStartup, bbrStartupPacingGain, bbrCwndGain
}

// updateState moves between the states.
func (b *bbr) updateState(now time.Time, e *AckEvent) {
	m := &b.model
	if b.state == bbrStartup && m.fullBandwidth {
		b.state, b.pacingGain, b.cwndGain = bbrDrain, bbrDrainPacingGain, bbrCwndGain
	}
	if b.state == bbrDrain && e.InFlight <= b.inflight(1) {
		b.enterProbeBW(now)
	}
	b.updateProbeBW(now, e)
	b.updateProbeRTT(now, e)
}

// checkStartupLoss is BBRCheckStartupHighLoss: the pipe is full, too, when a
// round loses more than the threshold in several places. Among a few hundred
// packets chance does that now and then where one per cent is lost at random,
// and Startup left early costs seconds: while the bandwidth still grows, and a
// full pipe's does not, it takes three times as much.
func (b *bbr) checkStartupLoss() {
	m := &b.model
	if b.state != bbrStartup || m.fullBandwidth || !m.triedInRound && !m.tooManyMarks {
		return
	}
	threshold := bbrLossThreshold
	if m.bwRound >= m.fullBw*bbrFullBandwidthGrowth {
		threshold *= 3
	}
	total := m.ackedInRound + m.lostInRound
	if m.tooManyMarks || m.lossEvents >= bbrFullLossCount && float64(m.lostInRound) > threshold*float64(total) {
		m.fullBandwidth, m.fullNow = true, true
		m.inflightHi = max(b.product(1), m.inRound)
	}
}

func (b *bbr) enterProbeBW(now time.Time) {
	if b.seed == 0 {
		b.seed = b.sampler.delivered ^ uint64(b.model.minRTT)<<20 | 1
	}
	b.startDown(now)
}

func (b *bbr) enter(now time.Time, s bbrState, pacing, cwnd float64) {
	b.state, b.pacingGain, b.cwndGain = s, pacing, cwnd
	b.probe.cycleAt = now
}

func (b *bbr) startRound() { b.model.roundEnd = b.sampler.delivered }

// startDown is BBRStartProbeBW_DOWN: what the probe queued drains, and others
// get room.
func (b *bbr) startDown(now time.Time) {
	p, m := &b.probe, &b.model
	m.lossRoundEnd = b.sampler.delivered
	m.bwRound, m.inRound = b.sampler.bandwidth, 0
	p.upCount = infinite
	// BBRPickProbeWait: of long flows the probes are seconds apart, so that
	// Reno and CUBIC find room to grow, and not in step.
	p.roundsSince = m.rounds - b.random(bbrProbeRandomRounds)
	p.wait = bbrProbeWaitBase + time.Duration(b.random(uint64(bbrProbeWaitRandom)))
	p.ackPhase = acksProbeStopping
	b.startRound()
	b.enter(now, bbrDown, bbrDownPacingGain, bbrCwndGain)
}

func (b *bbr) startRefill(now time.Time) {
	b.model.resetLower()
	b.probe.upRounds, b.probe.upAcked = 0, 0
	b.probe.ackPhase = acksRefilling
	b.startRound()
	b.probe.refillRound = b.model.rounds
	b.enter(now, bbrRefill, 1, bbrCwndGain)
}

func (b *bbr) startUp(now time.Time) {
	p, m := &b.probe, &b.model
	p.ackPhase = acksProbeStarting
	p.sampling = true
	b.startRound()
	m.fullNow, m.fullBw, m.fullCount = false, b.sampler.bandwidth, 0
	b.enter(now, bbrUp, bbrUpPacingGain, bbrUpCwndGain)
	b.raiseSlope()
}

// updateProbeBW is BBRUpdateProbeBWCyclePhase.
func (b *bbr) updateProbeBW(now time.Time, e *AckEvent) {
	if !b.model.fullBandwidth {
		return
	}
	b.adaptUpper(now, e)
	switch b.state {
	case bbrDown:
		if b.timeToProbe(now) {
			b.startRefill(now)
		} else if e.InFlight <= min(b.headroom(), b.inflight(1)) {
			b.enter(now, bbrCruise, 1, bbrCwndGain)
		}
	case bbrCruise:
		if b.timeToProbe(now) {
			b.startRefill(now)
		}
	case bbrRefill:
		// After a round at the full rate the pipe is full, and what comes is an
		// answer to the probe.
		if b.model.roundStart && b.model.rounds > b.probe.refillRound {
			b.startUp(now)
		}
	case bbrUp:
		if b.upDone(e) {
			b.startDown(now)
		}
	}
}

// timeToProbe is BBRIsTimeToProbeBW: after the wait, or when a Reno flow of this
// size would have regained what it lost.
func (b *bbr) timeToProbe(now time.Time) bool {
	p := &b.probe
	reno := uint64(min(b.product(1)/b.maxDatagram, bbrProbeMaxRounds))
	return now.Sub(p.cycleAt) > p.wait || b.model.rounds >= p.roundsSince+reno && now.Sub(p.cycleAt) > b.model.minRTT
}

// upDone is BBRIsTimeToGoDown: the probe has filled the pipe with a quarter more
// than it holds, or found no more bandwidth.
func (b *bbr) upDone(e *AckEvent) bool {
	m := &b.model
	if m.inflightHi != infinite && b.window >= m.inflightHi && e.InFlight >= m.inflightHi-b.maxDatagram {
		// The bound holds the probe up: what it finds is no end of the pipe.
		m.fullNow, m.fullBw, m.fullCount = false, b.sampler.bandwidth, 0
		return false
	}
	return m.fullNow
}

// adaptUpper is BBRAdaptLongTermModel: where the probe went without trouble the
// upper bound rises.
func (b *bbr) adaptUpper(now time.Time, e *AckEvent) {
	m, p, s := &b.model, &b.probe, &b.sampler
	if p.ackPhase == acksProbeStarting && m.roundStart {
		p.ackPhase = acksProbeFeedback
	}
	if p.ackPhase == acksProbeStopping && m.roundStart {
		// The last of the probe is acknowledged: a cycle of the bandwidth filter ends.
		p.sampling = false
		p.ackPhase = acksInit
		if b.probing() && !s.limited {
			if m.maxBw[m.cycle&1] > 0 {
				m.cycle++
				m.maxBw[m.cycle&1] = 0
			}
		}
	}
	if m.inflightHi == infinite || !s.has || b.tooLossy(int(s.newest.inFlight), uint32(s.lost)-s.newest.lost) {
		return
	}
	m.inflightHi = max(m.inflightHi, int(s.newest.inFlight))
	if b.state == bbrUp {
		b.probeUpward(e)
	}
}

// probeUpward is BBRProbeInflightLongTermUpward: the bound grows by one datagram
// a round at first, and twice as fast with each round.
func (b *bbr) probeUpward(e *AckEvent) {
	m, p := &b.model, &b.probe
	if b.window < m.inflightHi || e.InFlight+e.Acked < m.inflightHi-b.maxDatagram {
		return // the bound is not what limits
	}
	p.upAcked += e.Acked
	if p.upAcked >= p.upCount {
		n := p.upAcked / p.upCount
		p.upAcked -= n * p.upCount
		m.inflightHi = min(m.inflightHi+n*b.maxDatagram, maxWindow)
	}
	if m.roundStart {
		b.raiseSlope()
	}
}

func (b *bbr) raiseSlope() {
	p := &b.probe
	growth := 1 << min(p.upRounds, 30)
	p.upRounds++
	p.upCount = max(b.window/growth, b.maxDatagram)
}

// tooLossy is BBRIsInflightTooHigh.
func (b *bbr) tooLossy(inFlight int, lost uint32) bool {
	return float64(lost) > bbrLossThreshold*float64(inFlight)
}

// checkLostTooHigh is BBRHandleLostPacket: a packet of the probe was lost, and
// with it more than the threshold of what was in flight.
func (b *bbr) checkLostTooHigh(now time.Time, p *SentPacket) {
	if !b.probe.sampling {
		return
	}
	st := &p.SendState
	lost := uint32(b.sampler.lost) - st.lost
	if !b.tooLossy(int(st.inFlight), lost) {
		return
	}
	// BBRInflightAtLoss: the place in the packet at which the threshold was
	// crossed.
	before, lostBefore := float64(st.inFlight)-float64(p.Size), float64(lost)-float64(p.Size)
	at := before + max((bbrLossThreshold*before-lostBefore)/(1-bbrLossThreshold), 0)
	b.tooMuchInFlight(now, int(at))
}

// tooMuchInFlight is BBRHandleInflightTooHigh: the probe ends, and the bound is
// where it hurt, unless the application had set it.
func (b *bbr) tooMuchInFlight(now time.Time, inFlight int) {
	m := &b.model
	b.probe.sampling = false
	if !b.sampler.limited {
		b.remember(now)
		m.inflightHi = max(inFlight, int(float64(min(b.product(1), maxWindow))*bbrBeta), b.minPipe())
	}
	if b.state == bbrUp {
		b.startDown(now)
	}
}

// updateProbeRTT is BBRCheckProbeRTT: now and then the window shrinks to half of
// what the pipe holds, so that the queue drains and the true round trip is seen.
func (b *bbr) updateProbeRTT(now time.Time, e *AckEvent) {
	m, p := &b.model, &b.probe
	if b.state != bbrProbeRTT && m.probeExpired && !b.idleRestart && m.fullBandwidth {
		b.saveCwnd()
		b.state, b.pacingGain, b.cwndGain = bbrProbeRTT, 1, bbrProbeRTTCwndGain
		p.rttDone = time.Time{}
		p.ackPhase = acksProbeStopping
		b.startRound()
	}
	if b.state == bbrProbeRTT {
		b.sampler.limitedUntil = max(b.sampler.delivered+uint64(e.InFlight), 1)
		switch {
		case p.rttDone.IsZero() && e.InFlight <= b.probeRTTCwnd():
			p.rttDone = now.Add(bbrProbeRTTDuration)
			p.rttRound = false
			b.startRound()
			p.rttRoundEnd = m.rounds
		case !p.rttDone.IsZero():
			p.rttRound = p.rttRound || m.rounds > p.rttRoundEnd
			if p.rttRound {
				b.checkProbeRTTDone(now)
			}
		}
	}
	if e.Acked > 0 {
		b.idleRestart = false
	}
}

func (b *bbr) checkProbeRTTDone(now time.Time) {
	if b.probe.rttDone.IsZero() || !now.After(b.probe.rttDone) {
		return
	}
	b.model.probeRTTMinAt = now
	b.restoreCwnd()
	b.model.resetLower()
	b.startDown(now)
	b.enter(now, bbrCruise, 1, bbrCwndGain)
}
