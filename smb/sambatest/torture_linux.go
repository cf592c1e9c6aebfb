package sambatest

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// WholeSuites are the smbtorture suites that pass whole against Start's server,
// on TCP and over QUIC alike.
var WholeSuites = []string{
	"smb2.connect", "smb2.read", "smb2.lock", "smb2.compound", "smb2.compound_find", "smb2.mkdir", "smb2.tcon",
	"smb2.session-id", "smb2.ioctl-on-stream", "smb2.sharemode", "smb2.deny", "smb2.openattr", "smb2.winattr",
	"smb2.winattr2", "smb2.sdread", "smb2.secleak", "smb2.name-mangling", "smb2.fileid",
	"smb2.delete-on-close-perms", "smb2.timestamps", "smb2.stream-inherit-perms", "smb2.async_dosmode",
	"smb2.check-sharemode", "smb2.durable-open-disconnect", "smb2.durable-v2-delay", "smb2.mkdir-long-name", "smb2.notify-inotify",
}

// knownDifferent are subtests that pass on TCP and not over QUIC for reasons of
// the client's own: it reports a dropped connection by another status.
var knownDifferent = map[string]bool{
	"smb2.session/anon-encryption1": true,
	"smb2.session/anon-encryption3": true,
}

// Verdicts maps subtests to "success", "failure", "error" or "skip".
type Verdicts map[string]string

// Suites are all smb2 suites of smbtorture, by its own list.
func Suites(t testing.TB) []string {
	t.Helper()
	var all []string
	for _, name := range strings.Fields(run(t, t.TempDir(), time.Minute, "smbtorture", "--list-suites").Text) {
		if strings.HasPrefix(name, "smb2.") {
			all = append(all, name)
		}
	}
	if len(all) < len(WholeSuites) {
		t.Fatalf("smbtorture lists %d suites", len(all))
	}
	return all
}

// Steady runs a suite three times and returns the subtests that passed each time,
// and whether the suite did: it ended, something passed, and nothing failed.
func Steady(t testing.TB, s *Server, g Target, suite string) (v Verdicts, whole bool) {
	t.Helper()
	whole = true
	for i := range 3 {
		got, ok := limitedTorture(t, s, g, suite)
		whole = whole && ok
		if i == 0 {
			v = got
		}
		for sub := range v {
			if got[sub] != "success" {
				delete(v, sub)
			}
		}
		if len(v) == 0 {
			return nil, false
		}
	}
	return v, whole
}

// CompareSteady runs a suite against g and fails the test for each subtest of want
// that does not pass in two runs.
func CompareSteady(t testing.TB, s *Server, g Target, suite string, want Verdicts) {
	t.Helper()
	got, _ := limitedTorture(t, s, g, suite)
	worse := difference(suite, want, got)
	if len(worse) == 0 {
		return
	}
	t.Logf("%s: %q differ in the first run; once more", suite, worse)
	got, _ = limitedTorture(t, s, g, suite)
	for _, sub := range difference(suite, want, got) {
		if slices.Contains(worse, sub) {
			t.Errorf("%s/%s passes three times on the first target, and is %q on the second, twice", suite, sub, got[sub])
		}
	}
}

// limitedTorture runs a suite; ok tells that it ended, with something that passed and
// nothing that failed. The verdicts are those it came to in steadyLimit.
func limitedTorture(t testing.TB, s *Server, g Target, suite string) (v Verdicts, ok bool) {
	t.Helper()
	empty(t, s)
	args := append([]string{"smbtorture"}, g.args(t)...)
	out, ended := runLimited(t, g.Work, steadyLimit, append(args, "--option=torture:timelimit=5", suite)...)
	v, passed := parseVerdicts(out.Text), 0
	for _, verdict := range v {
		switch verdict {
		case "success":
			passed++
		case "failure", "error":
			return v, false
		}
	}
	return v, ended && out.Code == 0 && passed > 0
}

// How long a suite may take: of those that all runs have, and of any.
const (
	tortureLimit = 150 * time.Second
	steadyLimit  = 400 * time.Second
)

// SMBTorture runs a suite against g, on a share emptied before.
func SMBTorture(t testing.TB, s *Server, g Target, suite string) (Verdicts, Output) {
	t.Helper()
	empty(t, s)
	out := Torture(t, g, suite, "timelimit=5")
	return parseVerdicts(out.Text), out
}

// empty removes what is on the share: leftovers fail later suites.
func empty(t testing.TB, s *Server) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(s.Dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range left {
		if err := os.RemoveAll(f); err != nil {
			t.Fatal(err)
		}
	}
}

// Torture runs a suite or a benchmark of smbtorture against g, with options such
// as "timelimit=5", and leaves the share as it is.
func Torture(t testing.TB, g Target, suite string, options ...string) Output {
	t.Helper()
	if g.Limit == 0 {
		g.Limit = tortureLimit
	}
	args := append([]string{"smbtorture"}, g.args(t)...)
	for _, o := range options {
		args = append(args, "--option=torture:"+o)
	}
	return run(t, g.Work, g.Limit, append(args, suite)...)
}

// parseVerdicts reads the subunit lines: "success: name", "failure: name [".
func parseVerdicts(text string) Verdicts {
	v := Verdicts{}
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		kind, name, ok := strings.Cut(lines.Text(), ": ")
		switch kind {
		case "success", "failure", "error", "skip":
			if ok {
				v[strings.TrimSuffix(name, " [")] = kind
			}
		}
	}
	return v
}

// CompareTorture runs a suite over plain (TCP to the server, say) and over other,
// and fails the test for each subtest that passes on the first and not on the
// second. Samba's QUIC client has no retransmission timer, and two suites are
// flaky anywhere: a difference counts only if a second run shows it again. It
// returns how many subtests were compared.
func CompareTorture(t testing.TB, s *Server, plain, other Target, suite string) int {
	t.Helper()
	want, out := SMBTorture(t, s, plain, suite)
	if len(want) == 0 {
		t.Fatalf("smbtorture %s ran nothing on the first target (exit status %d):\n%s", suite, out.Code, tail(out.Text))
	}
	got, _ := SMBTorture(t, s, other, suite)
	worse := difference(suite, want, got)
	if len(worse) == 0 {
		return len(want)
	}
	t.Logf("%s: %q differ in the first run; once more", suite, worse)
	got, out = SMBTorture(t, s, other, suite)
	for _, sub := range difference(suite, want, got) {
		if slices.Contains(worse, sub) {
			t.Errorf("%s/%s passes on the first target, and is %q on the second, twice\n%s", suite, sub, got[sub], tail(out.Text))
		}
	}
	return len(want)
}

// difference lists the subtests that pass in want and not in got.
func difference(suite string, want, got Verdicts) []string {
	var worse []string
	for sub, v := range want {
		if v == "success" && got[sub] != "success" && !knownDifferent[suite+"/"+sub] {
			worse = append(worse, sub)
		}
	}
	return worse
}
