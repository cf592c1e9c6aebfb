package wire

import (
	"bytes"
	"testing"
	"time"
)

func TestAckFrequencyFrame(t *testing.T) {
	for _, v := range numbers {
		f := AckFrequency{v, v, min(time.Duration(min(v, 1<<40))*time.Microsecond, MaxRequestedAckDelay), v}
		b := AppendAckFrequency(nil, f)
		got, n := ConsumeAckFrequency(append(b[:len(b):len(b)], 1))
		if n != len(b) || got != f || FrameType(b) != FrameAckFrequency {
			t.Errorf("%+v became %+v, %d of %d bytes", f, got, n, len(b))
		}
		for i := range b {
			if _, n := ConsumeAckFrequency(b[:i]); n >= 0 {
				t.Errorf("%d of %d bytes are a frame", i, len(b))
			}
		}
	}
	// A delay beyond all bounds is bounded.
	b := AppendVarint(append(AppendVarint(AppendVarint([]byte{0x40, 0xaf}, 1), 2), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), 3)
	if f, n := ConsumeAckFrequency(b); n != len(b) || f.MaxAckDelay != MaxRequestedAckDelay {
		t.Errorf("%+v, %d bytes", f, n)
	}
	if b := AppendImmediateAck(nil); ConsumeImmediateAck(b) != 1 || FrameType(b) != FrameImmediateAck || ConsumeImmediateAck(nil) >= 0 {
		t.Error("IMMEDIATE_ACK")
	}
	for _, typ := range []uint64{FrameImmediateAck, FrameAckFrequency} {
		if !FrameKnown(typ) || !FrameAckEliciting(typ) || FrameProbing(typ) || FrameName(typ) == "unknown" {
			t.Errorf("type %#x", typ)
		}
		// They are about the application data packet number space.
		for p, want := range map[PacketType]bool{PacketInitial: false, PacketHandshake: false, Packet0RTT: true, Packet1RTT: true} {
			if FrameAllowed(typ, p) != want {
				t.Errorf("type %#x in %v", typ, p)
			}
		}
	}
}

func FuzzAckFrequency(f *testing.F) {
	f.Add(AppendAckFrequency(nil, AckFrequency{1, 10, 5 * time.Millisecond, 3}))
	f.Add([]byte{0x40, 0xaf})
	f.Fuzz(func(t *testing.T, b []byte) {
		v, n := ConsumeAckFrequency(b)
		if n < 0 {
			return
		}
		if n > len(b) || v.MaxAckDelay < 0 || v.MaxAckDelay > MaxRequestedAckDelay {
			t.Fatalf("%+v, %d of %d bytes", v, n, len(b))
		}
		out := AppendAckFrequency(nil, v)
		v2, n2 := ConsumeAckFrequency(out)
		if n2 != len(out) || v2 != v || len(out) > n {
			t.Fatalf("%x became %x", b[:n], out)
		}
		if again := AppendAckFrequency(nil, v2); !bytes.Equal(again, out) {
			t.Fatalf("%x became %x", out, again)
		}
	})
}
