package quic

import (
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// spaceKeys are the keys of the Initial or the Handshake space.
type spaceKeys struct {
	rx, tx  *protect.Key
	dropped bool
}

func (k *spaceKeys) drop() {
	if k.rx != nil {
		k.rx.Zero()
	}
	if k.tx != nil {
		k.tx.Zero()
	}
	k.rx, k.tx, k.dropped = nil, nil, true
}

// appKeys are the 1-RTT keys and what a key update needs (RFC 9001, Section 6).
type appKeys struct {
	rx, tx         *protect.Key
	nextRx         *protect.Key // prepared, so that an update costs the same time as a failed packet
	prevRx         *protect.Key // for packets that were delayed across an update
	prevUntil      time.Time
	phase          bool
	generation     uint32
	rxLowest       uint64 // lowest packet number received in this phase
	rxSeen         bool
	txFirst        uint64 // first packet number sent in this phase
	acked          bool   // the peer acknowledged a packet of this phase
	answered       bool   // we acknowledged a packet that the peer sent in this phase
	sealed, failed uint64
}

// install sets the first keys of a direction.
func (k *appKeys) install(write bool, key *protect.Key) error {
	if write {
		k.tx = key
		return nil
	}
	next, err := key.Next()
	if err != nil {
		return err
	}
	k.rx, k.nextRx = key, next
	return nil
}

// mayUpdate reports whether this end may start a key update.
// RFC 9001, Section 6.1: "An endpoint MUST NOT initiate a subsequent key
// update unless it has received an acknowledgment for a packet that was sent
// protected with keys from the current key phase."
func (k *appKeys) mayUpdate() bool { return k.tx != nil && k.rx != nil && k.acked }

// rotate moves both directions to the next phase. The previous receive keys
// stay until the peer is heard in the new phase, however late that is, and then
// for a while for packets that are out of order.
func (k *appKeys) rotate(nextPN uint64) error {
	tx, err := k.tx.Next()
	if err != nil {
		return err
	}
	next, err := k.nextRx.Next()
	if err != nil {
		return err
	}
	if k.prevRx != nil {
		k.prevRx.Zero()
	}
	k.prevRx, k.prevUntil = k.rx, time.Time{}
	k.rx, k.nextRx = k.nextRx, next
	k.tx.Zero()
	k.tx = tx
	k.phase = !k.phase
	k.generation++
	k.rxSeen, k.acked, k.answered = false, false, false
	k.txFirst, k.sealed = nextPN, 0
	return nil
}

// open removes the protection of a 1-RTT payload in place. updated reports
// that the packet is the first of the peer's next phase.
func (k *appKeys) open(now time.Time, pto time.Duration, phase bool, pn uint64, payload, ad []byte) (plain []byte, updated bool, err error) {
	key := k.rx
	if phase != k.phase {
		// RFC 9001, Section 6.5: "if the packet number is lower than any packet
		// number from the current key phase", the previous keys apply.
		if k.prevRx != nil && (!k.rxSeen || pn < k.rxLowest && now.Before(k.prevUntil)) {
			key = k.prevRx
		} else {
			key, updated = k.nextRx, true
		}
	}
	plain, err = key.Open(payload[:0], payload, ad, pn)
	if err != nil {
		k.failed++
		return nil, false, err
	}
	if key == k.rx {
		k.heard(now, pto, pn)
	}
	return plain, updated, nil
}

// heard notes that packet pn of the current phase was received.
func (k *appKeys) heard(now time.Time, pto time.Duration, pn uint64) {
	if !k.rxSeen {
		k.rxSeen, k.rxLowest, k.prevUntil = true, pn, now.Add(3*pto)
	}
	k.rxLowest = min(k.rxLowest, pn)
}

// zero forgets all keys.
func (k *appKeys) zero() {
	for _, x := range []*protect.Key{k.rx, k.tx, k.nextRx, k.prevRx} {
		if x != nil {
			x.Zero()
		}
	}
	*k = appKeys{}
}

func initialKeys(v wire.Version, dst wire.ConnID, server bool) spaceKeys {
	rx, tx := initialPair(v, dst, server)
	return spaceKeys{rx: rx, tx: tx}
}

func initialPair(v wire.Version, dst wire.ConnID, server bool) (rx, tx *protect.Key) {
	client, srv := protect.InitialKeys(v, dst.Append(nil))
	if server {
		return client, srv
	}
	return srv, client
}
