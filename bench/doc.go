// Command bench holds quic-fsgw's transport against others, all of them in one
// run on one machine: the latest quic-go, golang.org/x/net/quic, TLS over TCP of
// the standard library, and a floor program that seals and sends packets with
// no protocol at all. It is a module of its own, so that the gateway depends on
// none of them.
//
//	bench run                     everything, and docs/performance.md from it
//	bench PEER server|client ...  one end of one peer
//
// PEER is quic-go, xnet, tls or floor. All print the object of quic-fsgw bench
// --json.
package main
