// Package interop holds tests only: they run the transport of package quic
// against other implementations of RFC 9000 in both roles: in depth against
// github.com/quic-go/quic-go and golang.org/x/net/quic, and in the cases of
// quic-interop-runner (docs/interop.md) against ngtcp2 and aioquic, too, which
// are programs in peers/. It all goes over loopback and over a UDP proxy that
// delays, loses, reorders, repeats and damages datagrams and changes the client's
// address. It is a module of its own so that the gateway depends on none of them.
//
// INTEROP_LONG=1 adds the cases that take minutes; INTEROP_QLOG names a directory
// for our traces; PEER_LOG=1 has ngtcp2 write what it does.
package interop
