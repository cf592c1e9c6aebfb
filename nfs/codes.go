package nfs

// Application error codes of RPC over QUIC (draft -06, Sections 3.5 and 7.3),
// sent in RESET_STREAM, STOP_SENDING and CONNECTION_CLOSE.
const (
	// CodeNoError ends a stream or connection for an unremarkable reason.
	CodeNoError uint64 = 0x0
	// CodeProtocolViolation: the peer broke record marking or the RPC header.
	CodeProtocolViolation uint64 = 0x1
	// CodeServerBusy: the gateway is at a configured limit.
	CodeServerBusy uint64 = 0x2
	// CodeRequestDropped: a call was taken and will get no reply.
	CodeRequestDropped uint64 = 0x3
	// CodeUnspecifiedError: the backend cannot be reached, or was lost.
	CodeUnspecifiedError uint64 = 0x4
)

// RPC program numbers that the gateway knows.
const (
	ProgPortmap uint32 = 100000 // portmap v2, rpcbind v3 and v4 (RFC 1833)
	ProgNFS     uint32 = 100003 // v3 (RFC 1813) and v4 (RFC 7530, RFC 8881)
	ProgMount   uint32 = 100005 // v1 to v3 (RFC 1813, Appendix I)
	ProgRquota  uint32 = 100011 // remote quotas, v1 and v2
	ProgNLM     uint32 = 100021 // network lock manager, v1, v3 and v4
	ProgNSM     uint32 = 100024 // status monitor, v1
	ProgACL     uint32 = 100227 // NFSv3 ACLs on the NFS port, v3
)

// service is what a backend offers on one TCP port.
type service uint8

const (
	serviceNFS service = iota
	serviceMount
	serviceNLM
	serviceNSM
	serviceRquota
	numServices
)

func (s service) String() string {
	return [numServices]string{"nfs", "mount", "nlm", "nsm", "rquota"}[s]
}

// program says where calls for an RPC program go and which versions exist.
type program struct {
	number    uint32
	low, high uint32
	service   service
}

// programs lists every program that may be forwarded, in the order in which
// the portmapper lists them.
var programs = []program{
	{ProgNFS, 3, 4, serviceNFS},
	{ProgACL, 3, 3, serviceNFS},
	{ProgMount, 1, 3, serviceMount},
	{ProgNLM, 1, 4, serviceNLM},
	{ProgNSM, 1, 1, serviceNSM},
	{ProgRquota, 1, 2, serviceRquota},
}
