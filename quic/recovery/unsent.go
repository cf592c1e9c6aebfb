package recovery

// Unsent takes a packet back that was recorded with Sent as the last of its
// space and that the socket refused. Its number stays used.
func (l *Loss) Unsent(space Space, pn uint64) {
	s := l.space(space)
	i := s.ring.search(pn)
	if i >= s.ring.n {
		return
	}
	p := s.ring.at(i)
	if p.PN != pn || p.state != outstanding {
		return
	}
	p.state = declaredLost
	l.remove(s, p)
	s.trim()
}
