package recovery

import "time"

// bbrSampler measures the delivery rate (draft-ietf-ccwg-bbr, Section 4.1). For
// each packet it notes in SendState how much had been delivered when it was
// sent; what was delivered between then and its acknowledgment, over the time
// that took, is the rate.
type bbrSampler struct {
	started      bool
	base         time.Time // of the times in SendState
	delivered    uint64    // bytes acknowledged
	lost         uint64
	deliveredAt  time.Time
	firstSent    time.Time // of the flight that is measured
	limitedUntil uint64    // while delivered is less, samples are limited by the application; 0: not
	lastLost     uint64    // packet number

	// Of the ACK frame being processed.
	newest    SendState // of the packet sent last
	newestAt  time.Time
	has       bool
	bandwidth float64 // bytes per second, 0: no sample
	limited   bool
	prior     uint64 // delivered when the newest packet was sent
	was       uint64 // delivered before the frame
}

func (s *bbrSampler) micros(t time.Time) uint32 { return uint32(t.Sub(s.base) / time.Microsecond) }

func (s *bbrSampler) onSent(now time.Time, bytes, inFlight int) SendState {
	if !s.started {
		s.started, s.base = true, now
	}
	if inFlight == 0 {
		s.firstSent, s.deliveredAt = now, now
	}
	return SendState{
		delivered: uint32(s.delivered), lost: uint32(s.lost), deliveredAt: s.micros(s.deliveredAt), firstSent: s.micros(s.firstSent),
		inFlight: uint32(inFlight + bytes), appLimited: s.limitedUntil != 0,
	}
}

func (s *bbrSampler) onAcked(now time.Time, p *SentPacket) {
	s.delivered += uint64(p.Size)
	s.deliveredAt = now
	if !s.has || !p.Sent.Before(s.newestAt) {
		s.has, s.newest, s.newestAt = true, p.SendState, p.Sent
	}
}

// finish makes a sample of an ACK frame.
func (s *bbrSampler) finish(now time.Time, e *AckEvent) {
	if s.limitedUntil != 0 && s.delivered > s.limitedUntil {
		s.limitedUntil = 0
	}
	s.bandwidth = 0
	if !s.has {
		return
	}
	n := &s.newest
	got := uint32(s.delivered) - n.delivered
	s.prior = s.delivered - uint64(got)
	s.limited = n.appLimited
	sent := s.micros(s.newestAt) - n.firstSent
	acked := s.micros(now) - n.deliveredAt
	s.firstSent = s.newestAt
	// The longer of the two: acknowledgments that arrive together must not look
	// like bandwidth.
	took := time.Duration(max(sent, acked)) * time.Microsecond
	// An interval below the least round trip cannot be: the clock is too coarse.
	if took > 0 && took >= e.RTT.Min().Truncate(time.Microsecond) {
		s.bandwidth = float64(got) / took.Seconds()
	}
	// RFC 9002, Section 7.8 in this draft's words: nothing more to send while the
	// pipe is not full.
	if e.AppLimited {
		s.limitedUntil = max(s.delivered+uint64(e.InFlight), 1)
	}
}

func (s *bbrSampler) startFrame() { s.has, s.was = false, s.delivered }

// bbrModel is what is known of the path.
type bbrModel struct {
	// Rounds: one ends when a packet is acknowledged that was sent in it.
	roundEnd   uint64 // delivered
	roundStart bool
	rounds     uint64
	total      uint64 // delivered

	maxBw   [2]float64 // of the last two cycles of ProbeBW
	cycle   int
	bwLo    float64 // 0: no bound
	bwRound float64 // of the latest round
	inRound int     // delivered in flight, of the latest round

	inflightHi, inflightLo int

	lossRoundEnd  uint64
	lossRoundNew  bool
	lossInRound   bool
	lossEvents    int
	lostInRound   int
	ackedInRound  int
	ceInRound     int
	triedInRound  bool    // not all samples were limited by the application, or by ProbeRTT
	gainInRound   float64 // the least at which was paced
	gainBefore    float64 // the least in the round before: what arrives now was sent then
	ecnAlpha      float64
	tooManyMarks  bool
	fullBandwidth bool // the pipe is full
	fullNow       bool
	fullBw        float64
	fullCount     int

	minRTT        time.Duration
	minRTTAt      time.Time
	probeRTTMin   time.Duration
	probeRTTMinAt time.Time
	probeExpired  bool

	extraStart     time.Time
	extraDelivered int
	extra          [2]int // of two halves of the filter
	extraRound     uint64

	undo struct {
		armed                  bool
		at                     time.Time
		bwLo                   float64
		inflightLo, inflightHi int
		fullBandwidth          bool
	}
}

