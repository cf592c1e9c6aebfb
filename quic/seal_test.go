package quic

import (
	"bytes"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

func (tc *testConn) sealer() protect.SealerStats { return tc.ep.Stats().Sealer }

// TestFlowOfConnection: a connection has one flow from its first 1-RTT packet
// until it closes.
func TestFlowOfConnection(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		s := tc.openStream()
		tc.write(s, []byte("data"))
		tc.settle()
		if st := tc.sealer(); st != (protect.SealerStats{CurrTxSw: 1, TxSw: 1}) {
			t.Errorf("%+v", st)
		}
		_ = tc.conn.CloseWithError(0, "")
		tc.wait(time.Minute)
		if st := tc.sealer(); st != (protect.SealerStats{TxSw: 1}) {
			t.Errorf("after the end: %+v", st)
		}
	})
}

// TestOneRTTOnly: Initial and Handshake packets pass no flow.
func TestOneRTTOnly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestClient(t, nil)
		tc.settle()
		if st := tc.sealer(); st != (protect.SealerStats{}) || tc.sent == 0 {
			t.Errorf("%+v after %d bytes", st, tc.sent)
		}
	})
}

// TestUnsealedIsNotSent: what the sealer refuses does not leave, in whatever
// form, is counted, and is sent when there is a flow again.
func TestUnsealedIsNotSent(t *testing.T) {
	secret := bytes.Repeat([]byte("plaintext"), 400)
	for name, spoil := range map[string]func(f *protect.Flow, k *appKeys){
		"removed":     func(f *protect.Flow, _ *appKeys) { f.Remove() },
		"wrong phase": func(f *protect.Flow, k *appKeys) { f.Update(k.tx, !k.phase) },
	} {
		t.Run(name, func(t *testing.T) {
			either(t, func(t *testing.T, tc *testConn) {
				s := tc.openStream()
				tc.write(s, []byte("x"))
				tc.settle()
				tc.conn.lock()
				flow := tc.conn.app.flow
				spoil(flow, &tc.conn.app)
				tc.conn.unlock()
				tc.wire.take()
				tc.write(s, secret)
				for _, d := range tc.wire.take() {
					t.Errorf("a datagram of %d bytes was sent", len(d.data))
				}
				if n := tc.sealer().TxSwError; n == 0 {
					t.Error("no error was counted")
				}
				tc.conn.lock()
				tc.conn.app.closeFlow() // the next batch registers another
				tc.conn.unlock()
				var got []byte
				for range 100 {
					tc.wait(100 * time.Millisecond)
					for _, f := range tc.frames() {
						if f.typ&^7 == wire.FrameStream && f.id == s.ID() && f.off > 0 {
							got = append(got[:min(len(got), int(f.off)-1)], f.data...)
						}
					}
					tc.ack(wire.Packet1RTT)
					if len(got) == len(secret) {
						break
					}
				}
				if !bytes.Equal(got, secret) {
					t.Errorf("%d of %d bytes arrived later", len(got), len(secret))
				}
			})
		})
	}
}

// TestFlowMoves: the flow of a path that the peer has moved to is registered
// before the first packet that goes there, and the other is gone.
func TestFlowMoves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		tc.giveIDs(2)
		s := tc.openStream()
		tc.write(s, []byte("here"))
		tc.settle()
		before := tc.sealer()
		tc.remote = addrPort("192.0.2.7:99")
		tc.send(wire.Packet1RTT, ping())
		for range 2 { // the first may have had to be small
			for _, f := range tc.frames() {
				if f.typ == wire.FramePathChallenge && f.packet.remote == tc.remote {
					tc.send(wire.Packet1RTT, wire.AppendPathResponse(nil, f.path))
				}
			}
		}
		tc.write(s, []byte("there"))
		if f := tc.want(wire.FrameStream); string(f.data) != "there" || f.packet.remote != tc.remote {
			t.Errorf("%q to %v", f.data, f.packet.remote)
		}
		tc.conn.lock()
		id := tc.conn.app.flow.ID()
		want := protect.FlowID{Remote: tc.remote, Dst: tc.conn.dst()}
		tc.conn.unlock()
		if st := tc.sealer(); id != want || st.CurrTxSw != 1 || st.TxSw <= before.TxSw || st.TxSwError != 0 {
			t.Errorf("flow %v, want %v; %+v", id, want, st)
		}
	})
}

// TestFlowFollowsKeys: a key update gives the flow its next key.
func TestFlowFollowsKeys(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		s := tc.openStream()
		tc.write(s, []byte("x"))
		tc.settle()
		if err := tc.conn.UpdateKeys(); err != nil {
			t.Fatal(err)
		}
		tc.settle()
		tc.write(s, []byte("behind"))
		tc.settle()
		if st := tc.sealer(); st.TxSwError != 0 || st.CurrTxSw != 1 {
			t.Errorf("%+v", st)
		}
	})
}
