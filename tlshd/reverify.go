package tlshd

import (
	"crypto/x509"
	"time"
)

// A verdict holds for the CAs and revocation lists that it was given by. When
// they change, the helper says so (CHANGED), and the packet process asks about
// the chains of its live connections again (VERIFY). Each DONE bears the number
// of the state it was given by, because it may be on its way when CHANGED is.

// maxVerifying bounds the VERIFY requests of a packet process that are under way.
const maxVerifying = 64

func (s *Server) enlist(ses *session) {
	s.smu.Lock()
	defer s.smu.Unlock()
	s.sessions[ses] = struct{}{}
}

func (s *Server) strike(ses *session) {
	s.smu.Lock()
	defer s.smu.Unlock()
	delete(s.sessions, ses)
}

// announce tells every packet process that there is another state. One that
// does not read holds up no reload.
func (s *Server) announce() {
	s.smu.Lock()
	defer s.smu.Unlock()
	for ses := range s.sessions {
		if ses.announcing.CompareAndSwap(false, true) {
			ses.wg.Add(1) // not yet waited for: the session is in the list
			go ses.writeChanged()
		}
	}
}

func (ses *session) writeChanged() {
	defer ses.wg.Done()
	ses.announcing.Store(false) // what changes from here on is told again
	var b body
	b.u64(attrGeneration, ses.s.state.Load().number)
	if err := ses.sock.write(msgChanged, 0, false, b); err != nil {
		ses.cancel()
	}
}

// verify answers VERIFY: the chain of a client, as DONE had it.
func (ses *session) verify(id uint64, as attributes) error {
	var certs []*x509.Certificate
	for _, der := range as.all(attrRemoteAuth) {
		// The chain has been here before, and has passed. What is parsed refers to
		// what it was parsed of, which has to be there after this message.
		c, err := x509.ParseCertificate(clone(der))
		if err != nil {
			return protocolError("VERIFY: %v", err)
		}
		certs = append(certs, c)
	}
	if id == 0 || len(certs) == 0 {
		return protocolError("VERIFY of %d certificates with the request id %d", len(certs), id)
	}
	st, alpn := ses.s.state.Load(), as.str(attrALPN)
	set := st.caSets[as.str(attrCASet)]
	select {
	case ses.verifying <- struct{}{}:
	case <-ses.ctx.Done():
		return ses.ctx.Err()
	}
	ses.wg.Add(1)
	go func() {
		defer ses.wg.Done()
		defer func() { <-ses.verifying }()
		chain, bad := []*x509.Certificate(nil), (*Error)(nil)
		if set == nil {
			bad = refused(alertUnknownCA, ReasonPolicy, "there is no set of client CAs of that name any more")
		} else {
			v := &verification{roots: set.pool, crls: set.crls, alpn: alpn, now: time.Now(), warn: ses.warnCRL, verdicts: &clientVerdicts}
			chain, bad = v.verify(certs)
		}
		b := encodeFailure(&Error{Reason: ReasonOK})
		if bad != nil {
			b = encodeFailure(bad)
			ses.s.count.reverifyRefused.Add(1)
		}
		b.u64(attrGeneration, st.number)
		for _, c := range chain {
			b.bytes(attrRemoteAuth, c.Raw)
		}
		ses.s.count.reverified.Add(1)
		if err := ses.sock.write(msgVerify, id, true, b); err != nil {
			ses.cancel()
		}
	}()
	return nil
}

func (ses *session) warnCRL(path string) {
	ses.s.log.Warn("revocation list past its next update (renew it)", "file", path)
}
