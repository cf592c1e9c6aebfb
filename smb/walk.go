package smb

import (
	"encoding/binary"
	"fmt"
)

// SMB2 commands, MS-SMB2 2.2.1.2, as far as they are told apart here.
const (
	cmdNegotiate      = 0
	cmdSessionSetup   = 1
	cmdLogoff         = 2
	cmdTreeConnect    = 3
	cmdTreeDisconnect = 4
	cmdCreate         = 5
)

const (
	flagResponse = 0x1 // SMB2_FLAGS_SERVER_TO_REDIR
	flagAsync    = 0x2 // SMB2_FLAGS_ASYNC_COMMAND
	flagRelated  = 0x4 // SMB2_FLAGS_RELATED_OPERATIONS

	maxPath = 2 * 1024 // octets of a TREE_CONNECT path looked at; longer is refused where a rule needs it
)

// header is a plain SMB2 header (MS-SMB2 2.2.1.2), the fields a relay can use.
type header struct {
	status    uint32 // responses only
	command   uint16
	flags     uint32
	next      uint32
	messageID uint64
	treeID    uint32 // meaningless where flagAsync is set
	sessionID uint64
}

// parseHeader reads b, which holds at least headerLen octets.
func parseHeader(b []byte) header {
	le := binary.LittleEndian
	return header{
		status:    le.Uint32(b[8:]),
		command:   le.Uint16(b[12:]),
		flags:     le.Uint32(b[16:]),
		next:      le.Uint32(b[20:]),
		messageID: le.Uint64(b[24:]),
		treeID:    le.Uint32(b[36:]),
		sessionID: le.Uint64(b[40:]),
	}
}

// walker goes through the SMB2 requests or responses of a message, which may be
// compounded, and shows each one's beginning to see. Encrypted messages pass
// unseen, and of compressed ones no more is seen than what is not.
type walker struct {
	// want tells how many octets of an element see needs, given those in b (at
	// least headerLen, at most what the element has); headerLen is the least.
	want func(h header, b []byte) int
	// see gets an element's header and its first octets, at most what want said.
	see func(h header, b []byte) error

	// compressed judges a compressed message by the SMB2 header in its part that is
	// not, nil if that does not begin with one; nil: all pass.
	compressed func(h *header) error

	length  uint32 // of the message
	off     uint32 // position in it of the next octet
	elem    uint32 // where the current element starts
	need    int    // octets of it to collect before the next look; 0: nothing more in this message
	packed  bool   // a compressed message
	scratch []byte // what has been collected of an element that came in pieces
}

// begin starts a message of which the protocol id has been read.
func (w *walker) begin(length uint32, id []byte) error {
	w.length, w.off, w.elem, w.need = length, protocolIDLen, 0, 0
	w.scratch = w.scratch[:0]
	w.packed = id[0] == protocolCompressed
	switch {
	case id[0] == protocolPlain:
		w.need = headerLen
	case !w.packed || w.compressed == nil:
		return nil
	case length < compressedLen+headerLen:
		return w.compressed(nil)
	default:
		w.need = compressedLen + headerLen
	}
	w.scratch = append(w.scratch, id...)
	return nil
}

// data takes the next octets of the message.
func (w *walker) data(b []byte) error {
	for len(b) > 0 && w.need > 0 {
		at := w.elem + uint32(len(w.scratch)) // where the next wanted octet is
		if at > w.off {
			skip := min(int(at-w.off), len(b))
			w.off += uint32(skip)
			b = b[skip:]
			continue
		}
		k := min(w.need-len(w.scratch), len(b))
		w.scratch = append(w.scratch, b[:k]...)
		w.off += uint32(k)
		b = b[k:]
		if len(w.scratch) < w.need {
			break
		}
		if err := w.element(); err != nil {
			return err
		}
	}
	w.off += uint32(len(b))
	return nil
}

// element looks at the collected octets: it either asks for more of them or
// shows them and goes on to the next element.
func (w *walker) element() error {
	if w.packed {
		w.need = 0
		return w.compressed(clearHeader(w.scratch))
	}
	h := parseHeader(w.scratch)
	size := w.length - w.elem
	if h.next != 0 {
		// MS-SMB2 2.2.1.2: the following header is 8-byte aligned; it must lie in this message.
		if h.next%8 != 0 || h.next < headerLen || uint64(h.next)+headerLen > uint64(size) {
			return fmt.Errorf("smb: framing: next command at %d of %d octets", h.next, size)
		}
		size = h.next
	}
	if need := min(w.want(h, w.scratch), int(size), headerLen+8+maxPath); need > w.need {
		w.need = need
		return nil
	}
	if err := w.see(h, w.scratch); err != nil {
		return err
	}
	w.scratch = w.scratch[:0]
	if h.next == 0 {
		w.need = 0
		return nil
	}
	w.elem += h.next
	w.need = headerLen
	return nil
}

// clearHeader returns the SMB2 header that a compressed message begins with, if
// all of it is in what was left uncompressed; nil: it is not. b holds as much as
// both headers have.
//
// MS-SMB2 2.2.42: behind the size of what was compressed, unchained and chained
// headers have the algorithm, the flags, and a length: of the octets that stand
// uncompressed in front of the rest, or of the first piece of the chain, which
// is uncompressed where its algorithm is NONE.
func clearHeader(b []byte) *header {
	const (
		chained = 0x1 // SMB2_COMPRESSION_FLAG_CHAINED
		none    = 0x0
	)
	le := binary.LittleEndian
	algorithm, flags, length := le.Uint16(b[8:]), le.Uint16(b[10:]), le.Uint32(b[12:])
	if length < headerLen || flags > chained || flags == chained && algorithm != none {
		return nil
	}
	inner := b[compressedLen:]
	if string(inner[:protocolIDLen]) != "\xfeSMB" {
		return nil
	}
	h := parseHeader(inner)
	return &h
}
