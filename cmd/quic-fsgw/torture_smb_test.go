//go:build linux && torture

package main

import (
	"strings"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// Every smb2 suite that smbtorture has: one that passes whole on TCP, straight to
// smbd, on three runs, passes over QUIC through the gateway. make test has those
// known to do so, in TestSMBTorture; this looks at all, for an hour or so.
func TestSMBTortureEverySuite(t *testing.T) {
	t.Run("all", func(t *testing.T) {
		for _, suite := range sambatest.Suites(t) {
			t.Run(strings.TrimPrefix(suite, "smb2."), func(t *testing.T) {
				t.Parallel()
				s := &smbSite{smbd: sambatest.Start(t, sambatest.Options{})}
				s.gatewayProcess = startGateway(t, gatewaySetup{Names: []string{sambatest.Host},
					Rest: strings.Replace(publicSMB(s.smbd.Addr), "min_dialect", "named_pipes: allow, min_dialect", 1)})
				tortureSuite(t, s, suite)
			})
		}
	})
}

func tortureSuite(t *testing.T, s *smbSite, suite string) {
	direct := sambatest.TCP(s.smbd.Port)
	for i := range 3 {
		if v, ok := sambatest.PassesWhole(t, s.smbd, direct, suite); !ok {
			t.Logf("straight to smbd: run %d does not pass: %v", i+1, v)
			return
		}
	}
	n := sambatest.CompareTorture(t, s.smbd, direct, s.target(t), suite)
	t.Logf("straight to smbd: passes three times; %d subtests compared", n)
}
