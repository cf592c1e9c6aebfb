package recovery

const (
	// The distance between skipped numbers doubles from firstSkip to lastSkip:
	// a liar shows early, and each gap costs the honest peer an ACK range.
	firstSkip = 64
	lastSkip  = 1 << 14

	// skipsKept bounds the memory of skipped numbers.
	skipsKept = 32
)

// skipper chooses packet numbers that are never sent. RFC 9000, Section 21.4:
// "An endpoint that acknowledges packets it has not received might cause a
// congestion controller to permit sending at rates beyond what the network
// supports. An endpoint MAY skip packet numbers when sending packets to detect
// this behavior."
type skipper struct {
	at     uint64 // the next number to skip
	period uint64
	random func(n uint64) uint64
	kept   []uint64 // newest first, at most skipsKept; none on a connection that sends little
}

func (k *skipper) init(random func(n uint64) uint64) {
	*k = skipper{random: random, period: firstSkip}
	k.at = 1 + random(firstSkip)
}

// skip remembers pn as skipped and chooses the next.
func (k *skipper) skip(pn uint64) {
	if len(k.kept) < skipsKept {
		k.kept = append(k.kept, 0)
	}
	copy(k.kept[1:], k.kept)
	k.kept[0] = pn
	k.at = pn + 1 + k.period + k.random(k.period)
	k.period = min(2*k.period, lastSkip)
}

// hit reports whether ranges, descending, hold a skipped number.
func (k *skipper) hit(ranges []AckRange) bool {
	i := 0
	for _, r := range ranges {
		for i < len(k.kept) && k.kept[i] > r.Largest {
			i++
		}
		if i == len(k.kept) {
			return false
		}
		if k.kept[i] >= r.Smallest {
			return true
		}
	}
	return false
}

// between is the number of skipped numbers above lo and below hi, which are
// few apart.
func (k *skipper) between(lo, hi uint64) uint64 {
	n := uint64(0)
	for i := 0; i < len(k.kept) && k.kept[i] > lo; i++ {
		if k.kept[i] < hi {
			n++
		}
	}
	return n
}
