//go:build linux

package smb

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// A client that sends what a server hangs up on has not found a server that has
// failed: others stay where they are.
func TestNegotiateThatNobodyAnswers(t *testing.T) {
	first, second := sambatest.Start(t, sambatest.Options{}), sambatest.Start(t, sambatest.Options{})
	backends, err := NewBackends(BackendsConfig{Addrs: []string{first.Addr, second.Addr}})
	if err != nil {
		t.Fatal(err)
	}
	serve := func(request []byte) Result {
		client, stream := tcpPair(t)
		done := make(chan Result, 1)
		go func() {
			done <- (&Relay{Backends: backends, Options: Options{NegotiateTimeout: 10 * time.Second}}).Serve(t.Context(), stream, "")
		}()
		if _, err := client.Write(request); err != nil {
			t.Fatal(err)
		}
		_ = client.(*net.TCPConn).CloseWrite()
		_, _ = io.ReadAll(client)
		return <-done
	}
	hostile := negotiateRequest(ProbeConfig{})
	hostile[frameHeaderLen+4] = 63 // the header's own size, which smbd wants to be 64
	for range 3 {
		if r := serve(hostile); r.Reason != ReasonBackendUnreachable {
			t.Errorf("%s: %v", r.Reason, r.Err)
		}
		if s := backends.State(); s[0].Failures+s[1].Failures != 0 || s[1].Dials != 0 {
			t.Fatalf("a client had servers marked: %+v", s)
		}
		if r := serve(negotiateRequest(ProbeConfig{})); r.Backend != first.Addr {
			t.Errorf("the next client went to %q, %v", r.Backend, r.Err)
		}
	}
	first.Stop() // and a server that has failed has failed
	if r := serve(negotiateRequest(ProbeConfig{})); r.Backend != second.Addr {
		t.Errorf("%q, %v", r.Backend, r.Err)
	}
	if s := backends.State(); s[0].Failures == 0 {
		t.Errorf("%+v", s[0])
	}
}
