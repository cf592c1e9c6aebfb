//go:build linux

package smb_test

import (
	"testing"

	"github.com/quic-fsgw/quic-fsgw/smb"
	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// smbtorture through the relay does as well as straight to smbd: compounds,
// cancels, async answers, pipelined requests. Some of the suites; all of them
// run over QUIC with the gateway.
func TestRelayTorture(t *testing.T) {
	server := sambatest.Start(t, sambatest.Options{})
	front := startFront(t, server.Addr, smb.Options{AllowNamedPipes: true}, nil)
	for _, suite := range []string{"smb2.connect", "smb2.read", "smb2.compound", "smb2.compound_find"} {
		n := sambatest.CompareTorture(t, server, sambatest.TCP(server.Port), sambatest.TCP(front.port), suite)
		t.Logf("%s: %d subtests", suite, n)
	}
}
