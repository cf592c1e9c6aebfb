package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// memory is what connections cost that nobody uses.
func (r *runner) memory(ctx context.Context, rep *report) error {
	raiseFileLimit()
	n := pick(r.quick, 1000, idleAtTarget)
	fewer := ""
	if n != idleAtTarget {
		fewer = fmt.Sprintf(" (%d of `bench` and the peers)", n)
	}
	rep.section("Idle connections", fmt.Sprintf("Resident memory that %d open connections%s add to all processes of a server, %.0f seconds after the last of "+
		"them was made, and what a connection takes. `serve` runs as it is installed, packet process and helper together, and is looked at for %.0f seconds more, "+
		"in which each connection is kept alive once; the median counts: connections of the protocol sunrpc without a stream, and SMB sessions that are relayed to "+
		"a backend. `bench` and the peers run TLS in the one process they have.", idleAtTarget, fewer, settleIdle.Seconds(), watchIdle.Seconds()))
	t := rep.table("", "MiB", "KiB each")
	row := func(name string, bytes float64, n int) float64 {
		each := bytes / float64(n)
		t.row(name, f1(bytes/mib), f1(each/1024))
		return each
	}
	for _, kind := range []idleKind{{alpn: "sunrpc"}, {alpn: "smb", sessions: true}} {
		bytes, err := r.idleAtServe(ctx, kind, idleAtTarget)
		if err != nil {
			return err
		}
		if kind.sessions {
			each := row("`serve`, relayed sessions", bytes, idleAtTarget)
			rep.target("an idle relayed session", "<= 32 KiB", f1(each/1024)+" KiB", each <= 32<<10)
			continue
		}
		each := row("`serve`, connections", bytes, idleAtTarget)
		rep.target("an idle connection", "<= 12 KiB", f1(each/1024)+" KiB", each <= 12<<10)
	}
	return r.idleAtPeers(ctx, n, func(name string, bytes float64) { row(name, bytes, n) })
}

// idleAtTarget is how many connections the targets are about. With fewer, what a
// process needs by itself counts as theirs.
const idleAtTarget = 10000

// watchIdle is a round of keepalives.
const watchIdle = 10 * time.Second

// idleAtPeers is the same of servers without a helper, one connection each.
func (r *runner) idleAtPeers(ctx context.Context, n int, row func(string, float64)) error {
	order := []string{ours, "quic-go", "tls"}
	if !r.quick {
		order = order[:2]
	}
	works := make(map[string]*work)
	for _, p := range order {
		works[p] = &work{idle: n, timeout: 4 * time.Minute}
	}
	all, err := r.rounds(ctx, 1, works, order)
	if err != nil {
		return err
	}
	for _, p := range order {
		if b := median(all[p], func(m measured) float64 { return float64(m.server.Resident) }); b > 0 {
			name := p
			if p == ours {
				name = "`quic-fsgw bench server`"
			}
			row(name, b)
		}
	}
	return nil
}

// An idleKind is what is opened at serve and left alone.
type idleKind struct {
	alpn     string
	sessions bool // with a stream, a NEGOTIATE and a connection to the backend
}

// idleConfig is a gateway's for as many clients as there may be.
const idleConfig = `listen: [{udp: "%[1]s"}]
tlshd: {certificates: [{names: [%[2]s], cert: %[3]s/%[2]s.crt, key: %[3]s/%[2]s.key}]}
admin: {socket: %[3]s/admin.sock}
log: {level: info, format: text}
limits: {connections: 20000, connections_per_client: 20000, handshakes_per_second: 100000}
routes:
  - name: files
    match: {alpn: smb, server_name: %[2]s}
    access: public
    smb: {backends: ["%[4]s"], min_dialect: "2.1"}
  - name: home
    match: {alpn: sunrpc, server_name: %[2]s}
    access: public
    nfs: {backends: ["%[4]s"], exports: [/], identity: {otherwise: squash}}
`

