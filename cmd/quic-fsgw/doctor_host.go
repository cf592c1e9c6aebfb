//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/quic-fsgw/quic-fsgw/gateway/admin"
	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/nfs"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/smb"
)

// What the doctor looks at on this host and behind it.

// enoughBuffer is what a socket should hold: a scheduler may be away for some
// milliseconds while packets come at 1 Gbit/s and more.
const enoughBuffer = 2 << 20

// host looks at what does not depend on the configuration.
func (e *examination) host() {
	var tx unix.Timex
	switch state, err := unix.Adjtimex(&tx); {
	case err != nil:
		e.warn("clock", "", "can't be asked whether it is synchronised: %v", err)
	case state == unix.TIME_ERROR || tx.Status&unix.STA_UNSYNC != 0:
		e.warn("clock", "timedatectl set-ntp true", "is not synchronised (%s now): certificates and tickets are judged by it", e.now.UTC().Format(time.RFC3339))
	default:
		e.ok("clock", "synchronised, %s", e.now.UTC().Format(time.RFC3339))
	}
	e.descriptors()
	s, err := udp.ListenOne(netip.MustParseAddrPort("127.0.0.1:0"), udp.Config{})
	if err != nil {
		e.fail("udp", "", "no UDP socket: %v", err)
		return
	}
	defer s.Close()
	c := s.Caps()
	if c.MaxSegments > 1 {
		e.ok("udp", "GSO: %d datagrams a send", c.MaxSegments)
	} else {
		e.warn("udp", "a kernel from 4.18 up", "no GSO: sending takes many times the CPU")
	}
	if c.GRO {
		e.ok("udp", "GRO")
	} else {
		e.warn("udp", "a kernel from 5.0 up", "no GRO: receiving takes many times the CPU")
	}
	for _, b := range []struct {
		what, key string
		n         int
	}{{"receive", "net.core.rmem_max", c.RecvBuffer}, {"send", "net.core.wmem_max", c.SendBuffer}} {
		if b.n < enoughBuffer {
			e.warn("udp", "sysctl -w "+b.key+"=16777216, or deploy/sysctl.d", "%s buffer of %d KiB: packets are dropped in bursts", b.what, b.n>>10)
		} else {
			e.ok("udp", "%s buffer of %d KiB", b.what, b.n>>10)
		}
	}
}

// descriptors compares the limit on open files with what connections may take.
func (e *examination) descriptors() {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil || e.cfg == nil {
		return
	}
	const own = 256 // sockets, logs, admin
	if need := uint64(e.cfg.Limits.Connections) + own; lim.Max < need {
		e.warn("limits", fmt.Sprintf("LimitNOFILE=%d, or lower limits.connections", need), "%d open files are allowed, limits.connections asks for %d", lim.Max, need)
	} else {
		e.ok("limits", "%d open files are allowed", lim.Max)
	}
}

// listeners tells whether the addresses can be served, or are being served.
func (e *examination) listeners(ctx context.Context) {
	running := e.running(ctx)
	for _, l := range e.cfg.Listen {
		s, err := udp.ListenOne(l.UDP.AddrPort(), udp.Config{})
		switch {
		case err == nil:
			_ = s.Close()
			e.ok("ports", "udp %s is free", l.UDP)
		case errors.Is(err, syscall.EADDRINUSE) && running:
			e.ok("ports", "udp %s is served by the running gateway", l.UDP)
		case errors.Is(err, syscall.EADDRINUSE):
			e.fail("ports", "ss -ulpn", "udp %s is in use, and no gateway answers at %s", l.UDP, e.cfg.Admin.Socket)
		case errors.Is(err, syscall.EACCES):
			e.warn("ports", "run the doctor as serve is run", "udp %s can't be tried by this user", l.UDP)
		default:
			e.fail("ports", "ip address", "udp %s: %v", l.UDP, err)
		}
	}
	if a := e.cfg.Admin.HTTP; a != "" && !running {
		l, err := net.Listen("tcp", a.AddrPort().String())
		if err != nil {
			e.fail("ports", "ss -tlpn", "admin.http: %v", err)
			return
		}
		_ = l.Close()
		e.ok("ports", "tcp %s is free", a)
	}
}

