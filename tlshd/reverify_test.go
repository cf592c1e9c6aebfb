package tlshd

import (
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// await waits until ok.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(testWait); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// HOSTILE 64: a list that grows, or a CA that goes, is told to the packet
// process, and the chains of live connections are judged by it.
func TestVerifyAfterReload(t *testing.T) {
	s := newSite(t)
	s.cfg.ClientCASets = map[string][]string{"lab": s.cfg.ClientCA}
	crl := filepath.Join(s.dir, "x.crl")
	replaceFile(t, crl, s.clientCA.crl(t, time.Now().Add(time.Hour)))
	s.cfg.CRL = []string{crl}
	l := startLocal(t, s.cfg)
	var changes atomic.Int64
	l.Client.changed = func() { changes.Add(1) }
	staying, leaving := s.clientCA.leaf(t, ecKey(t), forClient), s.clientCA.leaf(t, ecKey(t), forClient)
	connect := func(c *pair) *State { return c.ok().server.state }
	required := func(r *Request) { r.Options.ClientCert = ClientCertRequired }
	a := connect(shake(t, viaHelper(l.Client, serverRequest(required)), s.raw(withCert(staying))))
	b := connect(shake(t, viaHelper(l.Client, serverRequest(required)), s.raw(withCert(leaving))))
	if now := l.Client.Epoch(); a.Epoch != now || b.Epoch != now || now == 0 {
		t.Fatalf("epochs %d and %d, now %d", a.Epoch, b.Epoch, now)
	}
	verify := func(st *State, set string) (uint64, error) {
		t.Helper()
		chain, epoch, err := l.Client.Verify(testContext(t), st.Chain, "smb", set)
		if err == nil && (len(chain) != 3 || string(chain[0]) != string(st.Chain[0])) {
			t.Errorf("a chain of %d certificates", len(chain))
		}
		return epoch, err
	}
	for _, st := range []*State{a, b} {
		if epoch, err := verify(st, "lab"); err != nil || epoch != st.Epoch {
			t.Errorf("before: epoch %d, %v", epoch, err)
		}
	}

	replaceFile(t, crl, s.clientCA.crl(t, time.Now().Add(time.Hour), leaving.Leaf))
	reload(t, l, s.cfg)
	await(t, "CHANGED", func() bool { return changes.Load() == 1 })
	if now := l.Client.Epoch(); a.Epoch == now {
		t.Error("the verdicts count as those of now")
	}
	if epoch, err := verify(a, ""); err != nil || epoch != l.Client.Epoch() {
		t.Errorf("the one that stays: epoch %d, %v", epoch, err)
	}
	_, err := verify(b, "")
	bad, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("the revoked one: %v", err)
	}
	checkRefused(t, bad, StatusEKEYREJECTED, alertCertificateRevoked, ReasonClientCertRevoked)

	// The set is gone; then the CA.
	s.cfg.ClientCASets = nil
	reload(t, l, s.cfg)
	if _, err := verify(a, "lab"); !errors.As(err, &bad) || bad.Reason != ReasonPolicy {
		t.Errorf("a set that is gone: %v", err)
	}
	s.cfg.ClientCA = []string{replaceFile(t, filepath.Join(s.dir, "others.pem"), pemOf("CERTIFICATE", s.serverRoot.cert.Raw))}
	reload(t, l, s.cfg)
	if _, err := verify(a, ""); !errors.As(err, &bad) || bad.Reason != ReasonClientCertCA {
		t.Errorf("a CA that is gone: %v", err)
	}
	st, err := l.Client.ServerStats(testContext(t))
	if err != nil || st.Reverified != 6 || st.ReverifyRefused != 3 {
		t.Errorf("%+v, %v", st, err)
	}

	// What is no chain, or has nobody to judge it.
	for _, chain := range [][][]byte{nil, make([][]byte, maxChainLen+1)} {
		if _, _, err := l.Client.Verify(testContext(t), chain, "smb", ""); err == nil || errors.As(err, &bad) {
			t.Errorf("%d certificates: %v", len(chain), err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := NewClient(ClientOptions{}).Verify(ctx, a.Chain, "smb", ""); !errors.Is(err, ErrHelperGone) {
		t.Errorf("without a helper: %v", err)
	}
}

// A verdict that was on its way when the trust changed does not count as one by
// the new.
func TestVerdictOfYesterday(t *testing.T) {
	s := newSite(t)
	l := startLocal(t, s.cfg)
	cert := s.clientCA.leaf(t, ecKey(t), forClient)
	server := viaHelper(l.Client, serverRequest(func(r *Request) { r.Options.ClientCert = ClientCertRequired }))
	var begun bool
	p := shake(t, func(sink func(Event)) shaker {
		return server(func(e Event) {
			if e.Kind == EventPeerTransportParams && !begun {
				// START has its state; there is another by the time of DONE.
				begun = true
				if err := l.Server.Reload(s.cfg); err != nil {
					t.Error(err)
				}
			}
			sink(e)
		})
	}, s.raw(withCert(cert))).ok()
	await(t, "CHANGED", func() bool { return l.Client.Epoch() == 2 })
	if e := p.server.state.Epoch; e != 0 && e != 1 {
		t.Errorf("epoch %d, want one that is over", e)
	}
}
