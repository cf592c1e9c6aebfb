package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

var (
	stacksInGo = map[string]stack{qg.name: qg, xn.name: xn}
	allPeers   = []peer{ngtcp2, stackPeer(qg), aioquic, stackPeer(xn)}
	ourPeer    = stackPeer(fsgw)
	roles      = []string{"client", "server"}
)

// gaps are what peers lack, by case, peer and role ("" is any).
var gaps = map[[3]string]string{
	{"zerortt", "x-net", ""}:               "no 0-RTT",
	{"v2", "quic-go", ""}:                  "no compatible version negotiation",
	{"v2", "x-net", ""}:                    "version 1 only",
	{"resumption", "x-net", "server"}:      "its server issues no session tickets",
	{"rebind-port", "x-net", "server"}:     "its server does not follow a client that moves",
	{"rebind-addr", "x-net", "server"}:     "its server does not follow a client that moves",
	{"ecn", "aioquic", ""}:                 "neither marks packets nor reports marks",
	{"ecn", "x-net", ""}:                   "does not mark its packets",
	{"connectionmigration", "quic-go", ""}: "neither offers nor follows a preferred address",
	{"connectionmigration", "x-net", ""}:   "neither offers nor follows a preferred address",
	{"connectionmigration", "aioquic", ""}: "neither offers nor follows a preferred address",
}

// eased are cases that a peer bears only in a milder form, by case and peer.
var eased = map[[2]string]string{
	{"handshakeloss", "x-net"}:       backoffKept,
	{"handshakecorruption", "x-net"}: backoffKept,
}

// RFC 9002, Section 6.2.2: "When Initial or Handshake keys are discarded, the PTO and
// loss detection timers MUST be reset".
const backoffKept = "10 % instead of 30: it keeps doubling its probe timeout from one key to the next, " +
	"which takes some of 50 connections minutes (RFC 9002, Section 6.2.2)"

func gap(c, peer, role string) (reason string, ok bool) {
	if reason, ok = gaps[[3]string{c, peer, role}]; !ok {
		reason, ok = gaps[[3]string{c, peer, ""}]
	}
	return reason, ok
}

// A cell is a result of the table.
type cell struct {
	Case   string `json:"case"`
	Peer   string `json:"peer"`
	Role   string `json:"role"`   // the peer's
	Result string `json:"result"` // pass, gap, fail
	Note   string `json:"note,omitempty"`
}

var results struct {
	mu    sync.Mutex
	cells []cell
	notes map[string]string
}

func record(c cell) {
	results.mu.Lock()
	defer results.mu.Unlock()
	results.cells = append(results.cells, c)
}

// note keeps a measurement for the results of this run.
func note(t *testing.T, s string) {
	t.Log(noteMark + s)
	results.mu.Lock()
	defer results.mu.Unlock()
	if results.notes == nil {
		results.notes = map[string]string{}
	}
	results.notes[t.Name()] = s
}

// long tells whether this run has the cases that take minutes.
func long() bool { return os.Getenv("INTEROP_LONG") != "" }

// TestRunner runs the cases.
func TestRunner(t *testing.T) {
	t.Parallel()
	for _, c := range cases {
		if c.long && !long() {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, p := range allPeers {
				for _, role := range roles {
					runCell(t, c, p, role)
				}
			}
		})
	}
}

func runCell(t *testing.T, c testCase, p peer, role string) {
	if reason, ok := gap(c.name, p.name, role); ok {
		record(cell{c.name, p.name, role, "gap", reason})
		return
	}
	if c.run == nil {
		record(cell{c.name, p.name, role, "none", ""})
		return
	}
	t.Run(p.name+"_as_"+role, func(t *testing.T) {
		t.Parallel()
		m := &matchup{T: t, name: c.name, peer: p, role: role, client: p, server: ourPeer}
		if role == "server" {
			m.client, m.server = ourPeer, p
		}
		t.Cleanup(func() {
			result := "pass"
			if t.Failed() {
				result = "fail"
			}
			results.mu.Lock()
			n := results.notes[t.Name()]
			results.mu.Unlock()
			record(cell{c.name, p.name, role, result, n})
		})
		if _, inGo := stacksInGo[p.name]; c.suites && inGo && !inChild(t, 0) || c.namespace && !inChild(t, syscall.CLONE_NEWNET) {
			return
		}
		c.run(m)
	})
}

// inChild runs the calling test again in a process of its own, in new
// namespaces where there are flags for them, and returns true there.
func inChild(t *testing.T, namespaces uintptr) bool {
	if os.Getenv(childEnv) == t.Name() {
		return true
	}
	var parts []string
	for _, p := range strings.Split(t.Name(), "/") {
		parts = append(parts, "^"+p+"$")
	}
	cmd := exec.Command(os.Args[0], "-test.run="+strings.Join(parts, "/"), "-test.v", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), childEnv+"="+t.Name(), resultsEnv+"=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name()+" ")) {
		t.Errorf("in a process of its own: %v\n%s", err, out)
	}
	if _, s, ok := strings.Cut(string(out), noteMark); ok {
		s, _, _ = strings.Cut(s, "\n")
		note(t, s)
	}
	return false
}

