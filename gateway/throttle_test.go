package gateway

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/gateway/access"
	"github.com/quic-fsgw/quic-fsgw/smb"
)

// Refused logons are counted for a certificate once it is known, and for an
// address only where there is none: an office behind one address is not locked
// out by one of its laptops, and whoever has no certificate gains nothing by
// connecting again from another port.
func TestThrottleIsTheClients(t *testing.T) {
	office, elsewhere := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("198.51.100.9")
	cert := func(sum string) *access.Verdict { return &access.Verdict{Chain: &access.Chain{SHA256: sum}} }
	anonymous := &access.Verdict{}
	var th throttles
	th.configure(smb.DefaultLogonDelay)
	alice := th.of(clientKey(cert("aa"), office))
	if th.of(clientKey(cert("bb"), office)) == alice {
		t.Error("two certificates behind one address share a throttle")
	}
	if th.of(clientKey(cert("aa"), elsewhere)) != alice {
		t.Error("a certificate has another throttle at another address")
	}
	nobody := th.of(clientKey(anonymous, office))
	if nobody == alice || th.of(clientKey(anonymous, netip.MustParseAddr("::ffff:192.0.2.7"))) != nobody {
		t.Error("who has no certificate is not counted by address")
	}
	if th.of(clientKey(anonymous, elsewhere)) == nobody {
		t.Error("two addresses share a throttle")
	}
	for i := range maxThrottles + 10 {
		th.of(fmt.Sprint(i))
	}
	if len(th.by) > maxThrottles || len(th.order) > maxThrottles {
		t.Errorf("%d throttles are kept", len(th.by))
	}
}
