package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// dialWindow is the receive window of SMB connections in bytes: a client that
// reads large files should not wait for credit.
const dialWindow = 8 << 20

// Dialer makes QUIC connections to gateways, all from one UDP socket for each
// address family.
type Dialer struct {
	Handshaker quic.Handshaker
	ServerName string // to ask for and to verify instead of the host dialled
	Logger     *slog.Logger
	Congestion quic.Congestion // of what this end sends

	tokens    quic.TokenStore
	mu        sync.Mutex
	endpoints map[bool]*quic.Endpoint // by "is IPv4"
	closed    bool
}

// Dial is a Dial function.
func (d *Dialer) Dial(ctx context.Context, alpn, host string, port uint16) (*Session, error) {
	c, err := d.DialConn(ctx, alpn, host, port)
	if err != nil {
		return nil, err
	}
	return &Session{
		Open:  func(ctx context.Context) (net.Conn, error) { return c.OpenStream(ctx) },
		Close: func() error { return c.CloseWithError(0, "") },
	}, nil
}

// stagger is how long one address of a host has to answer before the next is
// tried beside it (RFC 8305, Section 5: 250 milliseconds).
const stagger = 250 * time.Millisecond

// maxAddrs bounds the addresses of a host that are tried.
const maxAddrs = 8

// DialConn connects to the first of the host's addresses that answers.
func (d *Dialer) DialConn(ctx context.Context, alpn, host string, port uint16) (*quic.Conn, error) {
	at := net.JoinHostPort(host, strconv.Itoa(int(port)))
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, &ConnectError{URL: at, Err: err}
	}
	c, err := d.race(ctx, alpn, host, port, addrs[:min(len(addrs), maxAddrs)])
	if err != nil {
		return nil, &ConnectError{URL: at, Err: err}
	}
	return c, nil
}

type dialResult struct {
	conn *quic.Conn
	addr netip.AddrPort
	err  error
}

// race starts an attempt for each address, one after the other, until one
// succeeds; the rest are abandoned.
func (d *Dialer) race(ctx context.Context, alpn, host string, port uint16, addrs []netip.Addr) (*quic.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan dialResult)
	running, next := 0, 0
	start := func() {
		if next == len(addrs) {
			return
		}
		at := netip.AddrPortFrom(addrs[next].Unmap(), port)
		next++
		running++
		go func() {
			c, err := d.dialAddr(ctx, alpn, host, at)
			results <- dialResult{c, at, err}
		}()
	}
	defer func() {
		cancel()
		go func() { // those that lost the race end at once, for their context is gone
			for range running {
				if r := <-results; r.conn != nil {
					_ = r.conn.CloseWithError(0, "")
				}
			}
		}()
	}()
	timer := time.NewTicker(stagger)
	defer timer.Stop()
	start()
	var errs []error
	for running > 0 {
		select {
		case <-timer.C:
			start()
		case r := <-results:
			running--
			if r.err == nil {
				return r.conn, nil
			}
			errs = append(errs, fmt.Errorf("%s: %w", r.addr, r.err))
			start()
		}
	}
	return nil, errors.Join(errs...)
}

func (d *Dialer) dialAddr(ctx context.Context, alpn, host string, at netip.AddrPort) (*quic.Conn, error) {
	e, err := d.endpoint(at.Addr().Is4())
	if err != nil {
		return nil, err
	}
	name := d.ServerName
	if name == "" {
		name = host
	}
	cfg := &quic.Config{
		Handshaker: d.Handshaker, ServerName: name, NextProtos: []string{alpn}, KeepAlive: 10 * time.Second,
		StreamWindow: dialWindow, ConnWindow: dialWindow, MaxStreamsUni: -1, MaxStreamsBidi: -1, Logger: d.Logger, Tokens: &d.tokens,
		Congestion: d.Congestion,
	}
	if alpn == "sunrpc" {
		cfg.Versions = []quic.Version{quic.Version1} // the protocol's draft is written for version 1
	}
	return e.Dial(ctx, at, cfg)
}

func (d *Dialer) endpoint(v4 bool) (*quic.Endpoint, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, net.ErrClosed
	}
	if e := d.endpoints[v4]; e != nil {
		return e, nil
	}
	any := netip.IPv6Unspecified()
	if v4 {
		any = netip.IPv4Unspecified()
	}
	s, err := udp.ListenOne(netip.AddrPortFrom(any, 0), udp.Config{})
	if err != nil {
		return nil, fmt.Errorf("udp socket: %w", err)
	}
	if d.endpoints == nil {
		d.endpoints = make(map[bool]*quic.Endpoint)
	}
	e := quic.NewEndpoint([]udp.PacketConn{s}, nil)
	d.endpoints[v4] = e
	return e, nil
}

// Close closes the sockets and all connections on them.
func (d *Dialer) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var errs []error
	for _, e := range d.endpoints {
		errs = append(errs, e.Close(ctx))
	}
	return errors.Join(errs...)
}
