package smb

import (
	"encoding/binary"
	"fmt"
)

// Sizes of the direct-TCP framing, MS-SMB2 2.1, which SMB over QUIC shares.
const (
	// MaxMessage is the longest SMB2 message the framing can carry, in bytes,
	// the 4 octets of the frame header not counted.
	MaxMessage = 1<<24 - 1

	frameHeaderLen = 4 // 0x00 and a 24-bit length
	protocolIDLen  = 4 // 0xFE 'S' 'M' 'B' and its relatives
	preambleLen    = frameHeaderLen + protocolIDLen

	headerLen          = 64 // SMB2 header, sync and async alike
	transformLen       = 52 // SMB2 TRANSFORM_HEADER (encrypted message)
	compressedLen      = 16 // SMB2 COMPRESSION_TRANSFORM_HEADER, the shorter form
	protocolPlain      = 0xFE
	protocolEncrypted  = 0xFD
	protocolCompressed = 0xFC
	protocolSMB1       = 0xFF
)

// Direction says which way bytes flow.
type Direction uint8

// The two directions of a session.
const (
	ToBackend Direction = iota // requests
	ToClient                   // responses
)

// String returns "to-backend" or "to-client".
func (d Direction) String() string {
	if d == ToClient {
		return "to-client"
	}
	return "to-backend"
}

// A FrameError is a breach of the framing or of the header rules. Offset is the
// position in the byte stream of the message that broke it.
type FrameError struct {
	Direction Direction
	Offset    int64
	Detail    string
}

// Error tells where and what.
func (e *FrameError) Error() string {
	return fmt.Sprintf("smb: framing %s: %s in the message at byte %d", e.Direction, e.Detail, e.Offset)
}

// Inspector walks the messages of one direction as their bytes pass, in chunks
// of any size. It keeps at most the 8 octets of a frame header and protocol id,
// plus the prefix of a request that policy has to see whole, and never holds
// payload back. What it answers does not depend on how the stream was cut.
//
// The zero value is not usable; see NewInspector. One goroutine at a time.
type Inspector struct {
	dir      Direction
	max      uint32
	walk     *walker // nil: framing only
	head     [preambleLen]byte
	headN    int    // octets of head present; preambleLen while inside a message
	length   uint32 // of the current message
	left     uint32 // octets of it still to come
	passed   int64  // octets accepted since the start
	start    int64  // where the current message's frame began
	messages int64
	err      error
}

// NewInspector returns an Inspector for one direction. maxMessage is the
// longest message let through, 1 to MaxMessage; 0 or more than that is MaxMessage.
func NewInspector(dir Direction, maxMessage int) *Inspector {
	if maxMessage <= 0 || maxMessage > MaxMessage {
		maxMessage = MaxMessage
	}
	return &Inspector{dir: dir, max: uint32(maxMessage)}
}

// limit lowers the longest message let through from the next one on.
func (in *Inspector) limit(n uint64) { in.max = uint32(min(uint64(in.max), n)) }

// Messages is the number of messages that have begun with an acceptable header.
func (in *Inspector) Messages() int64 { return in.messages }

// Midway reports whether the stream is inside a frame: a header was begun and
// its message has not ended.
func (in *Inspector) Midway() bool { return in.headN != 0 }

// Left is the number of octets the current message still lacks; 0 outside a
// message and while its header is incomplete.
func (in *Inspector) Left() int { return int(in.left) }

// Inspect looks at the next bytes of the stream, in place. n is how many of
// them may go on: all of them, or, with an error, those before the message that
// broke a rule. An error is final and is returned by every later call.
func (in *Inspector) Inspect(b []byte) (n int, err error) {
	if in.err != nil {
		return 0, in.err
	}
	done := 0 // end of the last message that ended in b
	for i := 0; i < len(b); {
		if in.headN < preambleLen {
			if in.headN == 0 {
				in.start = in.passed + int64(i)
			}
			k := copy(in.head[in.headN:], b[i:])
			in.headN += k
			if err := in.preamble(); err != nil {
				in.err = err
				return done, err
			}
			i += k
			continue
		}
		k := min(int(in.left), len(b)-i)
		if in.walk != nil {
			if err := in.walk.data(b[i : i+k]); err != nil {
				in.err = fmt.Errorf("%w (message at byte %d)", err, in.start)
				return done, in.err
			}
		}
		in.left -= uint32(k)
		i += k
		if in.left == 0 {
			in.headN = 0
			done = i
		}
	}
	in.passed += int64(len(b))
	return len(b), nil
}

// Finish is called at the end of the stream: an error says that it ended
// inside a frame.
func (in *Inspector) Finish() error {
	if in.err != nil {
		return in.err
	}
	if in.headN == 0 {
		return nil
	}
	if in.headN < preambleLen {
		return in.breach("the stream ends after %d octets of a header", in.headN)
	}
	return in.breach("the stream ends %d octets early", in.left)
}

// preamble judges as much of head as is there: each octet is refused as soon
// as it is wrong, so that garbage does not wait for a full header.
func (in *Inspector) preamble() error {
	if in.head[0] != 0 {
		// MS-SMB2 2.1 has a zero octet here. Anything else is NetBIOS session
		// service, an RPC record mark, or noise.
		return in.breach("first octet 0x%02x instead of 0", in.head[0])
	}
	if in.headN < frameHeaderLen {
		return nil
	}
	in.length = binary.BigEndian.Uint32(in.head[:])
	switch {
	case in.length == 0:
		return in.breach("length 0")
	case in.length > in.max:
		return in.breach("length %d over the limit of %d", in.length, in.max)
	case in.length < compressedLen:
		return in.breach("length %d, less than any SMB2 header", in.length)
	}
	if in.headN == frameHeaderLen {
		return nil
	}
	id := in.head[frameHeaderLen:in.headN]
	if err := in.protocol(id); err != nil || len(id) < protocolIDLen {
		return err
	}
	in.left = in.length - protocolIDLen
	in.messages++
	if in.walk != nil {
		return in.walk.begin(in.length, id)
	}
	return nil
}

// protocol judges the protocol id, or what has arrived of it.
func (in *Inspector) protocol(id []byte) error {
	least := uint32(0)
	switch id[0] {
	case protocolPlain:
		least = headerLen
	case protocolEncrypted:
		least = transformLen
	case protocolCompressed:
		least = compressedLen
	case protocolSMB1:
		return in.breach("SMB1 (a client must begin with SMB2 on QUIC)")
	default:
		return in.breach("protocol id %q", id)
	}
	if in.length < least {
		return in.breach("length %d, less than the %d of its header", in.length, least)
	}
	for i, want := range [...]byte{'S', 'M', 'B'} {
		if len(id) > i+1 && id[i+1] != want {
			return in.breach("protocol id %q", id)
		}
	}
	return nil
}

func (in *Inspector) breach(format string, args ...any) error {
	return &FrameError{Direction: in.dir, Offset: in.start, Detail: fmt.Sprintf(format, args...)}
}
