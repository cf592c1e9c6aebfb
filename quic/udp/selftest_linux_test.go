package udp

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
)

// faulty is a socket whose kernel ruins batches, on their way out or in.
type faulty struct {
	PacketConn
	out func(b []byte, segment int) ([]byte, int)
	in  func(m *RecvMsg)
}

func (f *faulty) Send(m *SendMsg) error {
	if f.out == nil || m.SegmentSize <= 0 || m.SegmentSize >= len(m.Data) {
		return f.PacketConn.Send(m)
	}
	bad := *m
	bad.Data, bad.SegmentSize = f.out(bytes.Clone(m.Data), m.SegmentSize)
	if len(bad.Data) == 0 {
		return nil
	}
	return f.PacketConn.Send(&bad)
}

func (f *faulty) Recv(m *RecvMsg) error {
	err := f.PacketConn.Recv(m)
	if err == nil && f.in != nil && m.SegmentSize < m.N {
		f.in(m)
	}
	return err
}

func TestSelfTest(t *testing.T) {
	flip := func(b []byte, s int) ([]byte, int) { b[len(b)-1] ^= 1; return b, s }
	for _, c := range []struct {
		name     string
		out      func(b []byte, segment int) ([]byte, int)
		in       func(m *RecvMsg)
		gso, gro bool // broken
	}{
		{name: "nothing is wrong"},
		{name: "a bit is flipped in what is sent", out: flip, gso: true},
		{name: "segments change places", out: func(b []byte, s int) ([]byte, int) {
			first := bytes.Clone(b[:s])
			copy(b, b[len(b)-s:])
			copy(b[len(b)-s:], first)
			return b, s
		}, gso: true},
		{name: "segments have another size", out: func(b []byte, s int) ([]byte, int) { return b, s - 8 }, gso: true},
		{name: "the last one is lost", out: func(b []byte, s int) ([]byte, int) { return b[:len(b)-(len(b)-1)%s-1], s }, gso: true},
		{name: "all are lost", out: func([]byte, int) ([]byte, int) { return nil, 0 }, gso: true},
		{name: "only large batches are ruined", out: func(b []byte, s int) ([]byte, int) {
			if len(b) > 60000 {
				b[40000] ^= 4
			}
			return b, s
		}, gso: true},
		{name: "a bit is flipped in what is received", in: func(m *RecvMsg) { m.Buf[m.N/2] ^= 1 }, gro: true},
		{name: "what is received has another size", in: func(m *RecvMsg) { m.SegmentSize++ }, gro: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := judge(func(gro bool) (from, to PacketConn, remote netip.AddrPort, err error) {
				if from, to, remote, err = loopbackPair(netip.MustParseAddr("127.0.0.1"), gro); err != nil {
					t.Fatal(err)
				}
				return &faulty{PacketConn: from, out: c.out}, &faulty{PacketConn: to, in: c.in}, remote, nil
			})
			if (o.GSO != nil) != c.gso || (o.GRO != nil) != c.gro {
				t.Errorf("GSO: %v; GRO: %v", o.GSO, o.GRO)
			}
			for _, err := range []error{o.GSO, o.GRO} {
				if err != nil && !errors.Is(err, errCorrupted) {
					t.Errorf("%v", err)
				}
			}
		})
	}
}

// The kernel this runs on is tried for both families; what cannot be tried is trusted.
func TestSelfTestHere(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		if o := testedOffload(v6); o.GSO != nil || o.GRO != nil {
			t.Errorf("IPv6 %t: GSO %v, GRO %v: this kernel corrupts batches", v6, o.GSO, o.GRO)
		}
	}
	o := judge(func(bool) (from, to PacketConn, remote netip.AddrPort, err error) {
		return nil, nil, remote, errors.New("no sockets in this sandbox")
	})
	if o.GSO != nil || o.GRO != nil {
		t.Errorf("%v %v", o.GSO, o.GRO)
	}
}

// What was found broken is not used, and said once; a configuration that
// insists is refused.
func TestSelfTestResultIsObeyed(t *testing.T) {
	for _, o := range []*Offload{{GSO: errCorrupted}, {GRO: errCorrupted}} {
		var log strings.Builder
		s := socket(t, "127.0.0.1:0", Config{})
		if err := s.trust(o, Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}); err != nil {
			t.Fatal(err)
		}
		other := socket(t, "127.0.0.1:0", Config{}) // says nothing again
		if err := other.trust(o, Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}); err != nil {
			t.Fatal(err)
		}
		caps := s.Caps()
		if (caps.MaxSegments == 1) != (o.GSO != nil) || caps.GRO != (o.GRO == nil) || s.Stats().SelfTestFailures.Load() != 1 {
			t.Errorf("%+v after %v, %v", caps, o.GSO, o.GRO)
		}
		if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "corrupted") {
			t.Errorf("log: %s", log.String())
		}
		on := Config{GSO: On}
		if o.GRO != nil {
			on = Config{GRO: On}
		}
		s = socket(t, "127.0.0.1:0", Config{})
		if err := s.trust(o, on); !errors.Is(err, errCorrupted) {
			t.Errorf("%v, %v with %+v: %v", o.GSO, o.GRO, on, err)
		}
		// what is off anyway is no failure
		s = socket(t, "127.0.0.1:0", Config{GSO: Off, GRO: Off})
		if err := s.trust(o, Config{}); err != nil || s.Stats().SelfTestFailures.Load() != 0 {
			t.Errorf("%v, %d failures", err, s.Stats().SelfTestFailures.Load())
		}
	}
}
