package smb

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"unicode/utf16"
)

// A session policy looks at what a relay can see: plain requests and responses.
// A session that encrypts (per session, per share, or by the client's choice)
// shows nothing but its NEGOTIATE and SESSION_SETUP, and these rules do not
// bind it; a backend that must be protected from pipes or shares says so itself.
//
// A relay cannot answer in the server's place, because it cannot sign. A request
// that breaks a rule therefore ends the session.
type policy struct {
	allowPipes bool
	encrypted  bool            // nothing but negotiation and logon may pass in the clear
	kerberos   bool            // no logon but by Kerberos
	seen       []string        // shares connected to, the first maxSeen
	shares     map[string]bool // lower case; nil: all
	throttle   *LogonThrottle

	chain treeKey // the tree of the last request, which a related one goes to
	bound bool    // a session of another connection was bound to this one

	mu      sync.Mutex // requests and responses come in two goroutines
	pending map[uint64]pendingTree
	trees   map[treeKey]bool // known trees; true: a pipe share
}

// pendingTree is a TREE_CONNECT without its answer.
type pendingTree struct {
	session uint64
	pipes   bool
}

type treeKey struct {
	session uint64
	tree    uint32
}

// noTree is of a request that asks for a tree, and what a related request has
// in place of its own.
const noTree = 1<<32 - 1

// maxTrees bounds what a client can make the gateway remember. Servers stop
// clients at a few hundred shares a session.
const maxTrees = 4096

// maxSeen bounds the shares that a log line names.
const maxSeen = 16

func newPolicy(o *Options) *policy {
	p := &policy{allowPipes: o.AllowNamedPipes, encrypted: o.Protection == ProtectEncryption, kerberos: o.KerberosOnly, throttle: o.Logons}
	if len(o.Shares) > 0 {
		p.shares = make(map[string]bool, len(o.Shares))
		for _, s := range o.Shares {
			p.shares[strings.ToLower(s)] = true
		}
	}
	return p
}

// watchesTrees reports whether some rule is about trees.
func (p *policy) watchesTrees() bool { return !p.allowPipes || p.shares != nil }

// requests returns the walker for the client's messages. It also finds the shares
// that the log names.
func (p *policy) requests() *walker {
	p.pending = make(map[uint64]pendingTree)
	p.trees = make(map[treeKey]bool)
	return &walker{want: p.wantRequest, see: p.request, compressed: p.compressed}
}

// responses returns the walker for the backend's messages. failed is called for
// each refused logon and tells whether it may go on.
func (p *policy) responses(failed func(status uint32) error) *walker {
	see := func(h header, b []byte) error {
		if h.command == cmdSessionSetup && h.flags&flagResponse != 0 && isLogonFailure(h.status) {
			return failed(h.status)
		}
		return p.response(h, b)
	}
	return &walker{want: p.wantResponse, see: see}
}

// sessionBinding is SMB2_SESSION_FLAG_BINDING of a SESSION_SETUP request's flags,
// MS-SMB2 2.2.5.
const sessionBinding = 0x01

// wantRequest: all of a TREE_CONNECT's path, the flags of a SESSION_SETUP and the
// beginning of its token where it is judged, otherwise the header.
func (p *policy) wantRequest(h header, b []byte) int {
	switch {
	case h.command == cmdTreeConnect && len(b) < headerLen+8:
		return headerLen + 8
	case h.command == cmdTreeConnect:
		off, n := treePath(b)
		return off + n
	case h.command != cmdSessionSetup:
		return headerLen
	case !p.kerberos:
		return headerLen + 3
	case len(b) < headerLen+24:
		return headerLen + 24
	}
	off, n := tokenAt(b)
	return off + min(n, maxToken)
}

// treePath returns where in a TREE_CONNECT request (MS-SMB2 2.2.9) the path is
// and how long, both in octets, unchecked.
func treePath(b []byte) (off, n int) {
	le := binary.LittleEndian
	return int(le.Uint16(b[headerLen+4:])), int(le.Uint16(b[headerLen+6:]))
}

func (p *policy) wantResponse(h header, _ []byte) int {
	if h.command == cmdTreeConnect && p.watchesTrees() {
		return headerLen + 3
	}
	return headerLen
}

// request judges one request of the client.
func (p *policy) request(h header, b []byte) error {
	if h.flags&flagResponse != 0 {
		return &reasonError{ReasonClientFraming, fmt.Errorf("smb: the client sent a response (command %d)", h.command)}
	}
	if p.encrypted && h.command != cmdNegotiate && h.command != cmdSessionSetup {
		return &reasonError{ReasonProtection, fmt.Errorf("smb: the client sent command %d in the clear, and protection is encryption", h.command)}
	}
	if h.flags&flagRelated == 0 {
		// MS-SMB2 3.3.5.2.7.2: a related request is handled with the session and
		// the tree of the one before it, whatever it says itself.
		p.chain = treeKey{h.sessionID, h.treeID}
	}
	switch h.command {
	case cmdSessionSetup:
		p.bound = p.bound || len(b) > headerLen+2 && b[headerLen+2]&sessionBinding != 0
		if !p.kerberos {
			return nil
		}
		if err := checkKerberos(b); err != nil {
			return &reasonError{ReasonNTLM, err}
		}
	case cmdTreeConnect:
		p.chain.tree = noTree
		return p.treeConnect(h, b)
	case cmdCreate:
		return p.create(h)
	}
	return nil
}

