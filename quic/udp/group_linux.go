package udp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Group is a set of sockets on one address, one a shard, in which the kernel
// delivers every packet to the shard its connection ID names (see Layout).
//
// The kernel keeps the sockets of a group in a table: a new socket goes to the
// end, and when one is closed the last one moves into its place. Group mirrors
// that table and tells the kernel's program where each shard stands, so that
// shards are never mistaken for positions.
type Group struct {
	mu      sync.Mutex
	cfg     Config
	addr    netip.AddrPort
	shards  int
	sockets []*Socket // by shard; nil after it was closed
	table   []*Socket // by position, as in the kernel
	closed  bool
}

// Listen opens a group of sockets; the index in the result is the shard. Close
// each of them, or use ListenGroup to replace single ones. shards is 1 to 255.
func Listen(addr netip.AddrPort, shards int, cfg Config) ([]*Socket, error) {
	g, err := ListenGroup(addr, shards, cfg)
	if err != nil {
		return nil, err
	}
	return g.Sockets(), nil
}

// ListenGroup opens a group of shards (1 to 255) sockets on addr. It refuses
// an address that is in use, also by a group of the same user.
func ListenGroup(addr netip.AddrPort, shards int, cfg Config) (*Group, error) {
	if shards < 1 || shards > MaxShards {
		return nil, fmt.Errorf("udp: %d shards on %s: want 1 to %d", shards, addr, MaxShards)
	}
	g := &Group{cfg: cfg, addr: addr, shards: shards, sockets: make([]*Socket, shards)}
	for i := range shards {
		s, err := g.open(i)
		if err != nil {
			g.Close()
			return nil, err
		}
		g.sockets[i] = s
	}
	if err := g.steer(); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

// GroupFromFiles makes a group of inherited descriptors in the order of the
// shards: those of all sockets of a group, as File gave them. The caller
// closes the files. If another process keeps duplicates, a socket that is
// closed or replaced here stays in the kernel's table until that process lets
// go of it, without being given anything.
func GroupFromFiles(files []*os.File, cfg Config) (*Group, error) {
	if len(files) < 1 || len(files) > MaxShards {
		return nil, fmt.Errorf("udp: group of %d inherited descriptors: want 1 to %d", len(files), MaxShards)
	}
	g := &Group{cfg: cfg, shards: len(files), sockets: make([]*Socket, len(files))}
	for i, f := range files {
		s, err := FromFile(f, cfg)
		if err == nil && i > 0 && s.local != g.addr {
			err = errors.Join(fmt.Errorf("udp: inherited descriptor %d is bound to %s, the first to %s", i, s.local, g.addr), s.close())
		}
		if err != nil {
			g.Close()
			return nil, err
		}
		g.addr = s.local
		g.join(s, i)
		g.sockets[i] = s
	}
	if err := g.steer(); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

// Sockets are the sockets by shard. A shard whose socket was closed is nil.
func (g *Group) Sockets() []*Socket {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.sockets)
}

// Shards is the number of shards: what Layout.Steer wants to know.
func (g *Group) Shards() int { return g.shards }

// Layout is the layout the group steers by.
func (g *Group) Layout() Layout { return g.cfg.Layout }

// Close closes all sockets.
func (g *Group) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	var errs []error
	for _, s := range g.table {
		if err := s.close(); err != nil && !slices.Contains(g.sockets, s) {
			continue // one that was closed before and stays in the table as shared
		} else if err != nil {
			errs = append(errs, err)
		}
	}
	clear(g.sockets)
	g.table = nil
	return errors.Join(errs...)
}

// open binds one more socket at the end of the kernel's table.
func (g *Group) open(shard int) (*Socket, error) {
	first := len(g.table) == 0
	// The first socket is bound alone and joins the group afterwards: bound
	// with SO_REUSEPORT it would slip into a group of another process of this
	// user, where positions are not what we think.
	s, err := open(g.addr, g.cfg, !first)
	if err != nil {
		if errors.Is(err, unix.EADDRINUSE) && !first {
			err = fmt.Errorf("%w (a group can only be joined by the user that opened it)", err)
		}
		return nil, err
	}
	if first {
		if err := control(s.rc, reusePort); err != nil {
			return nil, errors.Join(fmt.Errorf("udp: share %s: %w", s.local, err), s.close())
		}
		g.addr = s.local // with the port the kernel chose
	}
	g.join(s, shard)
	return s, nil
}

func (g *Group) join(s *Socket, shard int) {
	s.group, s.shard = g, shard
	g.table = append(g.table, s)
}

