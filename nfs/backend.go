package nfs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/quic-fsgw/quic-fsgw/internal/backend"
	"github.com/quic-fsgw/quic-fsgw/internal/tcpio"
)

// target is one NFS server.
type target struct {
	addr  string // host:port of NFS, as in Config.Backends
	host  string
	ports [numServices]uint16

	mu        sync.Mutex
	mountPort uint16    // learnt from its portmapper
	mountTill time.Time // when that is asked again
}

const (
	// mountPortLife is how long a port learnt from a portmapper is believed.
	mountPortLife = time.Minute
	// listTimeout bounds an EXPORT or DUMP call to a backend.
	listTimeout = 10 * time.Second
)

var (
	errOverload    = fmt.Errorf("nfs: too many connections to backends (%w)", backend.ErrNotTried)
	errUnreachable = errors.New("nfs: no backend can be reached")
)

// String returns the address, for logs and outcomes.
func (b *target) String() string { return b.addr }

// target finds the server with that address.
func (s *Service) target(addr string) *target {
	for _, b := range s.targets {
		if b.addr == addr {
			return b
		}
	}
	return nil
}

// changed logs that a backend has failed or works again.
func (s *Service) changed(st backend.State) {
	if st.Up {
		s.log.Info("backend works again", "backend", st.Addr)
		return
	}
	s.log.Warn("backend failed", "backend", st.Addr, "error", st.LastError)
}

// dialAny dials the service on pin or, if pin is nil, on the first backend that answers.
// from is whom the connection is for; nil: the gateway itself.
func (s *Service) dialAny(ctx context.Context, pin *target, svc service, from *Client) (*target, net.Conn, error) {
	if pin != nil {
		conn, err := s.dialOne(ctx, pin, svc, from)
		return pin, conn, err
	}
	var errs []error
	for _, addr := range s.set.Order(from.Key, time.Now(), from.Backends...) {
		b := s.target(addr)
		conn, err := s.dialOne(ctx, b, svc, from)
		if err == nil {
			s.set.Touch(from.Key, addr, time.Now())
			return b, conn, nil
		}
		if ctx.Err() != nil || errors.Is(err, errOverload) {
			return nil, nil, err
		}
		errs = append(errs, err)
	}
	return nil, nil, fmt.Errorf("%w: %w", errUnreachable, errors.Join(errs...))
}

// dialOne dials one backend. How its NFS service answers decides whether it
// counts as failed; a side service that refuses says nothing of NFS.
func (s *Service) dialOne(ctx context.Context, b *target, svc service, from *Client) (conn net.Conn, err error) {
	if svc != serviceNFS {
		return s.dial(ctx, b, svc, from)
	}
	err = s.set.Try(ctx, b.addr, func(ctx context.Context) (err error) {
		conn, err = s.dial(ctx, b, svc, from)
		return err
	})
	return conn, err
}

