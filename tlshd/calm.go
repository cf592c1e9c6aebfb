package tlshd

import "runtime/debug"

// A crowd of handshakes leaves several times as much memory behind as the helper
// has need of, and the runtime gives it back so slowly that it shows for minutes.
// So it is given back as soon as the crowd is through.

// crowdSize is how many handshakes leave enough behind to be worth a collection.
const crowdSize = 256

// calmWatch tells when a crowd is through.
type calmWatch struct {
	seen    uint64 // handshakes begun when it last looked
	settled uint64 // the same at the end of the last crowd
}

// look reports that there has been a crowd and that since the last look nobody else
// has come.
func (w *calmWatch) look(started uint64) bool {
	calm := started == w.seen
	w.seen = started
	if !calm || started-w.settled < crowdSize {
		return false
	}
	w.settled = started
	return true
}

// releaseAfterCrowd is called now and then.
func (s *Server) releaseAfterCrowd(w *calmWatch) {
	if w.look(s.count.started.Load()) {
		debug.FreeOSMemory()
	}
}
