package backend

import (
	"encoding/hex"
	"net/netip"
	"testing"
)

// The octets of section 2.2 of the specification, written out by hand.
func TestAppendProxy(t *testing.T) {
	const sig = "0d0a0d0a000d0a515549540a"
	for _, c := range []struct {
		name string
		info ProxyInfo
		want string
	}{
		{"IPv4", ProxyInfo{Source: netip.MustParseAddrPort("192.0.2.7:50000"), Destination: netip.MustParseAddrPort("198.51.100.1:443")},
			sig + "21" + "11" + "000c" + "c0000207" + "c6336401" + "c350" + "01bb"},
		{"IPv4 in IPv6, with names", ProxyInfo{Source: netip.MustParseAddrPort("[::ffff:192.0.2.7]:1"), Destination: netip.MustParseAddrPort("192.0.2.8:2"),
			ALPN: "smb", ServerName: "f.x"},
			sig + "21" + "11" + "0018" + "c0000207" + "c0000208" + "0001" + "0002" + "010003736d62" + "020003662e78"},
		{"IPv6", ProxyInfo{Source: netip.MustParseAddrPort("[fe80::1%eth0]:1"), Destination: netip.MustParseAddrPort("[2001:db8::2]:2")},
			sig + "21" + "21" + "0024" + "fe800000000000000000000000000001" + "20010db8000000000000000000000002" + "0001" + "0002"},
		{"both families", ProxyInfo{Source: netip.MustParseAddrPort("192.0.2.7:1"), Destination: netip.MustParseAddrPort("[2001:db8::2]:2")},
			sig + "21" + "21" + "0024" + "00000000000000000000ffffc0000207" + "20010db8000000000000000000000002" + "0001" + "0002"},
		{"unknown", ProxyInfo{}, sig + "20" + "00" + "0000"},
	} {
		if got := hex.EncodeToString(AppendProxy(nil, &c.info)); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}
