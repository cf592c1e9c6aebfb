//go:build linux && torture

package main

import (
	"strings"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// Every smb2 suite that smbtorture has: what passes on TCP, straight to smbd, on
// three runs, passes over QUIC through the gateway, subtest by subtest. make test
// has the suites that pass whole and do not take minutes, in TestSMBTorture; this
// has all, for an hour.
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
	steady, whole := sambatest.Steady(t, s.smbd, sambatest.TCP(s.smbd.Port), suite)
	switch {
	case whole:
		t.Logf("%s: passes whole, three times", suite)
	case len(steady) == 0:
		t.Logf("%s: nothing of it passes straight to smbd", suite)
		return
	}
	sambatest.CompareSteady(t, s.smbd, s.target(t), suite, steady)
	t.Logf("%s: %d subtests compared", suite, len(steady))
}
