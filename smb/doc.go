// Package smb carries SMB2 over a QUIC stream to servers that speak it over TCP,
// and speaks it itself where a client is needed.
//
// Relay joins a stream and a backend. It reads along and never alters a byte:
// framing is judged before anything is allocated, the first message must be a
// NEGOTIATE before a backend is dialed, and rules on dialects, named pipes, shares
// and refused logons apply as far as the traffic can be seen (see Options). What
// a session encrypts, a relay cannot see.
//
// Backends chooses among SMB servers, Probe asks whether one is there, and Client
// is an SMB2 client on any net.Conn. Nothing here knows how a stream came to be.
package smb
