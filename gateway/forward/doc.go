// Package forward gives QUIC connections to other processes, by what their
// ClientHello asks for: protocol and server name. Several servers then share
// one UDP port, and none knows of the others.
//
// The way of a datagram, in the order of forward.go:
//
//  1. A Conn stands between a socket and the QUIC endpoint, and looks at every
//     datagram that comes in.
//  2. What belongs to a connection of the endpoint's, or to a connection
//     given away before, is told by its connection ID and by the address it
//     comes from. That is all there is to go by: the other process's connection
//     IDs are its own, and changes of them are encrypted.
//  3. An Initial of a connection nobody knows is kept until the ClientHello in
//     it is whole, which may take several datagrams in any order (hello.go). Then it is
//     given to the endpoint, or to another process: from a socket of its own
//     for each client address, so that answers find their way back (flow.go).
//
// Nothing is decrypted but Initial packets, whose keys everybody knows. A
// client that changes its address loses a connection that was given away.
package forward
