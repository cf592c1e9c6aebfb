package udp

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func group(t testing.TB, addr string, shards int, cfg Config) *Group {
	t.Helper()
	g, err := ListenGroup(netip.MustParseAddrPort(addr), shards, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	for _, s := range g.Sockets() {
		guard(t, s)
	}
	return g
}

// reach is an address of the group, which may be bound to a wildcard.
func reach(g *Group, family string) netip.AddrPort {
	a := netip.MustParseAddr("127.0.0.1")
	if family == "v6" {
		a = netip.IPv6Loopback()
	}
	return netip.AddrPortFrom(a, g.Sockets()[0].LocalAddr().Port())
}

// mailbox collects what the readers of a group got, after handing over what
// belongs elsewhere, as an endpoint does.
type mailbox struct {
	g        *Group
	wg       sync.WaitGroup
	arrived  chan arrival
	handover atomic.Int64
}

type arrival struct {
	shard int // whose reader took it off its socket
	owner int // where it belongs by its connection ID, -1: anywhere
	seq   uint32
}

func newMailbox(g *Group) *mailbox {
	b := &mailbox{g: g, arrived: make(chan arrival, 1<<16)}
	for _, s := range g.Sockets() {
		b.read(s)
	}
	return b
}

// read starts the reader of one socket. The number of a packet is in its last
// four bytes.
func (b *mailbox) read(s *Socket) {
	b.wg.Go(func() {
		m := RecvMsg{Buf: make([]byte, MinRecvBuffer)}
		for s.Recv(&m) == nil {
			for rest := m.Buf[:m.N]; len(rest) > 0; {
				pkt := rest[:min(m.SegmentSize, len(rest))]
				rest = rest[len(pkt):]
				owner, ok := b.g.Layout().Steer(pkt, b.g.Shards())
				if !ok {
					owner = -1
				} else if owner != s.Shard() {
					b.handover.Add(1)
				}
				b.arrived <- arrival{s.Shard(), owner, binary.BigEndian.Uint32(pkt[len(pkt)-4:])}
			}
		}
	})
}

func numbered(pkt []byte, seq uint32) []byte {
	binary.BigEndian.PutUint32(pkt[len(pkt)-4:], seq)
	return pkt
}

// Every packet with a connection ID of ours reaches its shard, in both header
// forms; Initials with IDs of the client reach the shard Steer names.
func TestGroupSteers64Of64(t *testing.T) {
	for _, tt := range []struct{ addr, family string }{{"127.0.0.1:0", "v4"}, {"[::1]:0", "v6"}, {"[::]:0", "v4"}, {"[::]:0", "v6"}} {
		t.Run(tt.addr+" "+tt.family, func(t *testing.T) {
			g := group(t, tt.addr, 8, Config{})
			b := newMailbox(g)
			to := reach(g, tt.family)
			for i := range 64 {
				// A socket for each packet: GRO joins only one flow.
				c := socket(t, "[::]:0", Config{})
				id := newID(t, Layout{}, uint8(i%8), uint8(i))
				pkt := short(id)
				switch i / 8 % 4 {
				case 1:
					pkt = long(0xe0, id) // Handshake
				case 2:
					pkt = long(0xc0, id) // Initial answering ours
				case 3:
					pkt = long(0xc0, newID(t, Layout{Len: 18}, uint8(i), 0))
				}
				if err := c.Send(&SendMsg{Data: numbered(pkt, uint32(i)), Remote: to}); err != nil {
					t.Fatal(err)
				}
				got := <-b.arrived
				if got.owner != got.shard || got.seq != uint32(i) {
					t.Errorf("packet %d of shard %d reached shard %d", i, got.owner, got.shard)
				}
				if i/8%4 != 3 && got.shard != i%8 {
					t.Errorf("packet %d reached shard %d, want %d", i, got.shard, i%8)
				}
				c.Close()
			}
			if n := b.handover.Load(); n != 0 {
				t.Errorf("%d packets had to be handed over", n)
			}
			g.Close()
			b.wg.Wait()
		})
	}
}

// Packets of several shards on one address pair arrive joined by GRO at one
// shard; segment by segment they are told apart.
func TestGroupSplitsJoinedShards(t *testing.T) {
	g := group(t, "127.0.0.1:0", 4, Config{})
	b := newMailbox(g)
	c := socket(t, "127.0.0.1:0", Config{GSO: On})
	var batch []byte
	for i := range 40 {
		batch = append(batch, numbered(short(newID(t, Layout{}, uint8(i%4), 0)), uint32(i))...)
	}
	if err := c.Send(&SendMsg{Data: batch, SegmentSize: len(batch) / 40, Remote: reach(g, "v4")}); err != nil {
		t.Fatal(err)
	}
	for range 40 {
		if got := <-b.arrived; got.owner != int(got.seq%4) {
			t.Errorf("packet %d belongs to %d, Steer says %d", got.seq, got.seq%4, got.owner)
		}
	}
	if n := b.handover.Load(); n != 30 {
		t.Errorf("%d handed over, want 30", n)
	}
	g.Close()
	b.wg.Wait()
}

// load sends to all shards without end and checks that each packet arrives
// once. At most window packets are on the way, so that none is lost for want
// of buffer: whatever is missing was lost by the group.
type load struct {
	t      *testing.T
	b      *mailbox
	to     netip.AddrPort
	ids    [][]byte // connections; the shard of i is i % shards, clients' IDs last
	stop   chan struct{}
	done   chan struct{}
	wrong  atomic.Int64 // packets of settled shards at another shard
	moving atomic.Int64 // the shard that is being replaced
	mu     sync.Mutex
	more   sync.Cond // broadcast when total or ended changed
	total  int
	ended  bool
}

func startLoad(t *testing.T, g *Group, b *mailbox) *load {
	l := &load{t: t, b: b, to: reach(g, "v4"), stop: make(chan struct{}), done: make(chan struct{})}
	l.more.L = &l.mu
	l.moving.Store(-1)
	for i := range 4 * g.Shards() {
		l.ids = append(l.ids, newID(t, g.Layout(), uint8(i%g.Shards()), 0))
	}
	go l.run()
	return l
}

// wait returns when n more packets have arrived.
func (l *load) wait(n int) {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for want := l.total + n; l.total < want; l.more.Wait() {
		if l.ended {
			l.t.Fatal("the load stopped")
		}
	}
}

func (l *load) count(n int, ended bool) {
	l.mu.Lock()
	l.total += n
	l.ended = ended
	l.mu.Unlock()
	l.more.Broadcast()
}

func (l *load) run() {
	defer close(l.done)
	defer l.count(0, true)
	var socks []*Socket
	for range l.ids {
		socks = append(socks, socket(l.t, "127.0.0.1:0", Config{}))
	}
	const window = 64
	missing := make(map[uint32]bool)
	for seq := uint32(0); ; {
		select {
		case <-l.stop:
			if len(missing) == 0 {
				return
			}
		default:
			for len(missing) < window {
				i := int(seq) % len(l.ids)
				pkt := short(l.ids[i])
				if seq%5 == 0 { // the same connections in their handshake
					pkt = long(0xc0, l.ids[i])
				}
				if err := socks[i].Send(&SendMsg{Data: numbered(pkt, seq), Remote: l.to}); err != nil {
					l.t.Error(err)
					return
				}
				missing[seq] = true
				seq++
			}
		}
		var got arrival
		select {
		case got = <-l.b.arrived:
		case <-time.After(30 * time.Second): // frozen machines are not lost packets
			l.t.Errorf("%d packets were lost", len(missing))
			return
		}
		if !missing[got.seq] {
			l.t.Errorf("packet %d arrived twice", got.seq)
		}
		delete(missing, got.seq)
		l.count(1, false)
		if got.owner != int(got.seq)%l.b.g.Shards() {
			l.t.Errorf("packet %d belongs to %d, Steer says %d", got.seq, int(got.seq)%l.b.g.Shards(), got.owner)
		}
		if got.owner != got.shard && int64(got.owner) != l.moving.Load() {
			l.wrong.Add(1)
		}
	}
}

// Replacing every shard in turn under load: nothing of any shard is lost, and
// nothing of the other shards even takes a detour.
func TestReplaceUnderLoad(t *testing.T) {
	for _, shards := range []int{1, 2, 5} {
		g := group(t, "127.0.0.1:0", shards, Config{})
		b := newMailbox(g)
		l := startLoad(t, g, b)
		for round := range 2 * shards {
			shard := round % shards
			old := g.Sockets()[shard]
			l.moving.Store(int64(shard))
			s, err := g.Replace(t.Context(), shard, b.read)
			if err != nil {
				t.Fatal(err)
			}
			guard(t, s)
			if s == old || s.Shard() != shard || g.Sockets()[shard] != s || s.LocalAddr() != old.LocalAddr() {
				t.Fatalf("shard %d: %v became %v", shard, old, s)
			}
			if err := old.Recv(&RecvMsg{Buf: make([]byte, MinRecvBuffer)}); err != net.ErrClosed {
				t.Errorf("Recv on the replaced socket: %v", err)
			}
			// All that is under way may have been steered by the old program.
			l.wait(500)
		}
		close(l.stop)
		<-l.done
		t.Logf("%d shards, %d replaced: %d packets, %d handed over", shards, 2*shards, l.total, b.handover.Load())
		if n := l.wrong.Load(); n != 0 {
			t.Errorf("%d packets of other shards took a detour", n)
		}
		g.Close()
		b.wg.Wait()
	}
}

// A shard that is closed and opened again later: the others keep theirs,
// whatever the kernel moves where.
func TestCloseMembersInAnyOrder(t *testing.T) {
	g := group(t, "127.0.0.1:0", 5, Config{})
	b := newMailbox(g)
	check := func(step string, alive ...int) {
		t.Helper()
		for _, shard := range alive {
			c := socket(t, "127.0.0.1:0", Config{})
			if err := c.Send(&SendMsg{Data: short(newID(t, Layout{}, uint8(shard), 0)), Remote: g.addr}); err != nil {
				t.Fatal(err)
			}
			if got := <-b.arrived; got.shard != shard {
				t.Errorf("%s: packet of shard %d reached %d", step, shard, got.shard)
			}
			c.Close()
		}
	}
	closeShard := func(i int) {
		t.Helper()
		s := g.Sockets()[i]
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if g.Sockets()[i] != nil {
			t.Errorf("shard %d is still listed", i)
		}
		if err := s.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second Close: %v", err)
		}
	}
	check("all", 0, 1, 2, 3, 4)
	closeShard(1) // the kernel puts 4 where 1 was
	check("without 1", 0, 2, 3, 4)
	closeShard(4)
	check("without 1 and 4", 0, 2, 3)
	closeShard(0)
	check("without 0, 1 and 4", 2, 3)
	for _, shard := range []int{4, 0, 1} {
		s, err := g.Replace(t.Context(), shard, b.read)
		if err != nil {
			t.Fatal(err)
		}
		guard(t, s)
	}
	check("all again", 0, 1, 2, 3, 4)
	if s, err := g.Replace(t.Context(), 2, b.read); err != nil {
		t.Fatal(err)
	} else {
		guard(t, s)
	}
	check("2 replaced", 0, 1, 2, 3, 4)
	g.Close()
	b.wg.Wait()
}