// remove closes a socket and does to the mirror what the kernel does to its
// table.
func (g *Group) remove(s *Socket) error {
	at := slices.Index(g.table, s)
	if at < 0 {
		return s.close() // says that it is closed
	}
	err := s.close()
	if err == nil && !s.shared.Load() {
		last := len(g.table) - 1
		g.table[at] = g.table[last]
		g.table[last] = nil
		g.table = g.table[:last]
	}
	return err
}

// leave is Close of one socket.
func (g *Group) leave(s *Socket) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.sockets[s.shard] != s {
		return g.remove(s)
	}
	g.sockets[s.shard] = nil
	return errors.Join(g.remove(s), g.steer())
}

// steer gives the kernel a program for where the shards stand now. The kernel
// swaps programs in one step.
func (g *Group) steer() error {
	var on *Socket
	positions := make([]int, g.shards)
	for shard, s := range g.sockets {
		positions[shard] = -1
		if s != nil {
			positions[shard] = slices.Index(g.table, s)
			on = s
		}
	}
	if on == nil || len(g.table) < 2 {
		return nil // nothing to choose from
	}
	err := control(on.rc, func(fd int) error { return attach(fd, g.cfg.Layout.program(positions)) })
	if err != nil {
		return fmt.Errorf("udp: steer the shards of %s: %w", g.addr, err)
	}
	return nil
}

func attach(fd int, p []instruction) error {
	f := make([]unix.SockFilter, len(p))
	for i, in := range p {
		f[i] = unix.SockFilter{Code: in.op, Jt: in.jt, Jf: in.jf, K: in.k}
	}
	prog := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	return os.NewSyscallError("SO_ATTACH_REUSEPORT_CBPF",
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &prog))
}

// drainLimit bounds the wait for the reader of a replaced socket.
const drainLimit = 2 * time.Second

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// Replace opens a new socket for a shard and closes the old one. Packets of
// other shards are not touched, and those of this shard are not lost:
//
//  1. The new socket joins at the end of the table; nothing is steered to it.
//     start (may be nil) is called with it, to start its reader.
//  2. The program is swapped: the shard is the new socket now. After a grace
//     period no processor uses the old program any more.
//  3. The reader of the old socket gets what is still queued, then
//     net.ErrClosed. Replace waits for that as long as ctx lets it, at most
//     two seconds; what is unread by then is lost.
//  4. The old socket is closed. The kernel moves the last one, which is the
//     new one, into its place.
//  5. The program is swapped again to say so. Between 4 and 5, some
//     microseconds, packets of this shard reach any shard; the readers hand
//     them over by Layout.Steer.
//
// start must not call methods of the group or close its sockets.
func (g *Group) Replace(ctx context.Context, shard int, start func(*Socket)) (*Socket, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || shard < 0 || shard >= g.shards {
		return nil, fmt.Errorf("udp: replace shard %d of %d on %s: no such shard, or the group is closed", shard, g.shards, g.addr)
	}
	s, err := g.open(shard)
	if err != nil {
		return nil, err
	}
	if start != nil {
		start(s)
	}
	old := g.sockets[shard]
	g.sockets[shard] = s
	if err := g.steer(); err != nil {
		// The old program is still in force and the new socket is the last one:
		// it leaves as it came.
		g.sockets[shard] = old
		return nil, errors.Join(err, g.remove(s))
	}
	if old == nil {
		return s, nil
	}
	gracePeriod()
	ctx, cancel := context.WithTimeout(ctx, drainLimit)
	defer cancel()
	old.drain.begin(old)
	select {
	case <-old.drain.done:
	case <-ctx.Done():
	}
	return s, errors.Join(g.remove(old), g.steer())
}

// gracePeriod returns when no processor is still delivering a packet by the
// program that was just replaced. MEMBARRIER_CMD_GLOBAL is synchronize_rcu, and
// packets are delivered inside RCU read sections. Where it is refused (an old
// seccomp list, nohz_full) a tick or two have the same effect short of
// processors that are stopped by their hypervisor.
func gracePeriod() {
	const membarrierGlobal = 1
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0); errno != 0 {
		time.Sleep(20 * time.Millisecond)
	}
}

// drain is the end of a replaced socket: its reader takes what is queued.
type drain struct {
	active atomic.Bool
	once   sync.Once
	done   chan struct{} // closed when the queue is empty or the socket closed
}

func (d *drain) init() { d.done = make(chan struct{}) }

func (d *drain) begin(s *Socket) {
	d.active.Store(true)
	// Wakes a reader that waits. From now on Recv does not wait.
	s.recv.watch.expire()
	s.Interrupt()
	if s.closed.Load() {
		d.finish()
	}
}

func (d *drain) finish() { d.once.Do(func() { close(d.done) }) }
