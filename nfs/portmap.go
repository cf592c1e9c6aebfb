package nfs

import (
	"fmt"
	"net/netip"
	"time"
)

// Portmapper procedures (RFC 1833). 1 to 4 are numbered alike in all versions.
const (
	pmapNull        = 0
	pmapSet         = 1
	pmapUnset       = 2
	pmapGetPort     = 3 // GETADDR in versions 3 and 4
	pmapDump        = 4
	pmapGetTime     = 6 // versions 3 and 4
	pmapGetVersAddr = 9 // version 4

	protoTCP = 6

	maxNetid = 64  // "quic6" is the longest that means anything here
	maxUaddr = 256 // an IPv6 uaddr has at most 47 bytes
	maxOwner = 1024
)

// portmapper answers for the gateway: every program is reached where the client already is.
type portmapper struct {
	programs []program
	local    netip.AddrPort // the gateway's address as the client sees it
}

// answer appends the reply to a portmapper call. args are the procedure's arguments.
func (p *portmapper) answer(b []byte, c *Call, args []byte) []byte {
	if c.Version < 2 || c.Version > 4 {
		return AppendProgMismatch(b, c.XID, 2, 4)
	}
	d := decoder{b: args}
	var results []byte
	switch c.Procedure {
	case pmapNull:
	case pmapSet, pmapUnset:
		// Nobody registers anything with a gateway; FALSE is the refusal that the protocol has.
		results = be32(nil, 0)
	case pmapGetPort:
		if c.Version == 2 {
			results = p.getPort(&d)
		} else {
			results = p.getAddr(&d, c.Version == 3)
		}
	case pmapDump:
		if c.Version == 2 {
			results = p.dump2()
		} else {
			results = p.dump3()
		}
	default:
		switch {
		case c.Version >= 3 && c.Procedure == pmapGetTime:
			results = be32(nil, uint32(time.Now().Unix()))
		case c.Version == 4 && c.Procedure == pmapGetVersAddr:
			results = p.getAddr(&d, true)
		default: // CALLIT, BCAST and INDIRECT would make the gateway call others
			return AppendAcceptError(b, c.XID, AcceptProcUnavail)
		}
	}
	if d.bad {
		return AppendAcceptError(b, c.XID, AcceptGarbageArgs)
	}
	return AppendSuccess(b, c.XID, results)
}

// find reports whether the program is served, in that version if exact.
func (p *portmapper) find(number, version uint32, exact bool) bool {
	if number == ProgPortmap {
		return !exact || version >= 2 && version <= 4
	}
	for _, g := range p.programs {
		if g.number == number {
			return !exact || version >= g.low && version <= g.high
		}
	}
	return false
}

// getPort answers GETPORT of version 2, which has no name for QUIC: who asks for TCP
// gets the gateway's port, since a forwarder at the client offers the streams as TCP.
func (p *portmapper) getPort(d *decoder) []byte {
	number, version, proto, _ := d.uint32(), d.uint32(), d.uint32(), d.uint32()
	if proto != protoTCP || !p.find(number, version, true) {
		return be32(nil, 0)
	}
	return be32(nil, uint32(p.local.Port()))
}

// getAddr answers GETADDR and GETVERSADDR; the empty string means not registered.
//
// draft-cel-nfsv4-rpc-over-quicv1, Section 7.1: "The "quic" netid is to be used when IPv4 addressing is
// employed by the underlying transport, and "quic6" for IPv6 addressing."
func (p *portmapper) getAddr(d *decoder, exact bool) []byte {
	number, version := d.uint32(), d.uint32()
	netid := string(d.opaque(maxNetid))
	d.opaque(maxUaddr)
	d.opaque(maxOwner)
	v4 := p.local.Addr().Unmap().Is4()
	known := false
	switch netid {
	case "quic", "tcp":
		known = v4
	case "quic6", "tcp6":
		known = !v4
	}
	if !known || !p.find(number, version, exact) {
		return appendOpaque(nil, "")
	}
	return appendOpaque(nil, uaddr(p.local))
}

// uaddr is the universal address of RFC 5665, Section 5.2.3: "h1.h2.h3.h4.p1.p2" or,
// for IPv6, the address and ".p1.p2".
func uaddr(a netip.AddrPort) string {
	return fmt.Sprintf("%s.%d.%d", a.Addr().Unmap().WithZone(""), a.Port()>>8, a.Port()&0xff)
}

func (p *portmapper) eachVersion(f func(number, version uint32)) {
	for v := uint32(4); v >= 2; v-- {
		f(ProgPortmap, v)
	}
	for _, g := range p.programs {
		for v := g.low; v <= g.high; v++ {
			f(g.number, v)
		}
	}
}

func (p *portmapper) dump2() []byte {
	var b []byte
	p.eachVersion(func(number, version uint32) {
		b = be32(b, 1)
		b = be32(be32(b, number), version)
		b = be32(be32(b, protoTCP), uint32(p.local.Port()))
	})
	return be32(b, 0)
}

func (p *portmapper) dump3() []byte {
	netid := "quic"
	if !p.local.Addr().Unmap().Is4() {
		netid = "quic6"
	}
	var b []byte
	p.eachVersion(func(number, version uint32) {
		b = be32(b, 1)
		b = be32(be32(b, number), version)
		b = appendOpaque(b, netid)
		b = appendOpaque(b, uaddr(p.local))
		b = appendOpaque(b, "superuser")
	})
	return be32(b, 0)
}
