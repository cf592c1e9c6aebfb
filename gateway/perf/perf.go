// Package perf measures what moving bytes over QUIC costs. It speaks the
// protocol of draft-banks-quic-performance, so that either end may be another
// implementation:
//
//   - ALPN "perf"; the client opens streams;
//   - the first 8 bytes of a stream, big-endian, say how many bytes the client
//     wants back; what follows until FIN is thrown away;
//   - the server answers with that many bytes and FIN, on the same stream, or
//     on a unidirectional stream of its own if the client's was unidirectional.
//
// Both ends report a Result. The bytes come from memory and go to memory: they
// are sent from chunks and read as views of receive buffers, as those of a file or a
// TCP connection would be.
package perf

import (
	"encoding/binary"
	"errors"
	"io"
	"time"
)

// ALPN is the protocol's name in the TLS handshake.
const ALPN = "perf"

// headerLen is how many bytes of a stream say what the client wants back.
const headerLen = 8

// maxAnswer bounds what a client may ask for on one stream: an offset in a
// QUIC stream has 62 bits, and nothing measures longer than a petabyte.
const maxAnswer = 1 << 50

// idleTimeout is long enough for measurements of idle connections.
const idleTimeout = 5 * time.Minute

// source is n bytes of memory. What they are means nothing in this protocol, so
// without fill they are what the chunk has: nothing but what was sent like this
// before. Other implementations send one buffer again and again. With fill they are
// zeros, written into the chunk as a file's would be.
type source struct {
	left  uint64
	until time.Time // zero: none
	fill  bool
}

func (s *source) Read(p []byte) (int, error) {
	if s.left == 0 || !s.until.IsZero() && !time.Now().Before(s.until) {
		return 0, io.EOF
	}
	n := int(min(uint64(len(p)), s.left))
	if s.fill {
		clear(p[:n])
	}
	if s.left -= uint64(n); s.left == 0 {
		return n, io.EOF // with the last bytes, so that FIN goes with them
	}
	return n, nil
}

// request is a source behind the header that says what is wanted back.
type request struct {
	want   uint64
	header bool // it went out
	source
}

func (r *request) Read(p []byte) (int, error) {
	if r.header {
		return r.source.Read(p)
	}
	if len(p) < headerLen {
		return 0, io.ErrShortBuffer
	}
	binary.BigEndian.PutUint64(p, r.want)
	r.header = true
	n, err := r.source.Read(p[headerLen:])
	return headerLen + n, err
}

// sink throws bytes away and counts them. It ends with errEnough when its
// time is up.
type sink struct {
	n     uint64
	until time.Time
}

var errEnough = errors.New("the time is up")

func (s *sink) Write(p []byte) (int, error) {
	s.n += uint64(len(p))
	if !s.until.IsZero() && !time.Now().Before(s.until) {
		return len(p), errEnough
	}
	return len(p), nil
}

// headed is a sink that keeps the first bytes of a stream.
type headed struct {
	head [headerLen]byte
	got  int
	sink
}

func (h *headed) Write(p []byte) (int, error) {
	n := copy(h.head[h.got:], p)
	h.got += n
	k, err := h.sink.Write(p[n:])
	return n + k, err
}

// want is what the header asked for.
func (h *headed) want() (uint64, error) {
	if h.got < headerLen {
		return 0, errors.New("the stream ended before it said how many bytes it wants back (8 bytes, big-endian)")
	}
	n := binary.BigEndian.Uint64(h.head[:])
	if n > maxAnswer {
		return 0, errors.New("the stream asks for more than 2^50 bytes")
	}
	return n, nil
}
