package quic

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// A recvModel runs a recvBuf beside a plain map of bytes.
type recvModel struct {
	t    *testing.T
	b    recvBuf
	a    accounts
	have map[uint64]bool
	got  uint64 // bytes the application has taken
	edge uint64 // first byte that is missing
	buf  *udp.Buffer
	rnd  *rand.Rand
}

func newRecvModel(t *testing.T, seed uint64) *recvModel {
	m := &recvModel{t: t, have: make(map[uint64]bool), rnd: rand.New(rand.NewPCG(seed, 7))}
	m.a.lateMax = 1 << 20
	return m
}

// batch begins a receive call; big ones are kept by reference.
func (m *recvModel) batch(big bool) {
	m.endBatch()
	m.buf = udp.NewBuffer()
	m.a.batch, m.a.batchBuf, m.a.batchBig = nil, m.buf, big
}

func (m *recvModel) endBatch() {
	if m.buf != nil {
		m.buf.Release()
		m.a.batch, m.a.batchBuf, m.a.batchBig = nil, nil, false
		m.buf = nil
	}
}

// insert puts [off, off+n) in, from the current batch's buffer.
func (m *recvModel) insert(off uint64, n int) error {
	at := m.rnd.IntN(udp.BufferSize - n)
	data := m.buf.Bytes()[at : at+n]
	if m.a.batch != nil {
		data = make([]byte, n) // another part of the buffer is in use: do not overwrite it
	}
	copy(data, pattern(off, n))
	err := m.b.insert(&m.a, off, data)
	if err == nil {
		for i := range uint64(n) {
			m.have[off+i] = true
		}
	}
	return err
}

// contiguous is how many bytes the model has in order, unread.
func (m *recvModel) contiguous() int {
	for m.have[m.edge] {
		m.edge++
	}
	return int(m.edge - m.got)
}

func (m *recvModel) check() {
	m.t.Helper()
	if got, want := m.b.unread(), m.contiguous(); got != want {
		m.t.Fatalf("unread %d, the model has %d", got, want)
	}
	late, held := 0, 0
	refs := map[*rxRef]int{}
	for i, p := range m.b.late {
		late += p.cost + pieceOverhead
		held += p.cost
		if p.off <= m.b.end || i > 0 && m.b.late[i-1].off+uint64(len(m.b.late[i-1].data)) > p.off {
			m.t.Fatalf("late piece %d at %d is out of place", i, p.off)
		}
	}
	for _, p := range m.b.queue[m.b.head:] {
		switch {
		case p.ref != nil:
			refs[p.ref]++
		case p.block != nil:
			held += len(p.block.b)
		default:
			held += p.cost
		}
	}
	for r, n := range refs {
		if r.refs != n {
			m.t.Fatalf("%d references counted, %d found", r.refs, n)
		}
		held += udp.BufferSize
	}
	if m.a.late != late || m.a.held != held {
		m.t.Fatalf("accounts: late %d held %d, found %d and %d", m.a.late, m.a.held, late, held)
	}
}

// read takes up to n bytes by copy or by view.
func (m *recvModel) read(n int, view bool) {
	m.t.Helper()
	var got []byte
	if view {
		var store [8][]byte
		for _, v := range m.b.views(store[:0], 8, n) {
			got = append(got, v...)
		}
		m.b.consume(&m.a, len(got))
	} else {
		p := make([]byte, n)
		got = p[:m.b.copyOut(&m.a, p)]
	}
	if !bytes.Equal(got, pattern(m.got, len(got))) {
		m.t.Fatalf("wrong bytes at %d", m.got)
	}
	m.got += uint64(len(got))
}

func TestRecvBufRandom(t *testing.T) {
	before := udp.Outstanding()
	for seed := range uint64(100) {
		m := newRecvModel(t, seed)
		const size = 100 << 10
		for step := range 400 {
			if step%8 == 0 {
				m.batch(m.rnd.IntN(2) == 0)
			}
			n := 1 + m.rnd.IntN(1500)
			if m.rnd.IntN(4) == 0 {
				n = 1 + m.rnd.IntN(20)
			}
			off := uint64(m.rnd.IntN(size))
			switch m.rnd.IntN(3) {
			case 0:
				off = m.b.end // in order
			case 1:
				off = uint64(max(0, int(m.b.end)-200+m.rnd.IntN(6000))) // around the edge
			}
			if err := m.insert(off, n); err != nil {
				t.Fatal(err)
			}
			m.check()
			switch m.rnd.IntN(12) {
			case 0, 1:
				m.read(1+m.rnd.IntN(8000), m.rnd.IntN(2) == 0)
			case 2:
				m.b.compact(&m.a)
			}
			m.check()
		}
		if seed%3 == 0 {
			m.b.discard(&m.a)
		} else {
			m.batch(seed%2 == 0)
			end := m.b.end
			for off := end; len(m.b.late) > 0 || off < size; off += 1000 {
				if err := m.insert(off, 1000); err != nil {
					t.Fatal(err)
				}
				m.check()
			}
			for m.b.unread() > 0 {
				m.read(5000, seed%2 == 0)
				m.check()
			}
		}
		m.endBatch()
		if m.a.held != 0 || m.a.late != 0 {
			t.Fatalf("seed %d: held %d late %d at the end", seed, m.a.held, m.a.late)
		}
	}
	if n := udp.Outstanding(); n != before {
		t.Errorf("%d buffers were not given back", n-before)
	}
}

