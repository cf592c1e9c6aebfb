package interop

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic"
	qgo "github.com/quic-go/quic-go"
	xquic "golang.org/x/net/quic"
)

// hq-interop is HTTP/0.9 over QUIC, a file a stream: what implementations of
// QUIC are tested with.
const hq = "hq-interop"

// patience is the idle timeout of all ends, and that of handshakes: several
// retransmissions that are lost one after the other, each after twice the time,
// must fit into it. ngtcp2's server begins with nothing but the first packet of a
// ClientHello.
const patience = 4 * time.Minute

// A peer serves and downloads files.
type peer struct {
	name  string
	serve func(st *stage) netip.AddrPort
	fetch func(ctx context.Context, st *stage, to netip.AddrPort) error
}

// stackPeer is an implementation in Go, in this process.
func stackPeer(s stack) peer {
	return peer{s.name, func(st *stage) netip.AddrPort { return hqServe(st, s) },
		func(ctx context.Context, st *stage, to netip.AddrPort) error { return hqFetch(ctx, st, s, to) }}
}

// settings has each stack do what the stage wants.
func (st *stage) settings(server bool) *settings {
	s := &settings{server: serverTLS(false), client: clientTLS(false)}
	s.server.NextProtos, s.client.NextProtos = []string{hq}, []string{hq}
	if st.chain {
		s.server.Certificates, s.client.RootCAs = []tls.Certificate{longChain().server}, longChain().roots
	}
	s.fsgw = func(c *quic.Config) {
		c.HandshakeTimeout, c.MaxIdleTimeout, c.Qlog = patience, patience, st.tracer
		c.EarlyData = server && st.early
		if server && st.retry {
			c.Retry = quic.RetryAlways
		}
		if st.v2 {
			c.Versions, c.FirstVersion = []quic.Version{quic.Version2, quic.Version1}, quic.Version1
		}
		if server && st.preferred.IsValid() {
			c.PreferredAddress.IPv4 = st.preferred
		}
	}
	s.goConfig = func(c *qgo.Config) {
		c.HandshakeIdleTimeout, c.MaxIdleTimeout, c.Allow0RTT = patience, patience, server && st.early
	}
	if server && st.retry {
		s.goTransport = func(tr *qgo.Transport) { tr.VerifySourceAddress = func(net.Addr) bool { return true } }
	}
	s.xnet = func(c *xquic.Config) {
		c.HandshakeTimeout, c.MaxIdleTimeout, c.RequireAddressValidation = patience, patience, server && st.retry
	}
	return s
}

// ours keeps a connection of ours for the checks at the end.
func (st *stage) ours(c conn) {
	f, ok := c.(fsgwConn)
	if !ok {
		return
	}
	st.mu.Lock()
	st.conns = append(st.conns, f)
	st.mu.Unlock()
	if st.weUpdate {
		go updateKeys(f)
	}
}

// updateKeys updates a connection's keys as often as RFC 9001, Section 6.1 lets it.
func updateKeys(c fsgwConn) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-c.Done():
			return
		case <-tick.C:
			_ = c.UpdateKeys() // not before the last one is acknowledged
		}
	}
}

func hqServe(st *stage, s stack) netip.AddrPort {
	ln := s.listen(st, st.at, st.settings(true))
	ctx, cancel := context.WithCancel(context.Background())
	st.Cleanup(cancel)
	go func() {
		for {
			c, err := ln.Accept(ctx)
			if err != nil {
				return // the test is over
			}
			st.ours(c)
			go hqServeConn(ctx, st, c)
		}
	}()
	return ln.Addr()
}

func hqServeConn(ctx context.Context, st *stage, c conn) {
	for {
		s, err := c.Accept(ctx)
		if err != nil {
			return
		}
		go func() {
			req, err := io.ReadAll(io.LimitReader(readerOnly{s}, 4096))
			name, ok := strings.CutPrefix(strings.TrimRight(string(req), "\r\n"), "GET /")
			if b, known := st.files[name]; err == nil && ok && known {
				_ = send(s, b) // a client that did not get it says so
			} else {
				s.CancelWrite(1)
			}
		}()
	}
}

// hqFetch downloads the stage's files on one connection, or on as many as it wants.
func hqFetch(ctx context.Context, st *stage, s stack, to netip.AddrPort) error {
	set := st.settings(false)
	switch {
	case st.each:
		for _, name := range st.names {
			if err := hqFetchOn(ctx, st, s, to, set, []string{name}, nil); err != nil {
				return err
			}
		}
		return nil
	case st.resume:
		cache := &sessions{tls.NewLRUClientSessionCache(10), make(chan struct{}, 1)}
		set.client.ClientSessionCache = cache
		if err := hqFetchOn(ctx, st, s, to, set, st.names[:1], cache.got); err != nil {
			return err
		}
		set.early = st.early
		return hqFetchOn(ctx, st, s, to, set, st.names[1:], nil)
	}
	return hqFetchOn(ctx, st, s, to, set, st.names, nil)
}

// hqFetchOn downloads files on one connection, and waits for a session ticket where there is a channel for it.
func hqFetchOn(ctx context.Context, st *stage, s stack, to netip.AddrPort, set *settings, names []string, ticket <-chan struct{}) error {
	c, err := s.dial(ctx, st, to, set)
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	defer c.Close(0, "")
	st.ours(c)
	jobs := make(chan string, len(names))
	for _, name := range names {
		jobs <- name
	}
	close(jobs)
	errs := make([]error, min(len(names), 100))
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for name := range jobs {
				if errs[i] = hqGet(ctx, st, c, name); errs[i] != nil {
					return
				}
			}
		})
	}
	err = guard(ctx, c, func() error { wg.Wait(); return errors.Join(errs...) })
	if err == nil && ticket != nil {
		select {
		case <-ticket:
		case <-ctx.Done():
			err = errors.New("no session ticket came")
		}
	}
	return err
}

func hqGet(ctx context.Context, st *stage, c conn, name string) error {
	s, err := c.Open(ctx)
	if err != nil {
		return fmt.Errorf("%s: open: %w", name, err)
	}
	if err := send(s, []byte("GET /"+name+"\r\n")); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	f, err := os.Create(filepath.Join(st.dir, "downloads", name))
	if err != nil {
		return err
	}
	n, err := io.Copy(f, readerOnly{s})
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("%s: after %d bytes: %w", name, n, err)
	}
	return nil
}

// wants is what a test asks of both ends.
type wants struct {
	at        netip.AddrPort // where servers listen; default 127.0.0.1
	v2        bool           // both prefer version 2; the client begins with version 1
	retry     bool           // the server validates addresses
	chacha20  bool           // the peer offers and takes TLS_CHACHA20_POLY1305_SHA256 only
	keyUpdate bool           // the peer updates its keys
	weUpdate  bool           // we do
	resume    bool           // the first file on one connection, the others on a second that resumes it
	each      bool           // each file on a connection of its own
	early     bool           // with resume: the others in 0-RTT packets
	chain     bool           // the server's certificate chain is long
	preferred netip.AddrPort // the server's preferred address
	migrate   netip.Addr     // where ngtcp2's client moves in the middle of it
}

// certificates returns what the server presents and the client trusts.
func (w *wants) certificates() *keyPairs {
	if w.chain {
		return longChain()
	}
	return pki()
}