// What is queued on a socket when its shard is replaced is still read, also by
// a reader that comes late; then the reader is sent away.
func TestReplaceDrains(t *testing.T) {
	g := group(t, "127.0.0.1:0", 3, Config{GRO: Off})
	old := g.Sockets()[1]
	c := socket(t, "127.0.0.1:0", Config{})
	const queued = 50
	for i := range queued {
		pkt := numbered(short(newID(t, Layout{}, 1, 0)), uint32(i))
		if err := c.Send(&SendMsg{Data: pkt, Remote: g.addr}); err != nil {
			t.Fatal(err)
		}
	}
	var got []uint32
	gone := make(chan error)
	s, err := g.Replace(t.Context(), 1, func(*Socket) {
		go func() {
			// As late as can be: when the queue is all that is left.
			for !old.drain.active.Load() && old.rc.Control(func(uintptr) {}) == nil {
				runtime.Gosched()
			}
			m := RecvMsg{Buf: make([]byte, MinRecvBuffer)}
			for {
				if err := old.Recv(&m); err != nil {
					gone <- err
					return
				}
				got = append(got, binary.BigEndian.Uint32(m.Buf[m.N-4:]))
			}
		}()
	})
	if err != nil {
		t.Fatal(err)
	}
	guard(t, s)
	if err := <-gone; err != net.ErrClosed {
		t.Errorf("the old reader got %v", err)
	}
	if len(got) != queued {
		t.Errorf("%d of %d queued packets were read: %v", len(got), queued, got)
	}
}