// running tells whether a gateway of this configuration answers.
func (e *examination) running(ctx context.Context) bool {
	if e.cfg.Admin.Socket == "" {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	r, err := admin.Call(ctx, string(e.cfg.Admin.Socket), admin.Request{Command: admin.CommandStatus})
	if err != nil || !r.OK {
		e.ok("gateway", "none is running (%s does not answer)", e.cfg.Admin.Socket)
		return false
	}
	e.ok("gateway", "one is running and answers at %s", e.cfg.Admin.Socket)
	return true
}

// backends asks every server of every route, all at once; the lines come in the
// order of the file.
func (e *examination) backends(ctx context.Context) {
	type asked struct {
		of  *config.Route
		sub examination
	}
	var list []*asked
	var work sync.WaitGroup
	for i := range e.cfg.Routes {
		r := &e.cfg.Routes[i]
		var addrs []string
		switch {
		case r.SMB != nil:
			addrs = r.SMB.Backends
		case r.NFS != nil:
			addrs = r.NFS.Backends
		}
		for _, addr := range addrs {
			a := &asked{of: r, sub: examination{cfg: e.cfg, timeout: e.timeout}}
			list = append(list, a)
			work.Go(func() {
				bctx, cancel := context.WithTimeout(ctx, e.timeout)
				defer cancel()
				if r.SMB != nil {
					a.sub.smbBackend(bctx, r, addr)
				} else {
					a.sub.nfsBackend(bctx, r, addr)
				}
			})
		}
	}
	work.Wait()
	for _, a := range list {
		e.findings = append(e.findings, a.sub.findings...)
	}
}

func (e *examination) smbBackend(ctx context.Context, r *config.Route, addr string) {
	pc := smb.ProbeConfig{User: r.SMB.Probe.User, Share: r.SMB.Probe.Share, Timeout: e.timeout, OfferTransportSecurity: true}
	pc.Host, _, _ = net.SplitHostPort(addr)
	for _, n := range r.Match.ServerName {
		if !strings.HasPrefix(n, "*") {
			pc.Host = n // as clients call it
			break
		}
	}
	if r.SMB.Probe.PasswordFile != "" {
		b, err := e.cfg.ReadFile(r.SMB.Probe.PasswordFile)
		if err != nil {
			return // CheckFiles has said so
		}
		pc.Password, _, _ = strings.Cut(string(b), "\n")
		pc.Password = strings.TrimSuffix(pc.Password, "\r")
	}
	if r.SMB.Proxy == "v2" {
		pc.User = ""
	}
	var d net.Dialer
	res, err := smb.Probe(ctx, func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }, pc)
	switch {
	case err != nil && r.SMB.Proxy == "v2":
		e.warn("backends", "", "%s: %s expects a PROXY header, which only the gateway sends: %v", r.Name, addr, err)
	case err != nil:
		e.fail("backends", "is the server up, and does its firewall let this host in?", "%s: %v", r.Name, err)
	case res.Response.TransportSecurity:
		e.fail("backends", "turn transport-level security off on the server", "%s: %s would not encrypt on TCP", r.Name, addr)
	default:
		e.ok("backends", "%s: %s speaks SMB %s, answer in %s", r.Name, addr, res.Response.Dialect, res.NegotiateTime.Round(10*time.Microsecond))
		if !res.Response.SigningRequired {
			e.warn("backends", "require signing on the server", "%s: %s does not require signing", r.Name, addr)
		}
	}
}

func (e *examination) nfsBackend(ctx context.Context, r *config.Route, addr string) {
	took, err := nfs.ProbeNull(ctx, addr, nfs.ProgNFS, 3)
	version := "3"
	if err != nil {
		var err4 error
		if took, err4 = nfs.ProbeNull(ctx, addr, nfs.ProgNFS, 4); err4 == nil {
			err, version = nil, "4"
		}
	}
	if err != nil {
		e.fail("backends", "is the server up, and does its firewall let this host in?", "%s: %v", r.Name, err)
		return
	}
	e.ok("backends", "%s: %s speaks NFS %s, answer in %s", r.Name, addr, version, took.Round(10*time.Microsecond))
	if version != "3" || r.NFS.Ports.Mount == 0 {
		return
	}
	host, _, _ := net.SplitHostPort(addr)
	at := net.JoinHostPort(host, fmt.Sprint(r.NFS.Ports.Mount))
	if _, err := nfs.ProbeNull(ctx, at, nfs.ProgMount, 3); err != nil {
		e.warn("backends", "rpcinfo -p "+host+" shows the port for nfs.ports.mount; NFSv4 does without", "%s: mountd: %v", r.Name, err)
		return
	}
	e.ok("backends", "%s: %s is mountd", r.Name, at)
}
