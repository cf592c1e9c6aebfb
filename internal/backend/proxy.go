package backend

import (
	"encoding/binary"
	"net/netip"
)

// The PROXY protocol, version 2, as HAProxy's doc/proxy-protocol.txt has it: a
// header before the first octet of a connection that tells a server whom it is
// really talking to.

// proxySignature begins every header.
const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

const (
	proxyLocal = 0x20 // version 2, command LOCAL: the proxy's own connection, such as a health check
	proxyProxy = 0x21 // version 2, command PROXY

	proxyUnspec = 0x00
	proxyTCP4   = 0x11
	proxyTCP6   = 0x21

	proxyALPN      = 0x01 // PP2_TYPE_ALPN
	proxyAuthority = 0x02 // PP2_TYPE_AUTHORITY
)

// ProxyInfo is what a header tells of a client.
type ProxyInfo struct {
	Source      netip.AddrPort // the client
	Destination netip.AddrPort // where it connected to
	ALPN        string         // "" leaves it out, like everything else that is empty
	ServerName  string
}

// AppendProxy appends the header of a client's connection.
func AppendProxy(b []byte, p *ProxyInfo) []byte {
	src, dst := p.Source.Addr().Unmap().WithZone(""), p.Destination.Addr().Unmap().WithZone("")
	if !src.IsValid() || !dst.IsValid() {
		return AppendProxyLocal(b)
	}
	family := byte(proxyTCP4)
	if !src.Is4() || !dst.Is4() {
		// One family stands for both addresses.
		family, src, dst = proxyTCP6, netip.AddrFrom16(src.As16()), netip.AddrFrom16(dst.As16())
	}
	b = append(append(b, proxySignature...), proxyProxy, family, 0, 0)
	start := len(b)
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, p.Source.Port())
	b = binary.BigEndian.AppendUint16(b, p.Destination.Port())
	b = appendTLV(b, proxyALPN, p.ALPN)
	b = appendTLV(b, proxyAuthority, p.ServerName)
	binary.BigEndian.PutUint16(b[start-2:], uint16(len(b)-start))
	return b
}

// appendTLV appends a value of at most 255 octets, which names and protocols are.
func appendTLV(b []byte, kind byte, v string) []byte {
	if v == "" || len(v) > 255 {
		return b
	}
	b = append(b, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(len(v)))
	return append(b, v...)
}

// AppendProxyLocal appends the header of a connection of the gateway's own.
func AppendProxyLocal(b []byte) []byte {
	return append(append(b, proxySignature...), proxyLocal, proxyUnspec, 0, 0)
}
