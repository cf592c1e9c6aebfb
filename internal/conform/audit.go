package conform

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// A Status says how a requirement is dealt with.
type Status string

// The statuses.
const (
	Met       Status = "met"       // by code that quotes it, and a test shows it
	Library   Status = "library"   // by crypto/tls or the kernel, as we use them
	Unused    Status = "unused"    // it speaks of a feature that is never used here
	Other     Status = "other"     // it addresses somebody else: applications, deployments, authors of standards, IANA
	Open      Status = "open"      // not walked through yet: nothing is claimed
	Exception Status = "exception" // not met, for the reason given
)

// MaxExceptions is how many requirements may be left unmet.
const MaxExceptions = 15

// An Entry is one line of audit.txt:
//
//	id | status | tests, separated by spaces | note
//
// A test is "quic.TestName" or "quic/wire.TestName": a package's folder and a function.
type Entry struct {
	ID     string
	Status Status
	Tests  []string
	Note   string
}

// ReadAudit reads audit.txt.
func ReadAudit(path string) (map[string]Entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries := map[string]Entry{}
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Split(line, "|")
		if len(fields) != 4 {
			return nil, fmt.Errorf("%s:%d: %d fields, want id | status | tests | note", path, n, len(fields))
		}
		e := Entry{strings.TrimSpace(fields[0]), Status(strings.TrimSpace(fields[1])), strings.Fields(fields[2]), strings.TrimSpace(fields[3])}
		if _, ok := entries[e.ID]; ok {
			return nil, fmt.Errorf("%s:%d: %s for the second time", path, n, e.ID)
		}
		entries[e.ID] = e
	}
	return entries, lines.Err()
}
