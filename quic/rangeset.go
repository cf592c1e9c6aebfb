package quic

import "slices"

// A span is the half-open interval [start, end) of stream offsets.
type span struct{ start, end uint64 }

// A rangeset is a sorted set of disjoint, non-adjacent spans.
type rangeset []span

// add puts [start, end) into the set.
func (s *rangeset) add(start, end uint64) {
	if start >= end {
		return
	}
	r := *s
	if n := len(r); n == 0 || start > r[n-1].end {
		*s = append(r, span{start, end})
		return
	}
	i := r.firstTo(start)
	j := i
	for j < len(r) && r[j].start <= end {
		start, end = min(start, r[j].start), max(end, r[j].end)
		j++
	}
	if i == j {
		*s = slices.Insert(r, i, span{start, end})
		return
	}
	r[i] = span{start, end}
	*s = slices.Delete(r, i+1, j)
}

// firstTo returns the index of the first span that ends at v or behind it.
func (s rangeset) firstTo(v uint64) int {
	i, _ := slices.BinarySearchFunc(s, v, func(x span, v uint64) int {
		if x.end < v {
			return -1
		}
		return 1
	})
	return i
}

// subAll takes out of the set what of [start, end) is in o.
func (s *rangeset) subAll(o rangeset, start, end uint64) {
	for i := o.firstTo(start); i < len(o) && o[i].start < end; i++ {
		s.sub(max(start, o[i].start), min(end, o[i].end))
	}
}

// sub takes [start, end) out of the set.
func (s *rangeset) sub(start, end uint64) {
	if start >= end {
		return
	}
	r := *s
	for i := r.firstTo(start); i < len(r) && r[i].start < end; {
		x := r[i]
		switch {
		case x.end <= start:
			i++
		case x.start >= start && x.end <= end:
			r = slices.Delete(r, i, i+1)
		case x.start < start && x.end > end:
			r = slices.Insert(r, i+1, span{end, x.end})
			r[i].end = start
			i += 2
		case x.start < start:
			r[i].end = start
			i++
		default:
			r[i].start = end
			i++
		}
	}
	*s = r
}

// covers reports whether all of [start, end) is in the set.
func (s rangeset) covers(start, end uint64) bool {
	if start >= end {
		return true
	}
	i := s.firstTo(end)
	return i < len(s) && s[i].start <= start
}
