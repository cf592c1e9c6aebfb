package quic

import (
	"errors"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// spaceKeys are the keys of the Initial or the Handshake space.
type spaceKeys struct {
	rx, tx  *protect.Key
	dropped bool
}

// errKeyTwice: a Handshaker has told a traffic secret again, or after the end of
// what it was for. Another key under the same packet numbers would break both.
var errKeyTwice = errors.New("a traffic secret for the second time")

// install sets the key of a direction.
func (k *spaceKeys) install(write bool, key *protect.Key) error {
	at := &k.rx
	if write {
		at = &k.tx
	}
	if *at != nil || k.dropped {
		return errKeyTwice
	}
	*at = key
	return nil
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
	flow           *protect.Flow // what tx seals for, see openFlow
	nextRx, nextTx *protect.Key  // of the next phase; nil: due
	prevRx         *protect.Key  // for packets that were delayed across an update
	prevUntil      time.Time
	resting        bool // see rest
	phase          bool
	generation     uint32
	rxLowest       uint64 // lowest packet number received in this phase
	rxSeen         bool
	txFirst        uint64 // first packet number sent in this phase
	acked          bool   // the peer acknowledged a packet of this phase
	answered       bool   // we acknowledged a packet that the peer sent in this phase
	owed           bool   // the peer sent something in this phase that asks for that
	settled        bool   // the peer acknowledged a packet of this phase in which we did
	sealed, failed uint64
	maxSealed      uint64 // packets that one key may seal
	maxFailed      uint64 // packets that may fail to open, in all
	updates        int    // by the peer, since updatesFrom
	updatesFrom    time.Time
}

// maxKeyUpdates is how many key updates of the peer's a second are followed.
// They cost us more than the peer, which has to do with few packets between.
const maxKeyUpdates = 64

// install sets the first keys of a direction.
func (k *appKeys) install(write bool, key *protect.Key) (err error) {
	if write && k.tx != nil || !write && k.rx != nil {
		return errKeyTwice
	}
	if write {
		k.tx, k.maxSealed = key, key.ConfidentialityLimit()
	} else {
		k.rx, k.maxFailed = key, key.IntegrityLimit()
	}
	if k.tx != nil && k.rx != nil {
		return k.prepare()
	}
	return nil
}

// due tells that the keys of the next phase are to be prepared.
func (k *appKeys) due() bool { return k.rx != nil && k.tx != nil && k.nextRx == nil }

// prepare makes the keys of the next phase. It is done on a timer's behalf and
// never for a packet. RFC 9001, Section 9.5: "During a key update, the time taken
// to generate new keys could reveal through timing side channels that a key update
// has occurred. Alternatively, where an attacker injects packets, this side channel
// could reveal the value of the Key Phase on injected packets. After receiving a
// key update, an endpoint SHOULD generate and save the next set of receive packet
// protection keys".
//
// RFC 9001, Section 6.3: "Endpoints responding to an apparent key update MUST
// NOT generate a timing side-channel signal that might indicate that the Key
// Phase bit was invalid (see Section 9.5)."
//
// RFC 9001, Section 6.3: "For this reason, endpoints MUST be able to retain two
// sets of packet protection keys for receiving packets: the current and the
// next."
func (k *appKeys) prepare() error {
	rx, err := k.rx.Next()
	if err != nil {
		return err
	}
	tx, err := k.tx.Next()
	if err != nil {
		return err
	}
	k.nextRx, k.nextTx = rx, tx
	return nil
}

// mayUpdate reports whether this end may start a key update.
// RFC 9001, Section 6.1: "An endpoint MUST NOT initiate a subsequent key
// update unless it has received an acknowledgment for a packet that was sent
// protected with keys from the current key phase."
//
// That the peer was given its own acknowledgment is more than the RFC asks: some
// can't follow into the next phase before (golang.org/x/net/quic drops all
// packets from there on), and in order only, which a network does not keep.
func (k *appKeys) mayUpdate() bool {
	return k.tx != nil && k.rx != nil && k.acked && (k.settled || !k.owed)
}

// rotate moves both directions to the next phase. The previous receive keys
// stay until the peer is heard in the new phase, however late that is, and then
// for a while for packets that are out of order.
//
// RFC 9001, Section 6.1: "An endpoint MUST retain old keys until it has
// successfully unprotected a packet sent using the new keys."
//
// RFC 9001, Section 6.4: "Packets with higher packet numbers MUST be protected
// with either the same or newer packet protection keys than packets with lower
// packet numbers."
func (k *appKeys) rotate(nextPN uint64) error {
	if k.due() { // our own update, right behind another
		if err := k.prepare(); err != nil {
			return err
		}
	}
	if k.prevRx != nil {
		k.prevRx.Zero()
	}
	k.prevRx, k.prevUntil = k.rx, time.Time{}
	k.rx, k.nextRx = k.nextRx, nil
	k.tx.Zero()
	k.tx, k.nextTx = k.nextTx, nil
	k.phase = !k.phase
	k.generation++
	k.rxSeen, k.acked, k.answered, k.owed, k.settled = false, false, false, false, false
	k.txFirst, k.sealed = nextPN, 0
	if k.flow != nil {
		k.flow.Update(k.tx, k.phase)
	}
	return nil
}

// open removes the protection of a 1-RTT payload in place. updated reports
// that the packet is the first of the peer's next phase.
//
// RFC 9001, Section 5.5: "Once an endpoint successfully receives a packet with
// a given packet number, it MUST discard all packets in the same packet number
// space with higher packet numbers if they cannot be successfully unprotected
// with either the same key, or"
//
// RFC 9001, Section 5.5: "Similarly, a packet that appears to trigger a key
// update but cannot be unprotected successfully MUST be discarded."
//
// RFC 9001, Section 6.4: "An endpoint that successfully removes protection with
// old keys when newer keys were used for packets with lower packet numbers MUST
// treat this as a connection error of type KEY_UPDATE_ERROR."
func (k *appKeys) open(now time.Time, pto time.Duration, phase bool, pn uint64, payload, ad []byte) (plain []byte, updated bool, err error) {
	key := k.rx
	if phase != k.phase {
		// RFC 9001, Section 6.5: "A recovered packet number that is
		// lower than any packet number from the current key phase uses
		// the previous packet protection keys". They are used also
		// while the next ones are not ready, so that a packet always
		// costs the same.
		if k.prevRx != nil && (!k.rxSeen || k.nextRx == nil || pn < k.rxLowest && now.Before(k.prevUntil)) {
			key = k.prevRx
		} else {
			key, updated = k.nextRx, true
		}
	}
	plain, err = key.Open(payload[:0], payload, ad, pn)
	if err != nil {
		// RFC 9001, Section 6.6: "In addition to counting packets sent,
		// endpoints MUST count the number of received packets that fail
		// authentication during the lifetime of a connection."
		k.failed++
		return nil, false, err
	}
	if key == k.prevRx && k.rxSeen && pn > k.rxLowest {
		return nil, false, errOldKeys
	}
	if key == k.rx {
		k.heard(now, pto, pn)
	}
	return plain, updated, nil
}

// errOldKeys: a packet was protected with older keys than one of a lower number.
var errOldKeys = errors.New("quic: old keys for a newer packet")

// heard notes that packet pn of the current phase was received.
func (k *appKeys) heard(now time.Time, pto time.Duration, pn uint64) {
	if !k.rxSeen {
		k.rxSeen, k.rxLowest, k.prevUntil = true, pn, now.Add(3*pto)
	}
	k.rxLowest = min(k.rxLowest, pn)
}

// zero forgets all keys.
func (k *appKeys) zero() {
	k.closeFlow()
	for _, x := range []*protect.Key{k.rx, k.tx, k.nextRx, k.nextTx, k.prevRx} {
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
