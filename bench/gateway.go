package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// shook is what handshakes cost a server.
type shook struct{ n, cpu, seconds float64 }

func (s shook) perCPU() float64    { return ratio(s.n, s.cpu) }
func (s shook) perSecond() float64 { return ratio(s.n, s.seconds) }

// gatewayHandshakes is the cost of a handshake to `serve`, where TLS runs in
// the helper process, beside quic-go's server. The client is the same for both.
func (r *runner) gatewayHandshakes(ctx context.Context, rep *report) error {
	dir, err := os.MkdirTemp("", "fsgw")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	p, err := r.startOurs(ctx, dir, "127.0.0.1:1", 0, "") // no session gets as far as its backend
	if err != nil {
		return err
	}
	defer p.stop()
	theirs, err := startDaemon(ctx, nil, r.self, "forward", "--end", "server", "--to", "127.0.0.1:1")
	if err != nil {
		return err
	}
	defer theirs.stop()
	line, err := theirs.wait("listening on ")
	if err != nil {
		return err
	}
	servers := []struct {
		name, addr string
		d          *daemon
	}{{"`serve`, packet process and helper", p.quic, p.gateway}, {"quic-go, one process", line[len("listening on "):], theirs}}
	all := make([][]shook, len(servers))
	for range pick(r.quick, 2, 5) {
		for i, s := range servers {
			m, err := handshakesTo(ctx, s.addr, s.d, pick(r.quick, 300, 1000))
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			all[i] = append(all[i], m)
		}
	}
	rep.section("Full handshakes with the gateway", "One after the other, from the same client process, against `quic-fsgw serve` as it is installed: TLS in the helper, "+
		"routes, access rule, log lines; and against a server on quic-go that does none of this but TLS. CPU is that of all processes of the server.")
	t := rep.table("", "a CPU second", "a second")
	for i, s := range servers {
		t.row(s.name, spread("%.0f", all[i], shook.perCPU), spread("%.0f", all[i], shook.perSecond))
	}
	x := ratio(middle(all[0], shook.perCPU), middle(all[1], shook.perCPU))
	rep.target("handshakes a CPU second, helper included / quic-go", ">= 1", f2(x), x >= 1)
	return nil
}

// handshakesTo connects n times and closes again.
func handshakesTo(ctx context.Context, addr string, d *daemon, n int) (s shook, err error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return s, err
	}
	if to.Addr().IsUnspecified() || to.Addr() == netip.IPv6Unspecified() {
		to = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), to.Port())
	}
	sock, err := udp.ListenOne(netip.MustParseAddrPort("127.0.0.1:0"), udp.Config{})
	if err != nil {
		return s, err
	}
	ep := quic.NewEndpoint([]udp.PacketConn{sock}, nil)
	defer func() {
		closing, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		err = errors.Join(err, ep.Close(closing))
	}()
	cfg := &quic.Config{
		Handshaker: quic.TLS(&tls.Config{InsecureSkipVerify: true, SessionTicketsDisabled: true}), ServerName: siteName, NextProtos: []string{forwardALPN},
	}
	cpu, began := d.cpu(), time.Now()
	for range n {
		c, err := ep.Dial(ctx, to, cfg)
		if err != nil {
			return s, err
		}
		_ = c.CloseWithError(0, "")
	}
	s = shook{n: float64(n), seconds: time.Since(began).Seconds()}
	time.Sleep(100 * time.Millisecond) // what the last ones still cost
	s.cpu = d.cpu() - cpu
	return s, nil
}

// bySize is what a transfer costs by its length, connection setup not included.
func (r *runner) bySize(ctx context.Context, rep *report) error {
	sizes := []uint64{64 << 10, mib, 16 * mib, 256 * mib, 2 * gib}
	if r.quick {
		sizes = sizes[:4]
	}
	order := []string{ours, "quic-go", "tls"}
	rep.section("By bytes", "One stream on a new connection, datagrams of 1400 bytes: Gbit/s as the client sees it, its slow start included, and CPU of both ends.")
	t := rep.table("bytes", "", "Gbit/s", "CPU-s/GiB, both ends")
	both := func(m measured) float64 { return m.client.CPUPerGiB + m.server.CPUPerGiB }
	for _, size := range sizes {
		works := make(map[string]*work)
		for _, p := range order {
			works[p] = &work{upload: size, payload: 1400}
		}
		all, err := r.rounds(ctx, pick(r.quick, 1, 3), works, order)
		if err != nil {
			return err
		}
		for _, p := range order {
			t.row(bytesText(size), p, spread("%.2f", all[p], func(m measured) float64 { return m.client.Gbps }), spread("%.2f", all[p], both))
		}
	}
	return nil
}

// bytesText is a number of bytes to read.
func bytesText(n uint64) string {
	switch {
	case n >= gib:
		return fmt.Sprintf("%d GiB", n/gib)
	case n >= mib:
		return fmt.Sprintf("%d MiB", n/mib)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}
