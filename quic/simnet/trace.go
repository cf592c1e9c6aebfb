package simnet

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// traceKept is how many events a Net remembers, the newest.
const traceKept = 1 << 14

// Kind is what happened to a datagram.
type Kind uint8

// The kinds of events.
const (
	Sent Kind = iota
	Delivered
	Dropped
	Duplicated
	Reordered
	Corrupted
	Marked
)

// String returns the name of the kind, as in a trace.
func (k Kind) String() string {
	names := [...]string{"sent", "delivered", "dropped", "duplicated", "reordered", "corrupted", "marked"}
	if int(k) < len(names) {
		return names[k]
	}
	return "invalid"
}

// Event is something that happened to a datagram.
type Event struct {
	Time     time.Duration // since New
	Kind     Kind
	From, To netip.AddrPort // as on the wire
	Host     [2]netip.Addr  // the direction of the link
	Index    int            // in that direction
	Size     int
	ECN      uint8
	First    byte   // of the data; tells QUIC packet types apart
	Why      string // for Dropped
}

// String is one line.
func (e Event) String() string {
	s := fmt.Sprintf("%12v #%-4d %v > %v %d bytes first %02x ecn %d %v", e.Time, e.Index, e.From, e.To, e.Size, e.First, e.ECN, e.Kind)
	if e.Why != "" {
		s += ": " + e.Why
	}
	return s
}

// trace is a ring of events.
type trace struct {
	events []Event
	next   int
}

func (t *trace) add(e Event) {
	if len(t.events) < traceKept {
		t.events = append(t.events, e)
		return
	}
	t.events[t.next] = e
	t.next = (t.next + 1) % traceKept
}

func (n *Net) note(d *datagram, k Kind, why string) {
	e := Event{
		Time: time.Since(n.start), Kind: k, From: d.from, To: d.to,
		Host: [2]netip.Addr{d.link.key.from, d.link.key.to},
		Size: len(d.data), ECN: d.ecn & udp.CE, Index: d.index, Why: why,
	}
	if len(d.data) > 0 {
		e.First = d.data[0]
	}
	if k == Delivered {
		d.link.count.Delivered++
	}
	n.trace.add(e)
}

// Trace returns the newest 16384 events, ordered by time, then direction, then
// as they happened there. Two runs with one seed and the same traffic give the
// same trace.
func (n *Net) Trace() []Event {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := &n.trace
	out := slices.Concat(t.events[t.next:], t.events[:t.next])
	slices.SortStableFunc(out, func(a, b Event) int {
		return cmp.Or(cmp.Compare(a.Time, b.Time), a.Host[0].Compare(b.Host[0]), a.Host[1].Compare(b.Host[1]))
	})
	return out
}

// TraceString is Trace in lines, for a test that failed.
func (n *Net) TraceString() string {
	var b strings.Builder
	for _, e := range n.Trace() {
		b.WriteString(e.String())
		b.WriteByte('\n')
	}
	return b.String()
}
