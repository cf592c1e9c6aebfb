// Package nfs relays ONC RPC from the streams of an RPC-over-QUIC connection
// (draft-cel-nfsv4-rpc-over-quicv1-06) to NFS servers on TCP.
//
// Every stream that the client opens is an RPC connection of its own. The
// way of a call, one file a step:
//
//  1. record.go: record marks are taken apart; fragments and totals are capped.
//  2. call.go: the call header is parsed strictly, from the XID to the verifier.
//  3. relay.go, calls.go: the program number picks a service of the backend;
//     its TCP connection is dialled at the first call for it (backend.go).
//  4. identity.go: the credential is replaced by the identity that the TLS
//     connection is bound to. What the client claims to be is never forwarded.
//  5. calls.go: header and body go to the backend as they arrive; no message
//     is ever held whole, only MOUNT and portmapper calls, which are small.
//  6. replies.go: replies come back record by record onto the same stream.
//
// The portmapper is answered here (portmap.go), MOUNT is filtered by path
// (mount.go); both refuse with well-formed RPC replies (reply.go).
//
// The MOUNT filter is a convenience and not a boundary: a file handle opens its
// file for whoever holds it. Tenants are kept apart by exports of their own
// and by distinct uids.
package nfs
