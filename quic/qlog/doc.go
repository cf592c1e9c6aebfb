// Package qlog writes what a QUIC connection does as a qlog trace: version 0.3
// (draft-ietf-quic-qlog-main-schema-02 and draft-ietf-quic-qlog-quic-events-02),
// the newest that qvis reads, as JSON text sequences (RFC 7464), one file a
// connection.
//
// A trace must never slow or stop a connection. In order:
//
//  1. Tracer.Start decides whether a connection is traced. A nil *Trace is one that
//     is not: its methods do nothing, and callers ask before they prepare arguments.
//  2. An event is appended to a buffer of the trace, as text, under the
//     connection's lock. Nothing there waits and nothing there fails.
//  3. A full buffer goes to the Tracer's goroutine through a bounded queue. When
//     that is full, the buffer is dropped and counted: the file has a gap between two
//     whole records.
//  4. The goroutine opens files and writes them. A file that can't be opened or
//     written ends its trace, not its connection.
//
// Times in a trace are milliseconds since its beginning. Lengths are bytes.
// Contents of streams, tokens, stateless reset tokens and the data of path
// challenges are never written.
package qlog
