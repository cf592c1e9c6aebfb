package quic

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// seeds names, for each row of the feature table of the kernel's implementation that
// this package answers for, the tests that are its check: "folder TestName", the
// folder as seen from the repository's root. A row without tests says why.
var seeds = []struct{ row, tests, note string }{
	// Protocol
	{"RFC set", "quic TestHandshakeAndEcho, quic TestVersionPairs, quic TestCipherSuites, quic TestDatagramSizes, quic TestQUICBit, interop TestTransfer10MB, interop TestVersion2", ""},
	{"Socket", "quic TestAddressFamilies", "methods and types of a Go package instead of socket numbers"},
	{"Versions", "quic TestVersionPairs, quic TestCompatibleVersionAtServer, quic TestVersionNegotiationAtServer, quic TestHostile42Downgrade, interop TestVersionNegotiationByUs", ""},
	{"Ciphers", "quic TestCipherSuites, quic/protect TestSampleKeys, quic/protect TestNewKeyErrors", "AES-128-CCM is not offered: crypto/tls has none"},
	{"Accept queue", "quic TestAcceptBacklog", ""},
	{"Retry", "quic TestRetryAtServer, quic TestRetryAtClient, quic TestHostile20RetryRaces, interop TestRetry", "a token lives 10 s, not 3"},
	{"NEW_TOKEN", "quic TestTokenSavesARetry, quic TestTokens, quic TestTokenKeys, quic TestHostile44TokenReplay, quic TestLostNewToken", "bound to the address only, so that another port needs no second Retry"},
	{"Session tickets", "quic TestTLSResumes, tlshd TestTicketsOutliveTheHelper, tlshd TestTicketsAreBound, tlshd TestTicketKeys, gateway/upcall TestEarlyData", "bound to no address; after a restart where ticket_keys names a file"},
	{"0-RTT", "quic TestEarlyData, quic TestEarlyReplayed, tlshd TestEarlyDataReplayed, tlshd TestNoEarlyDataForFiles, interop TestZeroRTT", ""},
	{"Stateless reset", "quic TestStatelessResetSent, quic TestStatelessResetReceived, interop TestStatelessReset", "always on"},
	{"CIDs", "quic TestOwnConnectionIDs, quic TestConnectionIDsOfPeer, quic TestRotateConnectionIDs", ""},
	{"Passive migration", "quic TestNATRebinding, quic TestRebinding, interop TestRebinding", ""},
	{"Active migration", "quic TestMigrate, quic TestMigrateToNowhere, quic TestEventsOfAConnection", ""},
	{"Preferred address", "quic TestPreferredAddress, quic TestHostile36Reach, quic TestHostile36Silent", "of the family in use only"},
	{"disable_active_migration", "quic TestMigrateRefused, quic TestDisableActiveMigration", ""},
	{"Key update", "quic TestKeyUpdateByUs, quic TestKeyUpdateByPeer, quic TestConfidentialityLimit, quic TestKeyUpdateTiming, interop TestKeyUpdateByUs", ""},
	{"Idle/keepalive", "quic TestIdleTimeout, quic TestKeepAlive", ""},
	{"Close", "quic TestCloseReachesPeer, quic TestLongReasons, interop TestCloseApplication", "phrases of up to 256 bytes"},
	{"Errors", "quic TestFrameErrors, quic TestFramesInTheWrongPacket, quic TestTransportParameterErrors", ""},
	{"Anti-amplification", "quic TestAmplificationLimitInHandshake, quic TestHostile35Amplification", ""},
	{"Loss/RTT", "quic TestNetworks, quic TestHandshakesOnBadNetworks, quic/recovery TestPacketThreshold, quic/recovery TestRTTUpdate", ""},
	{"Congestion", "quic TestCongestionControl, internal/ccsim TestLinks, internal/ccsim TestFairness, quic/recovery TestHyStart", "Reno, CUBIC and BBR; CUBIC is the default"},
	{"Pacing", "quic/recovery TestPacerRate", ""},
	{"ACK delay and Nagle", "quic TestAckDelay, quic TestOneAckForABatch", "there is no Nagle: what is written goes out at once, and what comes in one batch is acknowledged once"},
	{"PLPMTUD", "quic TestMTUGrowsToJumbo, quic TestMTUBlackHole", ""},
	{"ECN", "quic TestECNCongestion, quic TestECNValidated", ""},
	{"Datagrams", "quic TestDatagramSizes, quic TestDatagramQueues, quic TestLostDatagrams, quic TestDatagramsOverANetwork", ""},
	{"Grease", "quic TestQUICBit, quic TestGreaseIsSent", "on unless switched off"},
	{"No encryption", "", "not offered: nothing here needs it, and a switch can be thrown by mistake"},

	// API
	{"0 EVENT", "quic TestEventsAreBounded", ""},
	{"1 STREAM_OPEN", "quic TestStreamLimitOfPeer, quic TestEventLimits", ""},
	{"2 STREAM_RESET", "quic TestCancelWriteRaces, quic TestResetAfterFin", ""},
	{"3 STREAM_STOP_SENDING", "quic TestCancelRead, quic TestStopSendingReceived", ""},
	{"4 CONNECTION_ID", "quic TestRotateConnectionIDs", ""},
	{"5 CONNECTION_CLOSE", "quic TestCloseReachesPeer, quic TestClosingState", ""},
	{"6 CONNECTION_MIGRATION", "quic TestMigrate, quic TestPreferredAddress", ""},
	{"7 KEY_UPDATE", "quic TestKeyUpdateByUs", ""},
	{"8 TRANSPORT_PARAM", "quic TestTransportParameterErrors, quic TestRememberedParams", "of a Config, which a connection reads when it begins: there is nothing to set late"},
	{"9 CONFIG", "quic TestFirstVersion, quic TestMTUSearch, quic TestCipherSuites, quic TestKeepAlive, quic TestTokenSavesARetry", "fields of a Config; a first version that is not among Versions is refused, other values are brought into their range"},
	{"10 TOKEN", "quic TestTokenStore, quic TestTokenSavesARetry", ""},
	{"11 ALPN", "quic TestRefusals, interop TestNoCommonALPN", ""},
	{"12 SESSION_TICKET", "quic TestTLSResumes, quic TestEventNewTokenAndTicket", ""},
	{"13 CRYPTO_SECRET", "quic TestSecretTwice, tlshd TestHelperBreaksAHandshake", "the EventSecret of a Handshaker"},
	{"14 TRANSPORT_PARAM_EXT", "quic TestTransportParameterErrors", ""},
	{"CMSG and flags", "quic TestReadToFin, quic TestFlowControlOfPeer, quic TestBlockedStreamWaitsOnce, quic TestDatagramSizes, quic TestEarlyData", "CloseWrite, deadlines, SendDatagram and DialEarly"},
	{"Stream states", "quic TestEventStreamUpdate, quic TestNothingAfterReset", ""},
	{"Event 1 STREAM_UPDATE", "quic TestEventStreamUpdate", ""},
	{"Event 2 STREAM_MAX_DATA", "quic TestEventLimits", ""},
	{"Event 3 STREAM_MAX_STREAM", "quic TestEventLimits", ""},
	{"Event 4 CONNECTION_ID", "quic TestEventsOfAConnection", ""},
	{"Event 5 CONNECTION_CLOSE", "quic TestEventClose", ""},
	{"Event 6 CONNECTION_MIGRATION", "quic TestEventsOfAConnection", ""},
	{"Event 7 KEY_UPDATE", "quic TestEventsOfAConnection", ""},
	{"Event 8 NEW_TOKEN", "quic TestEventNewTokenAndTicket", ""},
	{"Event 9 NEW_SESSION_TICKET", "quic TestEventNewTokenAndTicket, quic TestTLSResumes", ""},
	{"Parameter 00, 0f, 10", "quic TestTransportParameterErrors, quic TestRetrySourceConnectionID", ""},
	{"Parameter 01", "quic TestIdleTimeout", ""},
	{"Parameter 02", "quic TestStatelessResetReceived, quic TestTransportParameterErrors", "always sent by a server"},
	{"Parameter 03", "quic TestMaxUDPPayloadOfPeer", ""},
	{"Parameter 04", "quic TestFlowControlOfPeer, quic TestFrameErrors", ""},
	{"Parameter 05-07", "quic TestFlowControlOfPeer, quic TestFrameErrors", ""},
	{"Parameter 08, 09", "quic TestStreamLimitOfPeer, quic TestFrameErrors", ""},
	{"Parameter 0a, 0b", "quic TestAckDelay, quic/recovery TestRTTUpdate", ""},
	{"Parameter 0c, 0d", "quic TestDisableActiveMigration, quic TestPreferredAddress", ""},
	{"Parameter 0e", "quic TestFrameErrors, quic TestHostile03RetireChurn", ""},
	{"Parameter 11", "quic TestHostile42Downgrade", ""},
	{"Parameter 20, 2ab2, baad", "quic TestDatagramSizes, quic TestQUICBit", "baad: see No encryption"},

	{"Counters of connections", "quic TestCountersOfConnections", "docs/quic.md has their names"},
	{"Counters of packets", "quic TestCounters, quic TestCountersOfEarlyPackets, quic TestSealers", ""},
	{"Counters of frames", "quic TestCounters, quic TestCountersOfRetransmission", ""},
	{"List of connections", "quic TestCountersOfConnections, cmd/quic-fsgw TestAdminWhileServing", ""},
	{"Memory", "quic TestHostile66BehindAHole, quic TestOverBudgetIsNotAcknowledged, quic TestCreditFollowsTheReader", ""},
	{"Streams apart", "quic TestSlowStreamStallsNoOther, quic TestHostile15SlowStreams", ""},

	// Dispatch, consumers, offload
	{"ALPN routing between processes", "gateway TestForward, gateway TestForwardReordered", ""},
	{"ALPN inside a process", "quic TestDispatchByALPN, quic TestClientHelloInPieces", ""},
	{"SO_REUSEPORT+BPF", "quic/udp TestGroupSteers64Of64, quic/udp TestProgramAccepted", ""},
	{"Handshake split", "cmd/quic-fsgw TestKeysOnlyInHelper, cmd/quic-fsgw TestNoKeyFileOpened", ""},
	{"libquic", "quic TestDialCancelled, quic TestDeadlines", ""},
	{"In-kernel consumers", "quic TestWriteToAndReadFrom", "the SMB and NFS bridges use the same Stream"},
	{"Zero-copy", "quic TestSteadyState, quic TestCopyGuard, quic/udp TestZerocopyModes", ""},
	{"Tx crypto offload", "quic/protect TestSealerEqualsSingle, quic/protect TestSealerRefuses, quic TestUnsealedIsNotSent", ""},
	{"Offload counters", "quic/protect TestSealerCounts, quic TestFlowOfConnection", ""},
	{"GSO", "quic/udp TestGSOArrivesAsGRO, quic/udp TestGSOFallback, quic/udp TestBatchLimits", ""},

	// Hostile inputs
	{"Hostile 2", "quic TestHostile02PathChallengeFlood, quic TestChallengesFromElsewhere", ""},
	{"Hostile 9", "quic TestHostile09KeyUpdateSpam, quic TestHostile09UpdateRate", ""},
	{"Hostile 20", "quic TestHostile20RetryRaces", ""},
	{"Hostile 28", "quic TestHostile28InitialFlood", ""},
	{"Hostile 31", "quic TestHostile31NewTokenAtServer, quic TestHostile31StopSendingRaces, quic TestTokens", ""},
	{"Hostile 33", "quic TestHostile33PathStorm", ""},
	{"Hostile 36", "quic TestHostile36PreferredAddress, quic TestHostile36Reach, quic TestHostile36Silent", ""},
	{"Hostile 42", "quic TestHostile42Downgrade, quic TestHostile42ForgedVersionNegotiation", ""},
	{"Hostile 43", "quic TestHostile43Linkability", ""},
	{"Hostile 44", "quic TestHostile44TokenReplay, quic TestSpentTokensAreBounded", ""},
}

// testsIn are the names of the tests in a folder of the repository.
func testsIn(t *testing.T, folder string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", folder, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no tests (%v)", folder, err)
	}
	names := make(map[string]bool)
	re := regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range re.FindAllStringSubmatch(string(text), -1) {
			names[m[1]] = true
		}
	}
	return names
}

// TestSeeds: each row has its check.
func TestSeeds(t *testing.T) {
	folders := make(map[string]map[string]bool)
	rows := make(map[string]bool)
	for _, s := range seeds {
		if rows[s.row] {
			t.Errorf("row %q is there twice", s.row)
		}
		rows[s.row] = true
		if s.tests == "" {
			if s.note == "" {
				t.Errorf("row %q has neither a test nor a reason", s.row)
			}
			continue
		}
		for _, one := range strings.Split(s.tests, ", ") {
			folder, name, ok := strings.Cut(one, " ")
			if !ok {
				t.Errorf("row %q: %q is not a folder and a test", s.row, one)
				continue
			}
			if folders[folder] == nil {
				folders[folder] = testsIn(t, folder)
			}
			if !folders[folder][name] {
				t.Errorf("row %q: %s has no %s", s.row, folder, name)
			}
		}
	}
}
