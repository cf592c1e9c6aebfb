// Package nfs3 is an NFS version 3 and MOUNT version 3 client (RFC 1813) on
// ONC RPC (RFC 5531) over any byte stream: a QUIC stream of an RPC-over-QUIC
// connection, or a TCP connection.
//
// The layers, lowest first:
//
//  1. xdr.go: encoding and decoding. Decoders work on a slice whose length was
//     bounded before it was filled, and never allocate more than they hold.
//  2. conn.go, reply.go: Conn sends calls and matches replies by XID, so many
//     calls are under way on one stream. The payload of READ goes from the
//     stream into the caller's buffer, that of WRITE from the caller's buffer
//     to the stream.
//  3. proc.go, data.go, dir.go, mount.go: one method for each procedure.
//  4. fs.go, reader.go, writer.go, file.go: FS, a file system with paths,
//     read-ahead and write-behind.
//
// The structures and constants of the protocol are those of
// github.com/buildbarn/go-xdr, generated from the RFC's own description. Its
// codec is not used for messages, because it refuses every name that is not
// ASCII and recurses once for each directory entry; the tests compare the two
// codecs.
package nfs3