// compressed judges a compressed message by its header, nil if that can't be seen.
// Where logons are judged it has to be: unlike encryption, compression could hide
// one. Otherwise it hides no more than encryption may.
func (p *policy) compressed(h *header) error {
	refuse := func(why Reason, rule string) error {
		return &reasonError{why, fmt.Errorf("smb: the client sent a compressed message that can't be seen into, and %s", rule)}
	}
	switch {
	case p.encrypted:
		return refuse(ReasonProtection, "protection is encryption")
	case p.kerberos && (h == nil || h.next != 0 || h.command == cmdNegotiate || h.command == cmdSessionSetup):
		return refuse(ReasonNTLM, "ntlm is deny")
	case h != nil && h.command == cmdTreeConnect && p.watchesTrees():
		return refuse(ReasonShare, "shares are watched")
	case h != nil && h.command == cmdCreate && !p.allowPipes:
		return refuse(ReasonNamedPipe, "named_pipes is deny")
	}
	return nil
}

func (p *policy) treeConnect(h header, b []byte) error {
	share, ok := shareName(b)
	if !p.watchesTrees() {
		if ok {
			p.note(share)
		}
		return nil
	}
	if !ok {
		return &reasonError{ReasonShare, fmt.Errorf("smb: TREE_CONNECT with a path that is malformed or over %d octets", maxPath)}
	}
	pipes := share == "ipc$"
	// IPC$ carries more than pipes (DFS referrals, negotiate validation), so
	// connecting to it is not yet a breach.
	if p.shares != nil && !pipes && !p.shares[share] {
		return &reasonError{ReasonShare, fmt.Errorf("smb: share %q is not among the route's shares", share)}
	}
	p.note(share)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.pending)+len(p.trees) >= maxTrees {
		return &reasonError{ReasonShare, fmt.Errorf("smb: over %d trees in one session", maxTrees)}
	}
	p.pending[h.messageID] = pendingTree{session: h.sessionID, pipes: pipes}
	return nil
}

// note keeps a share for the log.
func (p *policy) note(share string) {
	if len(p.seen) < maxSeen && !slices.Contains(p.seen, share) {
		p.seen = append(p.seen, share)
	}
}

func (p *policy) create(h header) error {
	if p.allowPipes {
		return nil
	}
	if h.flags&flagAsync != 0 { // MS-SMB2 2.2.1.1: of the requests, CANCEL alone may be
		return &reasonError{ReasonClientFraming, fmt.Errorf("smb: a CREATE request that is marked as asynchronous")}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	pipes, known := p.trees[p.chain]
	if !known {
		// The tree is one connected out of sight (encrypted, or on another
		// channel), or a guess at the answer to a TREE_CONNECT still under way, the
		// one before in the chain, say. While an IPC$ is under way the last two
		// cannot be told from an open on it, and of the trees of another channel
		// nothing is known.
		pipes = p.bound
		for _, t := range p.pending {
			pipes = pipes || t.pipes
		}
	}
	if pipes {
		return &reasonError{ReasonNamedPipe, fmt.Errorf("smb: a named pipe was opened, or a file in a tree of another channel, and named_pipes is deny")}
	}
	return nil
}

// response learns from the answers which trees there are, and which are no more.
func (p *policy) response(h header, b []byte) error {
	switch h.command {
	case cmdLogoff, cmdTreeConnect, cmdTreeDisconnect:
	default:
		return nil
	}
	if h.flags&flagAsync != 0 { // without a tree's number
		return nil
	}
	const shareTypePipe = 0x02 // MS-SMB2 2.2.10
	p.mu.Lock()
	defer p.mu.Unlock()
	t, asked := p.pending[h.messageID]
	if h.command == cmdTreeConnect {
		delete(p.pending, h.messageID)
	}
	switch {
	case h.status != 0:
	case h.command == cmdLogoff:
		maps.DeleteFunc(p.trees, func(k treeKey, _ bool) bool { return k.session == h.sessionID })
	case h.command == cmdTreeDisconnect:
		delete(p.trees, treeKey{h.sessionID, h.treeID})
	case asked && len(b) >= headerLen+3:
		p.trees[treeKey{h.sessionID, h.treeID}] = t.pipes || b[headerLen+2] == shareTypePipe
	}
	return nil
}

// shareName returns the share of a TREE_CONNECT's path, \\server\share, in lower
// case. A path of any other form has none: servers read it in ways of their own.
func shareName(b []byte) (string, bool) {
	if len(b) < headerLen+8 {
		return "", false
	}
	off, n := treePath(b)
	if off < headerLen+8 || n%2 != 0 || n == 0 || n > maxPath || off+n > len(b) {
		return "", false
	}
	path, ok := strings.CutPrefix(decodeUTF16(b[off:off+n]), `\\`)
	server, share, both := strings.Cut(path, `\`)
	if !ok || !both || server == "" || share == "" || strings.ContainsAny(share, "\\/\x00") {
		return "", false
	}
	return strings.ToLower(share), true
}

// decodeUTF16 reads UTF-16LE; ill-formed pairs become U+FFFD.
func decodeUTF16(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(u))
}
