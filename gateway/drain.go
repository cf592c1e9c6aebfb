package gateway

import (
	"context"
	"fmt"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/reason"
)

// Bounds of a drain.
const (
	drainLook  = 250 * time.Millisecond // how often sessions are looked at
	drainQuiet = 3 * time.Second        // a session that has moved nothing for so long is idle
	drainLast  = 5 * time.Second        // before the end of a drain idle SMB sessions are closed, too
)

// Drain refuses new connections and waits until the present ones have ended,
// or ctx is done. NFS sessions with nothing under way are closed, and their
// clients connect again elsewhere. An SMB session is its client's to end, since
// open files may end with it, until shortly before the end of ctx: then those
// that have nothing under way are closed, rather than cut in the middle of
// something a moment later, and their clients take their durable handles elsewhere.
func (g *Gateway) Drain(ctx context.Context) error {
	g.refuseNew()
	tick := time.NewTicker(drainLook)
	defer tick.Stop()
	seen := make(map[*session]quiet)
	for {
		select {
		case <-g.idle:
			return nil
		case now := <-tick.C:
			for _, s := range g.live() {
				q := seen[s].look(s, now)
				seen[s] = q
				last := false
				if deadline, ok := ctx.Deadline(); ok {
					last = deadline.Sub(now) < drainLast
				}
				switch {
				case s.waits():
				case s.route.nfs != nil && (q.idle(now) || s.streams.Load() == 0 && now.Sub(s.started) > drainQuiet):
					s.cut(reason.Drained)
				case s.route.smb != nil && last && q.idle(now):
					s.cut(reason.DrainedSMB)
				}
			}
		case <-ctx.Done():
			return fmt.Errorf("gateway: drain: %d sessions still open: %w", len(g.live()), context.Cause(ctx))
		}
	}
}

// waits reports whether a server owes the client an answer, as far as that is known.
func (s *session) waits() bool {
	relay := s.relay.Load()
	return relay != nil && relay.Due() > 0
}

// quiet is since when a session has moved no byte.
type quiet struct {
	since time.Time
	bytes uint64
}

func (q quiet) idle(now time.Time) bool { return now.Sub(q.since) > drainQuiet }

// look takes note of what the session has moved.
func (q quiet) look(s *session, now time.Time) quiet {
	st := s.conn.Stats()
	n := st.StreamBytesReceived + st.StreamBytesSent
	if q.since.IsZero() || n != q.bytes {
		q = quiet{now, n}
	}
	return q
}

// refuseNew begins a drain: every session that is let in from now on would be
// one that nobody waits for.
func (g *Gateway) refuseNew() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.draining.Store(true)
	if len(g.sessions) == 0 {
		g.closeIdle()
	}
}

// closeIdle tells that no session is left.
func (g *Gateway) closeIdle() {
	select {
	case <-g.idle:
	default:
		close(g.idle)
	}
}
