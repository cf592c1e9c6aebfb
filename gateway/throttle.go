package gateway

import (
	"sync"

	"github.com/quic-fsgw/quic-fsgw/smb"
)

// throttles keeps one logon throttle for each client, so that reconnecting
// does not make guessing passwords any faster. It is bounded: the clients seen
// longest ago are forgotten first.
type throttles struct {
	mu    sync.Mutex
	by    map[string]*smb.LogonThrottle
	order []string
}

const maxThrottles = 8192

func (t *throttles) of(client string) *smb.LogonThrottle {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.by[client]; l != nil {
		return l
	}
	if t.by == nil {
		t.by = make(map[string]*smb.LogonThrottle)
	}
	if len(t.order) >= maxThrottles {
		delete(t.by, t.order[0])
		t.order = append(t.order[:0], t.order[1:]...)
	}
	l := smb.NewLogonThrottle(smb.DefaultLogonDelay)
	t.by[client] = l
	t.order = append(t.order, client)
	return l
}