const (
	noteMark   = "measured: "
	childEnv   = "INTEROP_CHILD"
	resultsEnv = "INTEROP_RESULTS" // where results go, as JSON, instead of being compared with the document
	document   = "../docs/interop.md"
)

// finish writes what was found, or compares it with the document.
func finish() error {
	results.mu.Lock()
	cells := slices.Clone(results.cells)
	results.mu.Unlock()
	if len(cells) == 0 || os.Getenv(childEnv) != "" {
		return nil // a run of other tests
	}
	if name := os.Getenv(resultsEnv); name != "" {
		return writeResults(name, cells)
	}
	b, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	known := parseTable(string(b))
	for _, c := range cells {
		if was := known[[3]string{c.Case, c.Peer, c.Role}]; was != c.Result {
			return fmt.Errorf("%s with %s as %s: %s, but docs/interop.md has %q (make interop-stacks writes it)", c.Case, c.Peer, c.Role, c.Result, was)
		}
	}
	return nil
}

// writeResults puts results beside those of earlier runs of other cases, and writes the
// document when there are all.
func writeResults(name string, cells []cell) error {
	var all []cell
	b, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	all = slices.DeleteFunc(all, func(old cell) bool {
		return slices.ContainsFunc(cells, func(c cell) bool { return c.Case == old.Case && c.Peer == old.Peer && c.Role == old.Role })
	})
	all = append(all, cells...)
	slices.SortFunc(all, func(a, b cell) int { return strings.Compare(a.Case+a.Peer+a.Role, b.Case+b.Peer+b.Role) })
	if b, err = json.MarshalIndent(all, "", "\t"); err != nil {
		return err
	}
	if err := os.WriteFile(name, append(b, '\n'), 0o644); err != nil {
		return err
	}
	if want := len(cases) * len(allPeers) * len(roles); len(all) != want {
		fmt.Fprintf(os.Stderr, "interop: %d results of %d: docs/interop.md is not written\n", len(all), want)
		return nil
	}
	return os.WriteFile(document, []byte(table(all)), 0o644)
}

const tableHead = `# Interoperability

What our client and our server do with other implementations of QUIC, in the cases of
[quic-interop-runner](https://github.com/quic-interop/quic-interop-runner). Written by
make interop-stacks, which runs every case (some minutes); make test runs those that
take seconds and fails where a result is not the one below. The cases are
interop/cases_test.go, the programs that stand for ngtcp2 and aioquic are in
interop/peers; they are built and run in the Debian tree of testenv/setup-chroot.sh.

A column is a peer and its role: in "ngtcp2 client" the server is ours. *pass*: all of
the case's assertions held. *gap*: the peer lacks what the case needs. *fail*: a defect of ours.
*none*: not run yet. A number stands for a reason below the table.
`

// table is docs/interop.md.
func table(cells []cell) string {
	var b strings.Builder
	b.WriteString(tableHead)
	b.WriteString("\n| Case |")
	for _, p := range allPeers {
		for _, r := range roles {
			fmt.Fprintf(&b, " %s %s |", p.name, r)
		}
	}
	b.WriteString(" What |\n|---|" + strings.Repeat("---|", len(allPeers)*len(roles)+1) + "\n")
	found := map[[3]string]cell{}
	for _, c := range cells {
		found[[3]string{c.Case, c.Peer, c.Role}] = c
	}
	reasons := map[string]int{}
	for _, c := range cases {
		fmt.Fprintf(&b, "| %s |", c.name)
		for _, p := range allPeers {
			for _, r := range roles {
				got := found[[3]string{c.name, p.name, r}]
				why := eased[[2]string{c.name, p.name}]
				if got.Result == "gap" {
					why = got.Note
				}
				if why == "" {
					fmt.Fprintf(&b, " %s |", got.Result)
					continue
				}
				reason := p.name + ": " + why
				if reasons[reason] == 0 {
					reasons[reason] = len(reasons) + 1
				}
				fmt.Fprintf(&b, " %s %d |", got.Result, reasons[reason])
			}
		}
		fmt.Fprintf(&b, " %s |\n", c.what)
	}
	b.WriteString("\nGaps, and cases in a milder form:\n\n")
	for _, reason := range slices.SortedFunc(maps.Keys(reasons), func(a, b string) int { return reasons[a] - reasons[b] }) {
		fmt.Fprintf(&b, "%d. %s\n", reasons[reason], reason)
	}
	return b.String()
}

// parseTable reads the results out of docs/interop.md.
func parseTable(s string) map[[3]string]string {
	known := map[[3]string]string{}
	for line := range strings.Lines(s) {
		cols := strings.Split(line, "|")
		if len(cols) != 4+len(allPeers)*len(roles) {
			continue
		}
		for i, p := range allPeers {
			for j, r := range roles {
				result, _, _ := strings.Cut(strings.TrimSpace(cols[2+len(roles)*i+j]), " ")
				known[[3]string{strings.TrimSpace(cols[1]), p.name, r}] = result
			}
		}
	}
	return known
}
