package nfs3

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/rpcv2"
)

const (
	defaultTimeout     = 60 * time.Second
	defaultMaxInFlight = 64
	defaultMaxReply    = 1<<20 + 64<<10
	// MaxIO is the most octets one READ or WRITE moves, whatever the server offers.
	MaxIO = 4 << 20
	// replySlack is what a READ reply may hold beside its data: RPC header
	// with a full verifier, attributes and lengths.
	replySlack  = 1 << 10
	lastMark    = 1 << 31
	maxAuthBody = 400
	maxGroups   = 16
	maxMachine  = 255
)

// AuthSys is the AUTH_SYS identity a client claims. A gateway replaces it by
// the identity of the TLS certificate.
type AuthSys struct {
	Machine  string // at most 255 octets
	UID, GID uint32
	Groups   []uint32 // at most 16
}

// Config configures a [Conn]; the zero value is the default.
type Config struct {
	Auth        *AuthSys      // nil: AUTH_NONE
	Timeout     time.Duration // longest wait for a reply, or for the peer to take a call; 0: 60 s
	MaxInFlight int           // calls under way at once; more wait; 0: 64
	MaxReply    int           // octets of a reply other than READ's; 0: 1 MiB + 64 KiB
}

// Conn is an RPC connection: one stream, many calls under way. Its methods
// may be called from any goroutine. A stream that breaks the protocol or
// times out in the middle of a message is closed, and every call fails.
type Conn struct {
	nc      net.Conn
	br      *bufio.Reader
	cfg     Config
	cred    []byte
	buffers sync.Pool

	slots chan struct{} // one token for each call under way
	write chan struct{} // held while a call is written

	mu      sync.Mutex
	pending map[uint32]*call
	current *call // whose reply the reader is receiving
	xid     uint32
	err     error

	closed     chan struct{}
	readerDone chan struct{}
}

// call is one call under way.
type call struct {
	xid   uint32
	into  []byte // READ: where the data goes; nil otherwise
	limit int    // octets of the whole reply
	done  chan struct{}

	// Set by the reader before done is closed.
	reply []byte // results after the RPC header, without READ's data
	n     int    // octets of into that were filled
	eof   bool
	err   error

	abandoned bool // under Conn.mu: nobody waits any more, into must not be touched
}

// NewConn starts an RPC connection on nc, which it owns from then on.
func NewConn(nc net.Conn, cfg Config) (*Conn, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.MaxInFlight <= 0 {
		cfg.MaxInFlight = defaultMaxInFlight
	}
	if cfg.MaxReply <= 0 {
		cfg.MaxReply = defaultMaxReply
	}
	cred, err := appendCredential(nil, cfg.Auth)
	if err != nil {
		nc.Close()
		return nil, err
	}
	c := &Conn{
		nc: nc, br: bufio.NewReaderSize(nc, 16<<10), cfg: cfg, cred: cred,
		slots: make(chan struct{}, cfg.MaxInFlight), write: make(chan struct{}, 1),
		pending: make(map[uint32]*call), xid: rand.Uint32(),
		closed: make(chan struct{}), readerDone: make(chan struct{}),
	}
	c.buffers.New = func() any { b := make([]byte, 0, 512); return &b }
	go c.readReplies()
	return c, nil
}

func appendCredential(b []byte, a *AuthSys) ([]byte, error) {
	if a == nil {
		return appendUint32(appendUint32(b, uint32(rpcv2.AUTH_NONE)), 0), nil
	}
	if len(a.Machine) > maxMachine || len(a.Groups) > maxGroups {
		return nil, fmt.Errorf("nfs credential: machine name of %d octets and %d groups (at most %d and %d)",
			len(a.Machine), len(a.Groups), maxMachine, maxGroups)
	}
	body := appendOpaque(appendUint32(nil, rand.Uint32()), a.Machine)
	body = appendUint32(appendUint32(body, a.UID), a.GID)
	body = appendUint32(body, uint32(len(a.Groups)))
	for _, g := range a.Groups {
		body = appendUint32(body, g)
	}
	return appendOpaque(appendUint32(b, uint32(rpcv2.AUTH_SYS)), body), nil
}

// Close ends the connection; calls under way fail with net.ErrClosed. It
// returns when the reader has ended.
func (c *Conn) Close() error {
	c.fail(net.ErrClosed)
	<-c.readerDone
	return nil
}

