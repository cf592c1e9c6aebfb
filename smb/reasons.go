package smb

// Side is who ended a session.
type Side uint8

// The sides.
const (
	SideGateway Side = iota
	SideClient
	SideBackend
)

// String returns "gateway", "client" or "backend".
func (s Side) String() string {
	switch s {
	case SideClient:
		return "client"
	case SideBackend:
		return "backend"
	}
	return "gateway"
}

// Application error codes on ALPN "smb", for RESET_STREAM, STOP_SENDING and
// CONNECTION_CLOSE. MS-SMB2 defines none, so all but 0 are this project's.
const (
	CodeNone               uint64 = 0x0 // an orderly end
	CodeProtocol           uint64 = 0x1 // the client's bytes are not SMB2 as the framing wants it
	CodePolicy             uint64 = 0x2 // SMB2, but a rule of the route forbids it
	CodeBackendUnreachable uint64 = 0x3 // no backend answered
	CodeBackendLost        uint64 = 0x4 // the backend broke off or misbehaved
	CodeTimeout            uint64 = 0x5 // a deadline passed
	CodeShutdown           uint64 = 0x6 // the gateway ends the session: drain, revocation
)

// Reason is why a session ended, from a fixed table (see Reasons). Its String
// is the log reason and the metric label.
type Reason uint8

// The reasons.
const (
	ReasonNone Reason = iota
	ReasonClientClosed
	ReasonBackendClosed
	ReasonClientReset
	ReasonClientTruncated
	ReasonClientFraming
	ReasonNotNegotiate
	ReasonDialect
	ReasonNamedPipe
	ReasonShare
	ReasonLogons
	ReasonNTLM
	ReasonProtection
	ReasonBackendLimit
	ReasonBackendUnreachable
	ReasonBackendReset
	ReasonBackendTruncated
	ReasonBackendFraming
	ReasonTransportSecurity
	ReasonFirstMessageTimeout
	ReasonIdleTimeout
	ReasonClientMessageTimeout
	ReasonBackendMessageTimeout
	ReasonClientStalled
	ReasonBackendStalled
	ReasonShutdown
	numReasons
)

// ReasonInfo is a row of the table of reasons.
type ReasonInfo struct {
	Reason Reason
	Label  string // log reason and metric label
	Side   Side   // who caused the end
	Code   uint64 // application code the client's connection is closed with
	Cause  string // one line for the documentation
}

var reasons = [numReasons]ReasonInfo{
	{ReasonNone, "none", SideGateway, CodeNone, "the session has not ended"},
	{ReasonClientClosed, "client_closed", SideClient, CodeNone, "the client ended its side between messages"},
	{ReasonBackendClosed, "backend_closed", SideBackend, CodeNone, "the backend ended its side between messages"},
	{ReasonClientReset, "client_reset", SideClient, CodeNone, "the client reset the stream or its connection was lost"},
	{ReasonClientTruncated, "client_truncated", SideClient, CodeProtocol, "the client ended its side inside a message"},
	{ReasonClientFraming, "client_framing", SideClient, CodeProtocol, "length 0, too long, first octet not 0, SMB1, or no SMB2 header"},
	{ReasonNotNegotiate, "not_negotiate", SideClient, CodeProtocol, "the first message is not an SMB2 NEGOTIATE request"},
	{ReasonDialect, "dialect", SideClient, CodePolicy, "no dialect of at least min_dialect was offered or chosen"},
	{ReasonNamedPipe, "named_pipe", SideClient, CodePolicy, "a named pipe was opened where named_pipes is deny"},
	{ReasonShare, "share", SideClient, CodePolicy, "a share outside the route's shares was connected"},
	{ReasonLogons, "logons", SideClient, CodePolicy, "too many refused logons are waiting for their delay"},
	{ReasonNTLM, "ntlm", SideClient, CodePolicy, "a logon other than by Kerberos where ntlm is deny"},
	{ReasonProtection, "protection", SideGateway, CodePolicy, "less signing or encryption than protection asks for"},
	{ReasonBackendLimit, "backend_limit", SideGateway, CodeBackendUnreachable, "the backends have as many connections as limits.connections lets them have"},
	{ReasonBackendUnreachable, "backend_unreachable", SideBackend, CodeBackendUnreachable, "no backend could be dialed and answered NEGOTIATE in time"},
	{ReasonBackendReset, "backend_reset", SideBackend, CodeBackendLost, "the connection to the backend broke"},
	{ReasonBackendTruncated, "backend_truncated", SideBackend, CodeBackendLost, "the backend ended its side inside a message"},
	{ReasonBackendFraming, "backend_framing", SideBackend, CodeBackendLost, "the backend sent what is not SMB2"},
	{ReasonTransportSecurity, "transport_security", SideBackend, CodeBackendLost, "the backend took plain TCP for a secure transport, which would bare the network behind the gateway"},
	{ReasonFirstMessageTimeout, "first_message_timeout", SideClient, CodeTimeout, "the client sent no complete first message in time"},
	{ReasonIdleTimeout, "idle_timeout", SideGateway, CodeTimeout, "no byte went either way for idle_timeout"},
	{ReasonClientMessageTimeout, "client_message_timeout", SideClient, CodeTimeout, "the client left a message incomplete"},
	{ReasonBackendMessageTimeout, "backend_message_timeout", SideBackend, CodeTimeout, "the backend left a message incomplete"},
	{ReasonClientStalled, "client_stalled", SideClient, CodeTimeout, "the client took no bytes for stall_timeout"},
	{ReasonBackendStalled, "backend_stalled", SideBackend, CodeTimeout, "the backend took no bytes for stall_timeout"},
	{ReasonShutdown, "shutdown", SideGateway, CodeShutdown, "the gateway ended the session"},
}

// Reasons returns the table, one row for each Reason in order.
func Reasons() []ReasonInfo { return append([]ReasonInfo(nil), reasons[:]...) }

func (r Reason) info() ReasonInfo {
	if r >= numReasons {
		r = ReasonNone
	}
	return reasons[r]
}

// String returns the label: lower case words joined by underscores.
func (r Reason) String() string { return r.info().Label }

// Side returns who caused the end.
func (r Reason) Side() Side { return r.info().Side }

// Code returns the application error code that goes with the reason.
func (r Reason) Code() uint64 { return r.info().Code }

// Orderly reports whether the session ended as sessions should: nothing was cut off.
func (r Reason) Orderly() bool { return r == ReasonClientClosed || r == ReasonBackendClosed }

// A reasonError is an error that names its row of the table.
type reasonError struct {
	reason Reason
	err    error
}

func (e *reasonError) Error() string { return e.err.Error() }
func (e *reasonError) Unwrap() error { return e.err }
