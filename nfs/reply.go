package nfs

import "encoding/binary"

// AcceptStat is the status of an accepted call (RFC 5531, Section 9).
type AcceptStat uint32

// The statuses of accepted calls, under the names of RFC 5531.
const (
	AcceptSuccess      AcceptStat = 0
	AcceptProgUnavail  AcceptStat = 1
	AcceptProgMismatch AcceptStat = 2
	AcceptProcUnavail  AcceptStat = 3
	AcceptGarbageArgs  AcceptStat = 4
	AcceptSystemErr    AcceptStat = 5
)

// AuthStat is why a credential was refused (RFC 5531, Section 9).
type AuthStat uint32

// Why a credential was refused, under the names of RFC 5531.
const (
	AuthBadCred      AuthStat = 1
	AuthRejectedCred AuthStat = 2
	AuthBadVerf      AuthStat = 3
	AuthRejectedVerf AuthStat = 4
	AuthTooWeak      AuthStat = 5
)

const (
	replyAccepted = 0
	replyDenied   = 1

	rejectRPCMismatch = 0
	rejectAuthError   = 1
)

// beginReply appends room for the record mark, the XID, and the reply's kind.
func beginReply(b []byte, xid, stat uint32) (out []byte, start int) {
	start = len(b)
	b = be32(b, 0)
	b = be32(b, xid)
	b = be32(b, msgReply)
	return be32(b, stat), start
}

// endReply sets the record mark of the reply that begins at start.
func endReply(b []byte, start int) []byte {
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-markLen)|lastFrag)
	return b
}

// AppendSuccess appends a record with an accepted reply; results are the procedure's XDR results.
func AppendSuccess(b []byte, xid uint32, results []byte) []byte {
	b, start := beginAccepted(b, xid, AcceptSuccess)
	return endReply(append(b, results...), start)
}

// AppendAcceptError appends a record with an accepted reply that carries no results.
// For AcceptProgMismatch use AppendProgMismatch.
func AppendAcceptError(b []byte, xid uint32, stat AcceptStat) []byte {
	b, start := beginAccepted(b, xid, stat)
	return endReply(b, start)
}

// AppendProgMismatch appends a record that says which versions of the program exist.
func AppendProgMismatch(b []byte, xid, low, high uint32) []byte {
	b, start := beginAccepted(b, xid, AcceptProgMismatch)
	return endReply(be32(be32(b, low), high), start)
}

func beginAccepted(b []byte, xid uint32, stat AcceptStat) ([]byte, int) {
	b, start := beginReply(b, xid, replyAccepted)
	b = be32(be32(b, AuthNone), 0) // verifier
	return be32(b, uint32(stat)), start
}

// AppendAuthError appends a record that refuses the call's credential.
func AppendAuthError(b []byte, xid uint32, stat AuthStat) []byte {
	b, start := beginReply(b, xid, replyDenied)
	return endReply(be32(be32(b, rejectAuthError), uint32(stat)), start)
}

// AppendRPCMismatch appends a record that says that only RPC version 2 is spoken here.
func AppendRPCMismatch(b []byte, xid uint32) []byte {
	b, start := beginReply(b, xid, replyDenied)
	b = be32(b, rejectRPCMismatch)
	return endReply(be32(be32(b, rpcVersion), rpcVersion), start)
}
