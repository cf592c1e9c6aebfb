package quic

import (
	"crypto/tls"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// TestOldKeysUntilPeerFollows: a peer that has not yet seen our key update goes
// on in the old phase, and must be understood however long that takes.
func TestOldKeysUntilPeerFollows(t *testing.T) {
	key := func() *protect.Key {
		k, err := protect.NewKey(wire.Version1, tls.TLS_AES_128_GCM_SHA256, make([]byte, 32))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	var k appKeys
	for _, write := range []bool{true, false} {
		if err := k.install(write, key()); err != nil {
			t.Fatal(err)
		}
	}
	old := key()
	current, err := old.Next()
	if err != nil {
		t.Fatal(err)
	}
	now, pto := time.Unix(1000, 0), 100*time.Millisecond
	open := func(from *protect.Key, phase bool, pn uint64) error {
		_, updated, err := k.open(now, pto, phase, pn, from.Seal(nil, []byte("payload"), nil, pn), nil)
		if updated {
			t.Errorf("packet %d counts as an update", pn)
		}
		return err
	}
	if err := open(old, false, 1); err != nil {
		t.Fatal(err)
	}
	if err := k.rotate(50); err != nil {
		t.Fatal(err)
	}
	if err := k.prepare(); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	if err := open(old, false, 2); err != nil {
		t.Errorf("the old phase, a minute after our update: %v", err)
	}
	if err := open(current, true, 10); err != nil {
		t.Errorf("the new phase: %v", err)
	}
	if err := open(old, false, 9); err != nil {
		t.Errorf("out of order: %v", err)
	}
	now = now.Add(4 * pto)
	if _, _, err := k.open(now, pto, false, 8, old.Seal(nil, []byte("payload"), nil, 8), nil); err == nil {
		t.Error("the old keys are still in use long after the peer has followed")
	}
}
