// Package quic is a QUIC transport (RFC 9000, RFC 9001, RFC 9002) built for
// moving files: data goes from a descriptor to sealed datagrams, and from
// received datagrams to a descriptor, without being copied in between, in
// batches that cost one system call each.
//
// An Endpoint owns the sockets, a Conn is a connection, a Stream is a
// net.Conn. TLS 1.3 runs behind the Handshaker interface, so that private keys
// can live in another process; TLS(cfg) is the Handshaker for this one.
//
// A Conn has no goroutine of its own. Whoever brings it work (the reader of
// its socket, its timer, the application) does the work, and what cannot be
// done at once because somebody else is at it is left in its inbox.
package quic
