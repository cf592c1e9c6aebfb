// Package wire reads and writes the bytes of QUIC versions 1 and 2: variable
// length integers, packet headers, packet numbers, frames, transport
// parameters, and the TLS ClientHello as far as routing needs it.
//
// It is a pure codec. It knows no connection, no key and no clock. Parsers
// never panic whatever they are given, return slices that alias their input,
// and do not allocate, apart from ParseTransportParams and ParseClientHello,
// which run once a connection. Append functions append to the slice they are
// given, in the manner of the built-in append.
//
// Consume functions return the number of bytes they took, negative when the
// input is malformed. Callers hand over the payload of a packet whose length
// is known, so "too short" is as wrong as any other mistake.
//
// The specifications are RFC 8999 (invariants), RFC 9000, RFC 9221
// (datagrams), RFC 9287 (greasing the QUIC bit), RFC 9368 (version
// negotiation) and RFC 9369 (version 2).
package wire