// idleAtServe is how many bytes n of them add to a gateway.
func (r *runner) idleAtServe(ctx context.Context, kind idleKind, n int) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	backend, err := startHolder()
	if err != nil {
		return 0, err
	}
	defer backend.close()
	dir, err := os.MkdirTemp("", "fsgw")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if err := r.makeCertificates(ctx, dir); err != nil {
		return 0, err
	}
	port, err := freeUDPPort()
	if err != nil {
		return 0, err
	}
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
	config := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, idleConfig, at, siteName, dir, backend.addr()), 0o644); err != nil {
		return 0, err
	}
	gateway, err := startDaemon(ctx, nil, r.fsgw, "serve", "-c", config)
	if err != nil {
		return 0, err
	}
	defer gateway.stop()
	// It serves before its helper is there; the first handshake waits for that.
	if _, err = gateway.wait("serving"); err != nil {
		return 0, err
	}
	first, err := openIdle(ctx, at, kind, 1)
	if err != nil {
		return 0, err
	}
	first.close()
	base := treeResident(gateway.cmd.Process.Pid)
	crowd, err := openIdle(ctx, at, kind, n)
	if err != nil {
		return 0, err
	}
	defer crowd.close()
	select {
	case <-time.After(settleIdle):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	held, err := watchResident(ctx, gateway.cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	return held - float64(base), crowd.alive()
}

// watchResident is the median of a tree's memory over watchIdle, in bytes.
func watchResident(ctx context.Context, pid int) (float64, error) {
	var seen []float64
	tick := time.NewTicker(watchIdle / 20)
	defer tick.Stop()
	for range 20 {
		select {
		case <-tick.C:
			seen = append(seen, float64(treeResident(pid)))
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return middle(seen, func(b float64) float64 { return b }), nil
}

// treeResident is the memory of a process and all below it in RAM, in bytes.
func treeResident(pid int) (bytes int64) {
	for p := range descendants(pid) {
		bytes += resident(p)
	}
	return bytes
}

// A crowd is connections that are open and silent.
type crowd struct {
	ep    *quic.Endpoint
	mu    sync.Mutex
	conns []*quic.Conn
}

// openIdle makes n connections, several at a time.
func openIdle(ctx context.Context, to netip.AddrPort, kind idleKind, n int) (*crowd, error) {
	sock, err := udp.ListenOne(netip.MustParseAddrPort("127.0.0.1:0"), udp.Config{})
	if err != nil {
		return nil, err
	}
	c := &crowd{ep: quic.NewEndpoint([]udp.PacketConn{sock}, nil)}
	cfg := &quic.Config{
		Handshaker: quic.TLS(&tls.Config{InsecureSkipVerify: true, SessionTicketsDisabled: true}), ServerName: siteName,
		NextProtos: []string{kind.alpn}, HandshakeTimeout: 20 * time.Second,
	}
	const parallel = 4
	errs := make(chan error, parallel)
	for i := range parallel {
		go func() {
			for range (n + i) / parallel {
				if err := c.open(ctx, to, cfg, kind); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range parallel {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *crowd) open(ctx context.Context, to netip.AddrPort, cfg *quic.Config, kind idleKind) error {
	conn, err := c.ep.Dial(ctx, to, cfg)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.conns = append(c.conns, conn)
	c.mu.Unlock()
	if !kind.sessions {
		return nil
	}
	s, err := conn.OpenStream(ctx)
	if err != nil {
		return err
	}
	if _, err := s.Write(smbNegotiate()); err != nil {
		return err
	}
	return skipMessage(s)
}

// alive fails if a connection has ended.
func (c *crowd) alive() error {
	for _, conn := range c.conns {
		if err := conn.Err(); err != nil {
			return fmt.Errorf("an idle connection has ended: %w", err)
		}
	}
	return nil
}

func (c *crowd) close() {
	for _, conn := range c.conns {
		_ = conn.CloseWithError(0, "")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	_ = c.ep.Close(ctx) // what is left of it ends with this process
}

// A holder is an SMB server that answers NEGOTIATE and nothing else.
type holder struct {
	l     net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func startHolder() (*holder, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	h := &holder{l: l}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.mu.Lock()
			h.conns = append(h.conns, c)
			h.mu.Unlock()
			go func() {
				if skipMessage(c) == nil {
					_, _ = c.Write(smbNegotiated()) // or the gateway says so
				}
			}()
		}
	}()
	return h, nil
}

func (h *holder) addr() string { return h.l.Addr().String() }

func (h *holder) close() {
	_ = h.l.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.conns {
		_ = c.Close()
	}
}

// skipMessage reads a message of SMB over TCP.
func skipMessage(r io.Reader) error {
	var n [4]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return err
	}
	_, err := io.CopyN(io.Discard, r, int64(binary.BigEndian.Uint32(n[:])))
	return err
}

// smbDialect is SMB 2.1.
const smbDialect = 0x0210

// smbNegotiate is a framed NEGOTIATE request that offers one dialect (MS-SMB2
// 2.2.3), smbNegotiated the answer to it (2.2.4).
func smbNegotiate() []byte {
	body := make([]byte, 38)
	le := binary.LittleEndian
	le.PutUint16(body, 36)    // StructureSize
	le.PutUint16(body[2:], 1) // DialectCount
	le.PutUint16(body[4:], 1) // signing enabled
	le.PutUint16(body[36:], smbDialect)
	return smbMessage(0, body)
}

func smbNegotiated() []byte {
	body := make([]byte, 64)
	le := binary.LittleEndian
	le.PutUint16(body, 65)    // StructureSize
	le.PutUint16(body[2:], 1) // signing enabled
	le.PutUint16(body[4:], smbDialect)
	for _, at := range []int{28, 32, 36} { // MaxTransactSize, MaxReadSize, MaxWriteSize
		le.PutUint32(body[at:], 8<<20)
	}
	return smbMessage(1, body) // from the server
}

// smbMessage is a message of command 0, NEGOTIATE.
func smbMessage(flags uint32, body []byte) []byte {
	head := make([]byte, 64)
	copy(head, "\xfeSMB")
	binary.LittleEndian.PutUint16(head[4:], 64) // StructureSize
	binary.LittleEndian.PutUint16(head[14:], 1) // a credit
	binary.LittleEndian.PutUint32(head[16:], flags)
	b := binary.BigEndian.AppendUint32(nil, uint32(len(head)+len(body)))
	return append(append(b, head...), body...)
}