func (m *bbrModel) init() {
	m.inflightHi, m.inflightLo, m.gainInRound, m.gainBefore = infinite, infinite, 1, 1
}

func (m *bbrModel) delivered() uint64 { return m.total }

func (m *bbrModel) maxBandwidth() float64 { return max(m.maxBw[0], m.maxBw[1]) }

// bandwidth is min(BBR.max_bw, BBR.bw_shortterm).
func (m *bbrModel) bandwidth() float64 {
	bw := m.maxBandwidth()
	if m.bwLo > 0 {
		bw = min(bw, m.bwLo)
	}
	return bw
}

func (m *bbrModel) extraAcked() int { return max(m.extra[0], m.extra[1]) }

func (m *bbrModel) resetFullBandwidth() {
	m.fullBandwidth, m.fullNow, m.fullBw, m.fullCount = false, false, 0, 0
}

func (m *bbrModel) resetLower() { m.bwLo, m.inflightLo = 0, infinite }

// updateModel is BBRUpdateModelAndState's first half.
func (b *bbr) updateModel(now time.Time, e *AckEvent) {
	m, s := &b.model, &b.sampler
	m.total = s.delivered
	m.ackedInRound += e.Acked
	m.roundStart = false
	if s.has && s.prior >= m.roundEnd {
		m.roundEnd = s.delivered
		m.rounds++
		m.roundStart = true
	}
	b.updateLatest()
	b.updateCongestion(now)
	b.updateExtraAcked(now, e)
	b.updateFullBandwidth()
	b.updateMinRTT(now, e)
}

// updateLatest keeps what the latest round delivered, and the largest rates of
// late.
func (b *bbr) updateLatest() {
	m, s := &b.model, &b.sampler
	m.lossRoundNew = false
	if !s.has {
		return
	}
	m.bwRound = max(m.bwRound, s.bandwidth)
	m.inRound = max(m.inRound, int(s.delivered-s.prior))
	m.triedInRound = m.triedInRound || !s.limited
	m.gainInRound = min(m.gainInRound, b.pacingGain)
	if s.prior >= m.lossRoundEnd {
		m.lossRoundEnd = s.delivered
		m.lossRoundNew = true
	}
	// BBRUpdateMaxBw: a sample that the application limited counts if it is more.
	if s.bandwidth > 0 && (!s.limited || s.bandwidth >= m.maxBandwidth()) {
		m.maxBw[m.cycle&1] = max(m.maxBw[m.cycle&1], s.bandwidth)
	}
}

// updateCongestion is BBRUpdateCongestionSignals: at the end of each round the
// lower bounds follow what the path delivered, if it dropped or marked.
func (b *bbr) updateCongestion(now time.Time) {
	m, s := &b.model, &b.sampler
	if !m.lossRoundNew {
		return
	}
	marks := 0.0
	if n := m.ackedInRound; n > 0 {
		marks = min(float64(m.ceInRound)/float64(n), 1)
	}
	m.ecnAlpha += (marks - m.ecnAlpha) * bbrECNGain
	m.tooManyMarks = marks > bbrECNThreshold
	if m.tooManyMarks {
		b.tooMuchInFlight(now, b.window)
	}
	if (m.lossInRound || m.ceInRound > 0) && m.triedInRound && !b.seeking() {
		b.adaptLower(now)
	}
	b.checkStartupLoss()
	m.lossInRound, m.lossEvents, m.lostInRound, m.ackedInRound, m.ceInRound = false, 0, 0, 0, 0
	m.triedInRound, m.gainBefore, m.gainInRound = false, m.gainInRound, 1
	// BBRAdvanceLatestDeliverySignals
	m.bwRound = s.bandwidth
	m.inRound = int(s.delivered - s.prior)
}

// seeking is BBRIsProbingBW: loss is then the answer to a question, and does not
// move the lower bounds.
func (b *bbr) seeking() bool {
	return b.state == bbrStartup || b.state == bbrRefill || b.state == bbrUp
}

