package recovery

// Oldest calls f for up to n of the oldest ack-eliciting packets of a space
// that are neither acknowledged nor lost, oldest first. What they carried is
// worth sending again when a probe timeout fires.
//
// RFC 9002, Section 6.2.4: "An endpoint SHOULD include new data in packets that
// are sent on PTO expiration. Previously sent data MAY be sent if no new data
// can be sent."
func (l *Loss) Oldest(space Space, n int, f func(*SentPacket)) {
	r := l.space(space).ring
	for i := 0; i < r.n && n > 0; i++ {
		if p := r.at(i); p.state == outstanding && p.AckEliciting {
			f(p)
			n--
		}
	}
}