// dial opens a connection to a service of the backend. It counts until it is closed.
func (s *Service) dial(ctx context.Context, b *target, svc service, from *Client) (net.Conn, error) {
	if n := s.stats.conns.Add(1); n > int64(s.cfg.MaxBackends) {
		s.stats.conns.Add(-1)
		return nil, fmt.Errorf("%w: %d open", errOverload, n-1)
	}
	if from != nil {
		if err := s.set.Acquire(b.addr); err != nil {
			s.stats.conns.Add(-1)
			return nil, fmt.Errorf("nfs: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DialTimeout)
	defer cancel()
	start := time.Now()
	conn, err := s.dialService(ctx, b, svc)
	took := time.Since(start)
	s.stats.dials.Add(1)
	s.stats.dialNanos.Add(uint64(took))
	if err == nil {
		if err = s.introduce(ctx, conn, from); err != nil {
			conn.Close()
		}
	}
	if err != nil {
		s.letGo(b, from)
		s.stats.dialErrors.Add(1)
		return nil, fmt.Errorf("nfs: dial %s service of %s: %w", svc, b, err)
	}
	if svc == serviceNFS {
		s.set.Dialed(b.addr, took)
	}
	return tcpio.Wrap(conn), nil
}

// introduce sends the PROXY header, where backends expect one.
func (s *Service) introduce(ctx context.Context, conn net.Conn, from *Client) error {
	if !s.cfg.Proxy {
		return nil
	}
	header := backend.AppendProxyLocal(nil)
	if from != nil && from.Proxy != nil {
		header = backend.AppendProxy(nil, from.Proxy)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(header); err != nil {
		return fmt.Errorf("PROXY header: %w", orCause(ctx, err))
	}
	return nil
}

// hangUp closes a connection that dial opened for from; call it once.
func (s *Service) hangUp(b *target, conn net.Conn, from *Client) {
	conn.Close()
	s.letGo(b, from)
}

func (s *Service) letGo(b *target, from *Client) {
	s.stats.conns.Add(-1)
	if from != nil {
		s.set.Release(b.addr)
	}
}

func (s *Service) dialService(ctx context.Context, b *target, svc service) (net.Conn, error) {
	port := b.ports[svc]
	if port != 0 || svc != serviceMount {
		return s.dialPort(ctx, b, port)
	}
	port, cached, err := s.findMountPort(ctx, b)
	if err != nil {
		return nil, err
	}
	conn, err := s.dialPort(ctx, b, port)
	if err == nil || !cached {
		return conn, err
	}
	// A restarted mountd has another port.
	b.forgetMountPort()
	if port, _, err = s.findMountPort(ctx, b); err != nil {
		return nil, err
	}
	return s.dialPort(ctx, b, port)
}

func (b *target) forgetMountPort() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mountPort = 0
}

// findMountPort asks the backend's portmapper for mountd, or returns what it said lately.
func (s *Service) findMountPort(ctx context.Context, b *target) (port uint16, cached bool, err error) {
	b.mu.Lock()
	port = b.mountPort
	cached = port != 0 && time.Now().Before(b.mountTill)
	b.mu.Unlock()
	if cached {
		return port, true, nil
	}
	conn, err := s.dialPort(ctx, b, s.cfg.Ports.Portmap)
	if err != nil {
		return 0, false, fmt.Errorf("portmapper: %w (hint: set ports.mount)", err)
	}
	defer conn.Close()
	if port, err = getPort(ctx, conn, ProgMount, 3); err != nil {
		return 0, false, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mountPort, b.mountTill = port, time.Now().Add(mountPortLife)
	return port, false, nil
}

func (s *Service) dialPort(ctx context.Context, b *target, port uint16) (net.Conn, error) {
	address := net.JoinHostPort(b.host, strconv.Itoa(int(port)))
	if s.cfg.Dial != nil {
		return s.cfg.Dial(ctx, "tcp", address)
	}
	if s.cfg.PrivilegedPort {
		return dialPrivileged(ctx, address)
	}
	var d tcpio.Dialer
	return d.DialContext(ctx, "tcp", address)
}

// Ports that dialPrivileged takes: those below are reserved for well-known services.
const (
	lowPrivileged  = 665
	highPrivileged = 1023
)

// dialPrivileged dials from a port that only root, or CAP_NET_BIND_SERVICE, may take.
func dialPrivileged(ctx context.Context, address string) (net.Conn, error) {
	const n = highPrivileged - lowPrivileged + 1
	first := rand.IntN(n)
	for i := range n {
		d := net.Dialer{
			LocalAddr: &net.TCPAddr{Port: lowPrivileged + (first+i)%n},
			Control:   reuseAddress,
		}
		conn, err := d.DialContext(ctx, "tcp", address)
		if err == nil || !addressTaken(err) || ctx.Err() != nil {
			return conn, err
		}
	}
	return nil, fmt.Errorf("no free source port from %d to %d (hint: let the export accept ports above 1023 and switch privileged_port off)", lowPrivileged, highPrivileged)
}

// roundTrip sends one whole call record and returns the message that answers it,
// at most limit bytes. The context's deadline applies; the connection is of use to nobody else.
func roundTrip(ctx context.Context, conn net.Conn, record []byte, limit int64) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(record); err != nil {
		return nil, orCause(ctx, err)
	}
	msg, err := readMessage(conn, limit)
	if err != nil {
		return nil, orCause(ctx, err)
	}
	if len(msg) < 8 || string(msg[:4]) != string(record[markLen:markLen+4]) || binary.BigEndian.Uint32(msg[4:]) != msgReply {
		return nil, errors.New("answer is not a reply to the call")
	}
	return msg, nil
}

// orCause prefers the reason why a context ended to the error that it led to.
func orCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// readMessage reads a whole message. Memory grows with what arrives, not with what is announced.
func readMessage(r io.Reader, limit int64) ([]byte, error) {
	f := framer{limits: Limits{MaxMessage: limit, MaxFragments: 1024}}
	var msg []byte
	for !f.atEnd() {
		var mark [markLen]byte
		if _, err := io.ReadFull(r, mark[:]); err != nil {
			return nil, err
		}
		if err := f.mark(binary.BigEndian.Uint32(mark[:])); err != nil {
			return nil, err
		}
		for f.rem > 0 {
			start := len(msg)
			msg = append(msg, make([]byte, min(f.rem, 16<<10))...)
			n, err := io.ReadFull(r, msg[start:])
			if err != nil {
				return nil, err
			}
			f.take(n)
		}
	}
	return msg, nil
}

// successResults returns the results of a successful reply.
func successResults(msg []byte) ([]byte, error) {
	d := decoder{b: msg}
	d.uint32() // XID
	d.uint32() // direction
	if stat := d.uint32(); stat != replyAccepted && !d.bad {
		return nil, fmt.Errorf("call denied (reject status %d, detail %d)", d.uint32(), d.uint32())
	}
	d.uint32()
	d.opaque(maxAuthBody)
	stat := d.uint32()
	if d.bad {
		return nil, errors.New("reply is malformed")
	}
	if stat != uint32(AcceptSuccess) {
		return nil, fmt.Errorf("call failed with accept status %d", stat)
	}
	return d.b, nil
}

// appendCall appends a call record. auth is credential and verifier, as in Identity.
func appendCall(b []byte, xid, program, version, procedure uint32, auth, args []byte) []byte {
	start := len(b)
	b = be32(b, 0)
	b = appendCallHeader(b, &Call{XID: xid, Program: program, Version: version, Procedure: procedure}, auth)
	return endReply(append(b, args...), start)
}

// appendCallHeader appends the header of a call with another credential and verifier.
func appendCallHeader(b []byte, c *Call, auth []byte) []byte {
	b = be32(be32(b, c.XID), msgCall)
	b = be32(be32(b, rpcVersion), c.Program)
	b = be32(be32(b, c.Version), c.Procedure)
	return append(b, auth...)
}

// getPort asks the portmapper at the other end of conn for a TCP port.
func getPort(ctx context.Context, conn net.Conn, program, version uint32) (uint16, error) {
	args := be32(be32(nil, program), version)
	args = be32(be32(args, protoTCP), 0)
	msg, err := roundTrip(ctx, conn, appendCall(nil, rand.Uint32(), ProgPortmap, 2, pmapGetPort, anonymous, args), 4096)
	if err != nil {
		return 0, fmt.Errorf("portmapper at %s: %w", conn.RemoteAddr(), err)
	}
	results, err := successResults(msg)
	if err != nil {
		return 0, fmt.Errorf("portmapper at %s: %w", conn.RemoteAddr(), err)
	}
	d := decoder{b: results}
	port := d.uint32()
	if d.bad || port == 0 || port > 65535 {
		return 0, fmt.Errorf("portmapper at %s knows no TCP port for program %d version %d (answer %d)", conn.RemoteAddr(), program, version, port)
	}
	return uint16(port), nil
}