// A frame over many small pieces must not be taken in part: what is
// acknowledged never comes again.
func TestRecvBufRaggedOverlap(t *testing.T) {
	m := newRecvModel(t, 1)
	m.batch(false)
	defer m.endBatch()
	for off := uint64(10); off < 1000; off += 10 {
		if err := m.insert(off, 3); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.insert(5, 1000); err != nil {
		t.Fatal(err)
	}
	if err := m.insert(0, 5); err != nil {
		t.Fatal(err)
	}
	m.check()
	if m.b.unread() != 1005 {
		t.Errorf("%d bytes are there", m.b.unread())
	}
	m.b.discard(&m.a)
}

func TestRecvBufBudget(t *testing.T) {
	m := newRecvModel(t, 1)
	m.batch(false)
	defer m.endBatch()
	m.a.lateMax = 10 << 10
	n := 0
	for off := uint64(1); ; off += 1000 {
		if err := m.insert(off, 1000); err == errOverBudget {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		m.check()
		n++
	}
	if n < 8 || m.a.late > m.a.lateMax || m.a.held > m.a.lateMax {
		t.Errorf("%d pieces, late %d, held %d", n, m.a.late, m.a.held)
	}
	// what fills the hole is always taken
	if err := m.insert(0, 1); err != nil {
		t.Error(err)
	}
	m.check()
	if m.a.late != 0 {
		t.Errorf("late %d after the hole was filled", m.a.late)
	}
	// single bytes are charged for what they cost
	m.read(m.b.unread(), false)
	pieces := 0
	for off := m.b.end + 2; m.insert(off, 1) == nil; off += 2 {
		pieces++
	}
	if pieces > m.a.lateMax/pieceOverhead {
		t.Errorf("%d one-byte pieces in a budget of %d", pieces, m.a.lateMax)
	}
	m.b.discard(&m.a)
	m.check()
}

// Bytes a reader looks at stay as they are, whatever happens meanwhile.
func TestRecvBufViewing(t *testing.T) {
	before := udp.Outstanding()
	m := newRecvModel(t, 1)
	m.batch(true)
	if err := m.insert(0, 4000); err != nil {
		t.Fatal(err)
	}
	m.endBatch()
	var store [4][]byte
	views := m.b.views(store[:0], 4, 1<<20)
	m.b.viewing = true
	m.b.compact(&m.a)
	m.b.discard(&m.a)
	if got := slices.Concat(views...); !bytes.Equal(got, pattern(0, 4000)) {
		t.Error("views changed")
	}
	if m.a.held == 0 {
		t.Error("memory in view is not charged")
	}
	m.b.viewing = false
	m.b.discard(&m.a)
	if m.a.held != 0 || udp.Outstanding() != before {
		t.Errorf("held %d, outstanding %d", m.a.held, udp.Outstanding()-before)
	}
}

// One small datagram must not pin a whole receive buffer.
func TestRecvBufSmallBatchIsCopied(t *testing.T) {
	m := newRecvModel(t, 1)
	m.batch(false)
	if err := m.insert(0, 1200); err != nil {
		t.Fatal(err)
	}
	if m.buf.Refs() != 1 || m.a.held > 2*1200 {
		t.Errorf("references %d, held %d", m.buf.Refs(), m.a.held)
	}
	m.endBatch()
	m.b.discard(&m.a)
}

// TestRecvBufTinyFrames: a batch of many tiny frames is kept as their bytes, not
// as a view of each, which would take far more than the buffer they came in.
func TestRecvBufTinyFrames(t *testing.T) {
	m := newRecvModel(t, 1)
	m.batch(true)
	for off := range uint64(9000) {
		if err := m.insert(off, 1); err != nil {
			t.Fatal(err)
		}
	}
	m.endBatch()
	m.check()
	if n := len(m.b.queue); n > 9000/recvBlockSize+1+7 { // seven on the way from the smallest block to the largest
		t.Errorf("9000 bytes are in %d pieces", n)
	}
	m.b.discard(&m.a)
	if m.a.held != 0 {
		t.Errorf("held %d", m.a.held)
	}
}
