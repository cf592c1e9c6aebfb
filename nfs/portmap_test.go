package nfs

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
)

func rpcb(program, version uint32, netid string) []byte {
	b := be32(be32(nil, program), version)
	b = appendOpaque(b, netid)
	b = appendOpaque(b, "")
	return appendOpaque(b, "")
}

func TestPortmapper(t *testing.T) {
	s := newTestService(t, Config{Backends: []string{"192.0.2.9:2049"}})
	v4 := &portmapper{s.programs, netip.MustParseAddrPort("192.0.2.1:443")}
	v6 := &portmapper{s.programs, netip.MustParseAddrPort("[2001:db8::1]:2049")}
	port := func(program, version, proto uint32) []byte {
		return be32(be32(be32(be32(nil, program), version), proto), 0)
	}
	str := func(s string) []byte { return appendOpaque(nil, s) }
	for _, tt := range []struct {
		name          string
		p             *portmapper
		version, proc uint32
		args          []byte
		want          []byte // nil: an error
	}{
		{"null", v4, 2, pmapNull, nil, []byte{}},
		{"set", v4, 2, pmapSet, port(ProgNFS, 3, 6), be32(nil, 0)},
		{"unset", v4, 4, pmapUnset, rpcb(ProgNFS, 3, "tcp"), be32(nil, 0)},
		{"callit", v4, 2, 5, port(ProgNFS, 3, 6), nil},
		{"bcast", v4, 4, 5, nil, nil},
		{"indirect", v4, 4, 10, nil, nil},
		{"getport nfs", v4, 2, pmapGetPort, port(ProgNFS, 3, 6), be32(nil, 443)},
		{"getport mount", v4, 2, pmapGetPort, port(ProgMount, 3, 6), be32(nil, 443)},
		{"getport udp", v4, 2, pmapGetPort, port(ProgNFS, 3, 17), be32(nil, 0)},
		{"getport nfs 2", v4, 2, pmapGetPort, port(ProgNFS, 2, 6), be32(nil, 0)},
		{"getport nlm", v4, 2, pmapGetPort, port(ProgNLM, 4, 6), be32(nil, 0)},
		{"getport short", v4, 2, pmapGetPort, port(ProgNFS, 3, 6)[:15], nil},
		{"getaddr quic", v4, 3, pmapGetPort, rpcb(ProgNFS, 3, "quic"), str("192.0.2.1.1.187")},
		{"getaddr quic v4", v4, 4, pmapGetPort, rpcb(ProgNFS, 3, "quic"), str("192.0.2.1.1.187")},
		{"getaddr quic6 on IPv4", v4, 4, pmapGetPort, rpcb(ProgNFS, 3, "quic6"), str("")},
		{"getaddr quic6", v6, 4, pmapGetPort, rpcb(ProgNFS, 3, "quic6"), str("2001:db8::1.8.1")},
		{"getaddr quic on IPv6", v6, 4, pmapGetPort, rpcb(ProgNFS, 3, "quic"), str("")},
		{"getaddr other version", v4, 4, pmapGetPort, rpcb(ProgNFS, 2, "quic"), str("192.0.2.1.1.187")},
		{"getversaddr", v4, 4, pmapGetVersAddr, rpcb(ProgNFS, 2, "quic"), str("")},
		{"getversaddr in v3", v4, 3, pmapGetVersAddr, rpcb(ProgNFS, 3, "quic"), nil},
		{"getaddr udp", v4, 4, pmapGetPort, rpcb(ProgNFS, 3, "udp"), str("")},
		{"getaddr long netid", v4, 4, pmapGetPort, rpcb(ProgNFS, 3, string(make([]byte, 65))), nil},
		{"version 1", v4, 1, pmapNull, nil, nil},
		{"version 5", v4, 5, pmapNull, nil, nil},
	} {
		record := tt.p.answer(nil, &Call{XID: 9, Version: tt.version, Procedure: tt.proc}, tt.args)
		got, err := successResults(record[markLen:])
		if (err == nil) != (tt.want != nil) || !bytes.Equal(got, tt.want) {
			t.Errorf("%s: %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
}

func TestPortmapperDump(t *testing.T) {
	s := newTestService(t, Config{Backends: []string{"192.0.2.9:2049"}, Ports: Ports{NLM: 4045}})
	p := &portmapper{s.programs, netip.MustParseAddrPort("192.0.2.1:443")}
	for _, version := range []uint32{2, 3, 4} {
		got, err := successResults(p.answer(nil, &Call{Version: version, Procedure: pmapDump}, nil)[markLen:])
		if err != nil {
			t.Fatal(err)
		}
		d := decoder{b: got}
		seen := map[uint32]int{}
		for d.uint32() == 1 {
			seen[d.uint32()]++
			d.uint32()
			if version == 2 {
				if proto, port := d.uint32(), d.uint32(); proto != protoTCP || port != 443 {
					t.Errorf("version 2: protocol %d port %d", proto, port)
				}
			} else if netid, addr := string(d.opaque(64)), string(d.opaque(64)); netid != "quic" || addr != "192.0.2.1.1.187" || d.opaque(64) == nil {
				t.Errorf("version %d: %s %s", version, netid, addr)
			}
		}
		if d.bad || len(d.b) != 0 || seen[ProgNFS] != 2 || seen[ProgMount] != 3 || seen[ProgNLM] != 4 || seen[ProgNSM] != 0 {
			t.Errorf("version %d: %v", version, seen)
		}
	}
}

func FuzzPortmapper(f *testing.F) {
	f.Add(uint32(4), uint32(3), rpcb(ProgNFS, 3, "quic"))
	f.Add(uint32(2), uint32(3), []byte("0123456789abcdef"))
	p := &portmapper{programs, netip.MustParseAddrPort("192.0.2.1:443")}
	f.Fuzz(func(t *testing.T, version, proc uint32, args []byte) {
		checkRecord(t, p.answer(nil, &Call{XID: 5, Version: version, Procedure: proc}, args), 5)
	})
}

// checkRecord checks that record is one whole reply.
func checkRecord(t *testing.T, record []byte, xid uint32) {
	t.Helper()
	msg, err := readMessage(bytes.NewReader(record), 1<<20)
	if err != nil || len(msg) != len(record)-markLen || binary.BigEndian.Uint32(msg) != xid || binary.BigEndian.Uint32(msg[4:]) != msgReply {
		t.Fatalf("not one whole reply: % x, %v", record, err)
	}
}
