// Package tlshd is the TLS 1.3 handshake helper for QUIC. One process, the
// helper, holds private keys, trust anchors, revocation lists and ticket keys;
// the packet process holds sockets and traffic secrets and asks the helper for
// one handshake at a time over a Unix SOCK_SEQPACKET socket.
//
// The shape follows Linux's net/handshake and the tlshd daemon of ktls-utils:
// a handshake is requested with a handler class, a message type, an
// authentication mode, a timeout and peer names, and ends with a status, the
// peer's identities and nothing else. Unlike there the TLS messages themselves
// travel through the socket, because QUIC carries them in CRYPTO frames.
//
// The parts:
//
//	Client     the packet process' end: many handshakes in flight, events in order
//	Server     the helper's end: a goroutine and a tls.QUICConn per handshake
//	Spawn      starts the helper as a child process, RunHelper is its main function
//	Supervise  Spawn, and again when the helper dies or hangs
//	Listen     the helper as a service of its own, Dial is the way to it
//	SendConn   hands a socket to another process, RecvConn takes it there
//	Local      helper and client in one process: tests and benchmarks only
//
// The wire protocol is documented in docs/tlshd.md.
package tlshd
