package quic

import (
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// updateKeys moves the peer's sending keys to the next phase.
func (tc *testConn) updateKeys() {
	s := &tc.spaces[recovery.AppData]
	k, err := s.tx.Next()
	if err != nil {
		tc.Fatal(err)
	}
	s.tx, tc.txPhase = k, !tc.txPhase
}

func TestKeyUpdateByPeer(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		for i := range 5 {
			late := tc.build(wire.Packet1RTT, ping()) // under the old keys
			tc.updateKeys()
			tc.send(wire.Packet1RTT, ping())
			tc.send(wire.Packet1RTT, ping())
			// RFC 9001, Section 6.2: "the endpoint MUST update its send keys to the corresponding
			// key phase in response"
			tc.want(wire.FrameAck)
			if tc.rxPhase != tc.txPhase {
				t.Fatalf("update %d: the answer is in the old phase", i)
			}
			// Section 6.5: packets of the old phase that come late can still be opened
			before := tc.ep.Stats().Drops["decrypt"]
			tc.sendRaw(late)
			if tc.ep.Stats().Drops["decrypt"] != before {
				t.Errorf("update %d: a late packet could not be opened", i)
			}
			tc.settle()
			tc.wait(5 * time.Millisecond) // the next keys are made apart from packets
			tc.wantOpen()
		}
	})
}

func TestKeyUpdateByUs(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		// the first phase needs an acknowledged packet
		s := tc.openStream()
		tc.write(s, []byte("x"))
		tc.settle()
		for i := range 4 {
			if err := tc.conn.UpdateKeys(); err != nil {
				t.Fatalf("update %d: %v", i, err)
			}
			// RFC 9001, Section 6.1: not again before an acknowledgment of the new phase
			if err := tc.conn.UpdateKeys(); err == nil {
				t.Errorf("update %d: a second one was allowed at once", i)
			}
			phase := tc.rxPhase
			tc.read()
			if tc.rxPhase == phase {
				t.Fatalf("update %d: nothing was sent in the new phase", i)
			}
			// the peer still sends in the old phase for a while
			tc.send(wire.Packet1RTT, ping())
			tc.wait(10 * time.Second)
			tc.send(wire.Packet1RTT, ping())
			tc.updateKeys()
			tc.settle()
			tc.ack(wire.Packet1RTT)
			tc.wantOpen()
		}
	})
}

// RFC 9001, Section 6.2: "If an endpoint detects a second update before it has
// sent any packets with updated keys containing an acknowledgment for the
// packet that initiated the key update, it indicates that its peer has updated
// keys twice without awaiting confirmation. An endpoint MAY treat such
// consecutive key updates as a connection error of type KEY_UPDATE_ERROR." Here
// it does: hostile row 9.
func TestHostile09KeyUpdateSpam(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		tc.updateKeys()
		tc.send(wire.Packet1RTT, ping())
		tc.wantOpen()
		tc.wait(5 * time.Millisecond)
		for range 20 {
			tc.updateKeys()
			tc.send(wire.Packet1RTT, wire.AppendPadding(nil, 20))
			tc.wait(5 * time.Millisecond)
			if tc.conn.Err() != nil {
				break
			}
		}
		tc.wantClose(KeyUpdateError)
		if n := tc.conn.Stats().KeyUpdates; n > 2 {
			t.Errorf("%d updates were followed", n)
		}
	})
	// TLS KeyUpdate messages are never allowed. RFC 9001, Section 6: "Endpoints MUST treat the receipt
	// of a TLS KeyUpdate message as a connection error of type 0x010a"
	either(t, func(t *testing.T, tc *testConn) {
		tc.send(wire.Packet1RTT, cryptoFrame(tc.spaces[recovery.AppData].outOff, []byte{24, 0, 0, 1, 0}))
		f := tc.want(wire.FrameConnectionClose)
		if f.code != uint64(CryptoErrorBase)+uint64(AlertUnexpectedMessage) {
			t.Errorf("closed with %#x", f.code)
		}
	})
}

// A forged packet with the other phase bit does not move the keys.
func TestForgedKeyPhase(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		tc.txPhase = !tc.txPhase
		for range 50 {
			tc.send(wire.Packet1RTT, ping())
		}
		tc.txPhase = !tc.txPhase
		tc.wantIdle()
		tc.send(wire.Packet1RTT, ping())
		tc.send(wire.Packet1RTT, ping())
		tc.want(wire.FrameAck)
		if n := tc.conn.Stats().KeyUpdates; n != 0 {
			t.Errorf("%d key updates", n)
		}
	})
}