// Err returns why the connection is unusable, nil while it is fine.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Done is closed when the connection has become unusable.
func (c *Conn) Done() <-chan struct{} { return c.closed }

// fail ends the connection with err; only the first call counts.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	calls := c.pending
	c.pending = nil
	c.mu.Unlock()
	close(c.closed)
	c.nc.Close()
	for _, cl := range calls {
		cl.err = err
		close(cl.done)
	}
}

// begin returns a buffer that holds a call's header; the caller appends the
// arguments and hands it to roundTrip.
func (c *Conn) begin(prog, vers, proc uint32) *[]byte {
	p := c.buffers.Get().(*[]byte)
	b := append((*p)[:0], make([]byte, 8)...) // record mark and XID, set when sent
	b = appendUint32(b, uint32(rpcv2.CALL))
	b = appendUint32(b, 2)
	b = appendUint32(appendUint32(appendUint32(b, prog), vers), proc)
	b = append(b, c.cred...)
	*p = appendUint32(appendUint32(b, uint32(rpcv2.AUTH_NONE)), 0)
	return p
}

// roundTrip sends the call in b with payload behind it and waits for its
// reply. After it returned, neither payload nor cl.into is used any more.
func (c *Conn) roundTrip(ctx context.Context, b, payload []byte, cl *call) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.closed:
		return c.Err()
	}
	defer func() { <-c.slots }()
	if err := c.register(cl); err != nil {
		return err
	}
	timer := time.NewTimer(c.cfg.Timeout)
	defer timer.Stop()
	if err := c.send(ctx, b, payload, cl.xid); err != nil {
		c.abandon(cl)
		return err
	}
	select {
	case <-cl.done:
		return cl.err
	case <-ctx.Done():
		return c.giveUp(cl, ctx.Err())
	case <-timer.C:
		return c.giveUp(cl, fmt.Errorf("%w (no reply within %v)", ErrTimeout, c.cfg.Timeout))
	}
}

// register gives cl an XID no other call under way has.
func (c *Conn) register(cl *call) error {
	cl.done = make(chan struct{})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	for {
		c.xid++
		if _, taken := c.pending[c.xid]; !taken {
			break
		}
	}
	cl.xid = c.xid
	c.pending[cl.xid] = cl
	return nil
}

// giveUp abandons cl, unless its reply has just arrived after all.
func (c *Conn) giveUp(cl *call, err error) error {
	c.abandon(cl)
	select {
	case <-cl.done:
		if cl.err != errAbandoned {
			return cl.err
		}
	default:
	}
	return err
}

// abandon makes sure that the reader does not touch cl's buffer any more. A
// reader that is filling it at this moment is woken by a read deadline in the
// past, see record.wake.
func (c *Conn) abandon(cl *call) {
	c.mu.Lock()
	delete(c.pending, cl.xid)
	busy := c.current == cl
	if busy {
		cl.abandoned = true
		c.nc.SetReadDeadline(time.Unix(1, 0))
	}
	c.mu.Unlock()
	if busy {
		<-cl.done
	}
}

// send writes one call as one record of one fragment. A call that could not be written
// whole leaves the stream without record boundaries, so it ends the
// connection; a context that ends while the call waits its turn does not.
func (c *Conn) send(ctx context.Context, b, payload []byte, xid uint32) error {
	select {
	case c.write <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.closed:
		return c.Err()
	}
	defer func() { <-c.write }()
	pad := padLen(len(payload))
	binary.BigEndian.PutUint32(b, uint32(len(b)-4+len(payload)+pad)|lastMark)
	binary.BigEndian.PutUint32(b[4:], xid)
	c.nc.SetWriteDeadline(time.Now().Add(c.cfg.Timeout))
	var err error
	if len(payload) == 0 {
		_, err = c.nc.Write(b)
	} else {
		bufs := net.Buffers{b, payload, zeroPad[:pad]}
		_, err = bufs.WriteTo(c.nc)
	}
	if err == nil {
		return nil
	}
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		err = fmt.Errorf("%w (it took no data for %v)", ErrTimeout, c.cfg.Timeout)
	}
	c.fail(fmt.Errorf("rpc send: %w", err))
	return c.Err()
}
