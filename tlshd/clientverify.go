package tlshd

import (
	"context"
	"fmt"
)

// Epoch counts what may have changed the verdict on a chain: helpers, and what
// their files say. A chain passes as long as State.Epoch is Epoch.
func (c *Client) Epoch() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch
}

// Verify asks the helper whether a client's chain, as State has it, would pass
// in a handshake now, and returns it as it was verified, which can be by another
// way. epoch is what holds for it if it passes. The error is *Error where the
// chain was judged and refused; any other says that it was not judged.
func (c *Client) Verify(ctx context.Context, chain [][]byte, alpn, caSet string) (verified [][]byte, epoch uint64, err error) {
	var b body
	for _, der := range chain {
		b.bytes(attrRemoteAuth, der)
	}
	b.str(attrALPN, alpn)
	b.str(attrCASet, caSet)
	if len(chain) == 0 || len(chain) > maxChainLen || len(b) > maxMessage || len(alpn) > 255 || len(caSet) > maxLabel {
		return nil, 0, fmt.Errorf("tlshd: verify a chain of %d certificates and %d bytes", len(chain), len(b))
	}
	epoch = c.Epoch()
	m, err := c.ask(ctx, msgVerify, b)
	if err != nil {
		return nil, 0, fmt.Errorf("tlshd: verify a chain: %w", err)
	}
	as, err := parseAttributes(m.typ, m.body)
	if err != nil {
		return nil, 0, err
	}
	if status := Status(as.u32(attrStatus)); status != StatusOK {
		return nil, 0, &Error{Status: status, Alert: as.u8(attrAlert), Reason: Reason(as.str(attrReason)), Detail: as.str(attrDetail)}
	}
	for _, der := range as.all(attrRemoteAuth) {
		verified = append(verified, clone(der))
	}
	// Fail closed: a good verdict without its parts is none.
	if as.str(attrReason) != string(ReasonOK) || len(verified) == 0 {
		return nil, 0, protocolError("a good verdict on a chain, with reason %q and %d certificates", as.str(attrReason), len(verified))
	}
	return verified, epoch, nil
}

// receiveChanged notes that the helper's trust has changed.
func (c *Client) receiveChanged(cc *clientConn, m message) error {
	as, err := parseAttributes(m.typ, m.body)
	if err != nil {
		return err
	}
	c.mu.Lock()
	if c.conn == cc {
		cc.generation = max(cc.generation, as.u64(attrGeneration))
		c.epoch++
	}
	c.mu.Unlock()
	c.changed()
	return nil
}

// epochLocked is the epoch of a verdict that the helper gave by its state of
// this number.
func (c *Client) epochLocked(generation uint64) uint64 {
	if c.conn == nil || generation < c.conn.generation {
		return 0
	}
	return c.epoch
}
