// Package interop holds tests only: they run the transport of package quic
// against two other implementations of RFC 9000, github.com/quic-go/quic-go
// and golang.org/x/net/quic, in both roles, over loopback and over a UDP proxy
// that delays, loses, reorders, repeats and damages datagrams and changes the
// client's address. It is a module of its own so that the gateway depends on
// neither.
package interop
