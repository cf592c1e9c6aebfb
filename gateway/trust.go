package gateway

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/access"
	"github.com/quic-fsgw/quic-fsgw/gateway/reason"
	"github.com/quic-fsgw/quic-fsgw/gateway/upcall"
)

// What the helper trusts can change while connections live: a revocation list
// grows, a CA goes. It says so, and the chains of live sessions are then judged
// by it again; those that no longer pass are cut.

const (
	recheckTimeout  = 20 * time.Second // for one round
	recheckParallel = 16               // chains at the helper at a time
)

// trustOf is where the chain of a session has to pass.
type trustOf struct {
	chain       [sha256.Size]byte
	alpn, caSet string
}

// Recheck judges the chains of live sessions by what the helper trusts now, and
// returns how many sessions were cut. Sessions whose chain could not be judged
// stay: the next helper, or the next change, is another occasion.
func (g *Gateway) Recheck(ctx context.Context) int {
	if g.opts.Trust == nil {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, recheckTimeout)
	defer cancel()
	groups := make(map[trustOf][]*session)
	for _, s := range g.live() {
		if key, ok := g.trustOf(s); ok {
			groups[key] = append(groups[key], s)
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	cut, unjudged := 0, 0
	slots := make(chan struct{}, recheckParallel)
	for key, sessions := range groups {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			n, err := g.recheckGroup(ctx, key, sessions)
			mu.Lock()
			defer mu.Unlock()
			cut += n
			if err != nil {
				unjudged += len(sessions)
			}
		})
	}
	wg.Wait()
	if cut > 0 || unjudged > 0 {
		g.log.Warn("trust has changed: live connections were judged again", "chains", len(groups), "cut", cut, "not_judged", unjudged)
	}
	return cut
}

// trustOf tells what of a session has to be judged; false: nothing.
func (g *Gateway) trustOf(s *session) (trustOf, bool) {
	if len(s.tls.Chain) == 0 {
		return trustOf{}, false
	}
	r, _ := g.find(s.addr.addr, []string{s.tls.ALPN}, s.tls.ServerName)
	if r == nil {
		r = s.route // a reload that takes it away cuts the session itself
	}
	sum := sha256.New()
	for _, der := range s.tls.Chain {
		sum.Write(der)
	}
	policy, _ := r.quic.HandshakeOptions.(*upcall.Policy)
	if policy == nil || s.trusted.Load() == g.opts.Trust.Epoch() && policy.CASet == *s.caSet.Load() {
		return trustOf{}, false
	}
	return trustOf{[sha256.Size]byte(sum.Sum(nil)), s.tls.ALPN, policy.CASet}, true
}

// recheckGroup judges one chain for all sessions that have it.
func (g *Gateway) recheckGroup(ctx context.Context, key trustOf, sessions []*session) (cut int, err error) {
	verified, epoch, alert, err := g.opts.Trust.Verify(ctx, sessions[0].tls.Chain, key.alpn, key.caSet)
	if err != nil && alert == 0 {
		return 0, err
	}
	for _, s := range sessions {
		if err == nil {
			s.chain.Store(&verified)
			s.caSet.Store(&key.caSet)
			s.trusted.Store(epoch)
			if !g.judgeAgain(s) { // the way up may be another
				cut++
			}
			continue
		}
		g.distrust(s, alert, err)
		cut++
	}
	return cut, nil
}

// distrust cuts a session whose certificate is no longer trusted.
func (g *Gateway) distrust(s *session, alert uint8, err error) {
	r := reason.ByAlert(alert)
	attrs := append(s.attrs(), slog.Bool("allowed", false), slog.String("reason", r.Name), slog.String("error", err.Error()))
	g.log.LogAttrs(g.ctx, slog.LevelWarn, "connection cut: its certificate is no longer trusted", attrs...)
	if g.opts.Audit != nil {
		g.opts.Audit.LogAttrs(g.ctx, slog.LevelInfo, "access", attrs...)
	}
	s.cut(r)
}

// Waits of sessions whose chain will end.
const (
	// endAgain is how long one that can't be judged stays, and one that passes
	// although a certificate of its chain has ended.
	endAgain = time.Minute
	// endLook is the longest wait: clocks are set, and machines sleep.
	endLook = time.Hour
)

// watchEnd has a session judged again when the first certificate of its chain
// ends: a connection may live for weeks, and is not to outlive what it was let in
// by.
func (g *Gateway) watchEnd(s *session, v *access.Verdict) {
	if v.Chain == nil {
		return
	}
	ready := make(chan struct{})
	s.ends = time.AfterFunc(min(s.chainLeft(), endLook), func() {
		<-ready
		if again := g.chainEnded(s); s.conn.Err() == nil {
			s.ends.Reset(min(again, endLook))
		}
	})
	close(ready)
}

// chainEnded judges a session whose chain has ended, and returns when to look at it
// again, if it stays.
func (g *Gateway) chainEnded(s *session) time.Duration {
	if left := s.chainLeft(); left > 0 { // judged meanwhile, and the way up is another
		return left
	}
	if s.conn.Err() != nil || g.opts.Trust == nil {
		return endAgain
	}
	caSet := *s.caSet.Load()
	ctx, cancel := context.WithTimeout(g.ctx, recheckTimeout)
	defer cancel()
	if _, err := g.recheckGroup(ctx, trustOf{alpn: s.tls.ALPN, caSet: caSet}, []*session{s}); err != nil {
		g.log.Warn("the certificate of a live connection has ended, and can not be judged", "conn", s.conn.ID(), "error", err)
	}
	return max(s.chainLeft(), endAgain)
}

func (s *session) chainLeft() time.Duration {
	v := s.verdict.Load()
	if v == nil || v.Chain == nil {
		return endAgain
	}
	return min(time.Until(v.Chain.Ends), 2*endLook) + time.Second // it is good to the end of that second
}

// trustEntering judges a session once more that was verified before the trust
// changed, and so may have been on its way when the others were judged. Nothing
// was let in yet: what can't be judged stays out.
func (g *Gateway) trustEntering(s *session) error {
	if g.opts.Trust == nil {
		return nil
	}
	key, ok := g.trustOf(s)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(g.ctx, recheckTimeout)
	defer cancel()
	cut, err := g.recheckGroup(ctx, key, []*session{s})
	if err != nil {
		s.cut(reason.HelperUnavailable)
	} else if cut > 0 {
		err = errors.New("no longer trusted")
	}
	if by := s.cutBy.Load(); by != nil {
		s.outcome = outcome{reason: *by, err: err}
	}
	return err
}
