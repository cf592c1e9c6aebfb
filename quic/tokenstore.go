package quic

import (
	"slices"
	"sync"
)

// Bounds of a TokenStore and of what a server may have a client keep.
const (
	maxTokenServers   = 256
	maxTokensOfServer = 4
	maxTokenLen       = 512 // it goes into every Initial, which also carries the ClientHello
)

// A TokenStore keeps the NEW_TOKEN tokens of servers for a client's next
// connections: at most 4 for each of 256 servers, the oldest go first. The zero
// value is ready. It may be shared by Configs and endpoints.
type TokenStore struct {
	mu     sync.Mutex
	tokens []storedToken // oldest first
}

type storedToken struct {
	server  string
	version Version
	token   []byte
}

// put keeps a token. RFC 9369, Section 5: "Clients MUST NOT use a session ticket
// or token from a QUIC version 1 connection to initiate a QUIC version 2
// connection, and vice versa."
//
// RFC 9001, Section 9.2: "These MUST NOT be used to communicate application
// semantics between endpoints; clients MUST treat them as opaque values."
func (s *TokenStore) put(server string, v Version, token []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = append(s.tokens, storedToken{server, v, slices.Clone(token)})
	of, first, servers := 0, -1, make(map[string]bool)
	for i, t := range s.tokens {
		servers[t.server] = true
		if t.server == server && t.version == v {
			if of++; first < 0 {
				first = i
			}
		}
	}
	switch {
	case of > maxTokensOfServer:
		s.tokens = slices.Delete(s.tokens, first, first+1)
	case len(servers) > maxTokenServers:
		oldest := s.tokens[0].server
		s.tokens = slices.DeleteFunc(s.tokens, func(t storedToken) bool { return t.server == oldest })
	}
}

// take returns the newest token of a server, which is gone then; nil if there is
// none. RFC 9000, Section 8.1.3: "A client SHOULD NOT reuse a token from a
// NEW_TOKEN frame for different connection attempts."
//
// RFC 9000, Section 8.1.3: "A client MUST NOT include a token that is not
// applicable to the server that it is connecting to, unless the client has the
// knowledge that the server that issued the token"
func (s *TokenStore) take(server string, v Version) []byte {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, t := range slices.Backward(s.tokens) {
		if t.server == server && t.version == v {
			s.tokens = slices.Delete(s.tokens, i, i+1)
			return t.token
		}
	}
	return nil
}

// tokenServer names the server whose tokens a client may use. Without a name,
// which stands for a certificate, only the address tells servers apart.
func (c *Conn) tokenServer() string {
	if c.cfg.ServerName != "" {
		return c.cfg.ServerName
	}
	return c.dialAddr.String()
}

// Len returns how many tokens there are.
func (s *TokenStore) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.tokens)
}