// adaptLower is BBRAdaptLowerBoundsFromCongestion, with the response to marks.
func (b *bbr) adaptLower(now time.Time) {
	m := &b.model
	if m.bwLo == 0 {
		m.bwLo = m.maxBandwidth()
	}
	if m.inflightLo == infinite {
		m.inflightLo = b.window
	}
	b.remember(now)
	if m.ceInRound > 0 {
		m.inflightLo = int(float64(m.inflightLo) * (1 - m.ecnAlpha*bbrECNFactor))
	}
	if !m.lossInRound {
		return
	}
	// Here the draft lowers the bounds to what the round delivered, whatever that
	// was. A round that loses one per cent at random delivers one per cent less,
	// and the next less again: the rate would decay until the next probe. A bound
	// that all but the tolerated share came through is right as it is, and so is
	// one that was not tried, because this end paced slower: now, or in the round
	// before, in which what arrives now was sent.
	enough := (1 - bbrLossThreshold) * bbrPacingMargin * min(m.gainInRound, m.gainBefore)
	if m.bwRound < enough*m.bwLo {
		m.bwLo = max(m.bwRound, bbrBeta*m.bwLo)
	}
	if float64(m.inRound) < enough*float64(m.inflightLo) {
		m.inflightLo = max(m.inRound, int(bbrBeta*float64(m.inflightLo)))
	}
}

// remember keeps the bounds for OnSpurious.
func (b *bbr) remember(now time.Time) {
	m := &b.model
	u := &m.undo
	if u.armed && now.Sub(u.at) < 4*max(m.minRTT, time.Millisecond) {
		return // what a burst of losses did is taken back as a whole
	}
	u.armed, u.at = true, now.Add(-max(m.minRTT, time.Millisecond))
	u.bwLo, u.inflightLo, u.inflightHi, u.fullBandwidth = m.bwLo, m.inflightLo, m.inflightHi, m.fullBandwidth
}

// updateExtraAcked is BBRUpdateACKAggregation: how much more is acknowledged at
// once than the bandwidth explains is allowed in flight in addition.
func (b *bbr) updateExtraAcked(now time.Time, e *AckEvent) {
	m := &b.model
	if m.extraStart.IsZero() {
		m.extraStart = now
	}
	expected := int(m.bandwidth() * now.Sub(m.extraStart).Seconds())
	if m.extraDelivered <= expected {
		m.extraDelivered, expected = 0, 0
		m.extraStart = now
	}
	m.extraDelivered += e.Acked
	if m.roundStart && m.rounds-m.extraRound >= bbrExtraAckedRounds/2 {
		m.extra[1], m.extra[0] = m.extra[0], 0
		m.extraRound = m.rounds
	}
	m.extra[0] = max(m.extra[0], min(m.extraDelivered-expected, b.window))
}

// updateFullBandwidth is BBRCheckFullBWReached.
func (b *bbr) updateFullBandwidth() {
	m, s := &b.model, &b.sampler
	if m.fullNow || !m.roundStart || s.limited || s.bandwidth == 0 {
		return
	}
	if s.bandwidth >= m.fullBw*bbrFullBandwidthGrowth {
		m.fullNow, m.fullBw, m.fullCount = false, s.bandwidth, 0
		return
	}
	if m.fullCount++; m.fullCount >= bbrFullBandwidthRounds {
		m.fullNow, m.fullBandwidth = true, true
	}
}

// updateMinRTT is BBRUpdateMinRTT.
func (b *bbr) updateMinRTT(now time.Time, e *AckEvent) {
	m := &b.model
	m.probeExpired = !m.probeRTTMinAt.IsZero() && now.Sub(m.probeRTTMinAt) > bbrProbeRTTInterval
	if e.RTTSampled {
		if rtt := e.RTT.Latest(); m.probeRTTMin == 0 || rtt < m.probeRTTMin || m.probeExpired {
			m.probeRTTMin, m.probeRTTMinAt = rtt, now
		}
	}
	if m.probeRTTMin == 0 {
		return
	}
	if m.minRTT == 0 || m.probeRTTMin < m.minRTT || now.Sub(m.minRTTAt) > bbrMinRTTFilter {
		m.minRTT, m.minRTTAt = m.probeRTTMin, m.probeRTTMinAt
	}
}