// A reader that never comes back does not hold Replace forever.
func TestReplaceWithoutReader(t *testing.T) {
	g := group(t, "127.0.0.1:0", 2, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s, err := g.Replace(ctx, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	guard(t, s)
	c := socket(t, "127.0.0.1:0", Config{})
	pkt := short(newID(t, Layout{}, 1, 0))
	if err := c.Send(&SendMsg{Data: pkt, Remote: g.addr}); err != nil {
		t.Fatal(err)
	}
	receive(t, s, len(pkt))
	for _, shard := range []int{-1, 2} {
		if _, err := g.Replace(t.Context(), shard, nil); err == nil {
			t.Errorf("shard %d was replaced", shard)
		}
	}
	g.Close()
	if _, err := g.Replace(t.Context(), 0, nil); err == nil {
		t.Error("a shard of a closed group was replaced")
	}
}

// The supervisor opens the sockets and keeps them; the packet process makes
// its group of duplicates, replaces a shard, dies, and comes back.
func TestGroupFromFiles(t *testing.T) {
	supervisor := group(t, "127.0.0.1:0", 3, Config{})
	var files []*os.File
	for _, s := range supervisor.Sockets() {
		f, err := s.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	for range 2 {
		g, err := GroupFromFiles(files, Config{})
		if err != nil {
			t.Fatal(err)
		}
		b := newMailbox(g)
		l := startLoad(t, g, b)
		for shard := range 3 {
			l.moving.Store(int64(shard))
			s, err := g.Replace(t.Context(), shard, b.read)
			if err != nil {
				t.Fatal(err)
			}
			guard(t, s)
		}
		l.wait(1000)
		close(l.stop)
		<-l.done
		if n := l.wrong.Load(); n != 0 {
			t.Errorf("%d packets of other shards took a detour", n)
		}
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		b.wg.Wait()
	}
	if _, err := GroupFromFiles(nil, Config{}); err == nil {
		t.Error("a group of nothing")
	}
	other := socket(t, "127.0.0.1:0", Config{})
	f, err := other.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := GroupFromFiles([]*os.File{files[0], f}, Config{}); err == nil {
		t.Error("a group of two addresses")
	}
}

func TestListenGroupErrors(t *testing.T) {
	any := netip.MustParseAddrPort("127.0.0.1:0")
	for _, n := range []int{0, -1, 256} {
		if _, err := Listen(any, n, Config{}); err == nil {
			t.Errorf("%d shards accepted", n)
		}
	}
	// A second group on the same address would mix with the first.
	for _, shards := range []int{1, 3} {
		g := group(t, "127.0.0.1:0", shards, Config{})
		if _, err := ListenGroup(g.addr, 3, Config{}); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("second group on %s: %v", g.addr, err)
		}
	}
	socks, err := Listen(any, 3, Config{})
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range socks {
		if s.Shard() != i || s.LocalAddr() != socks[0].LocalAddr() {
			t.Errorf("socket %d: shard %d on %s", i, s.Shard(), s.LocalAddr())
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
