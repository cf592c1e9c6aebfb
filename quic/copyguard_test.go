//go:build !race && !windows

package quic

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/pprof"
	"strconv"
	"testing"
)

// The copy guard: in a CPU profile of a bulk transfer memory is moved for less
// than 2 % of the processor time, and one copy of the payload that no counter
// knows of makes it more. What moves memory is all of runtime.memmove, whoever
// called it; copies in the kernel do not count. Shares are those of one process's
// samples, so how busy the machine is does not matter; what does is losses, whose
// bytes are put in order by copying, and so one round of several has to be good.
//
// With datagrams of Ethernet's size a copy of what is in the first-level cache
// anyhow could hide: it costs no more than the frame headers do. With datagrams of
// 65000 bytes there is one header for each of them, and nothing is left to hide behind.

const (
	copyGuardShare  = 2.0 // per cent
	copyGuardRounds = 10
	copyGuardBytes  = 2 << 30
	copyGuardRate   = 1000 // samples a second: a hundred would be too few for a share of 2 %
)

// A copyingReader is the deliberate copy: what it reads passes through memory of its own.
type copyingReader struct {
	r   io.Reader
	buf []byte
}

func (c *copyingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(c.buf[:min(len(p), len(c.buf))])
	return copy(p, c.buf[:n]), err
}

// A copyingWriter is the same at the other end.
type copyingWriter struct{ buf []byte }

func (c *copyingWriter) Write(p []byte) (int, error) {
	for n := 0; n < len(p); {
		n += copy(c.buf, p[n:])
	}
	return len(p), nil
}

// TestCopyGuard runs itself as a process of its own: a profile is of all that a
// process does, and other tests leave work behind.
func TestCopyGuard(t *testing.T) {
	if mode := os.Getenv("QUIC_COPY_GUARD"); mode != "" {
		copyGuardProfile(t, mode, os.Getenv("QUIC_COPY_GUARD_SIZE"))
		return
	}
	least := func(mode, size string, rounds int) float64 {
		best := 100.0
		for range rounds {
			name := t.TempDir() + "/cpu.prof"
			cmd := exec.Command(os.Args[0], "-test.run=^TestCopyGuard$", "-test.count=1")
			cmd.Env = append(os.Environ(), "QUIC_COPY_GUARD="+mode, "QUIC_COPY_GUARD_SIZE="+size, "QUIC_COPY_GUARD_FILE="+name)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s, %s: %v\n%s", mode, size, err, out)
			}
			profile, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			share, err := profileShare(t.TempDir(), profile, "runtime.memmove")
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s, datagrams of %s: %.2f %% of the processor time moves memory", mode, size, share)
			if best = min(best, share); best < copyGuardShare {
				break
			}
		}
		return best
	}
	for _, size := range []string{"1400", "65000"} {
		if share := least("plain", size, copyGuardRounds); share >= copyGuardShare {
			t.Errorf("datagrams of %s: %.2f %% of the processor time moves memory, want less than %.0f %%", size, share, copyGuardShare)
		}
	}
	// A guard that notices no copy guards nothing: one of what is sent, into memory
	// that is cold, and one of what was received, into memory that is warm.
	for _, c := range []struct{ mode, size string }{{"copying source", "1400"}, {"copying source", "65000"}, {"copying sink", "65000"}} {
		if share := least(c.mode, c.size, 2); share < copyGuardShare {
			t.Errorf("%s, datagrams of %s: one copy of each byte is %.2f %% of the processor time, and would pass", c.mode, c.size, share)
		}
	}
}

func copyGuardProfile(t *testing.T, mode, size string) {
	payload, err := strconv.Atoi(size)
	if err != nil {
		t.Fatal(err)
	}
	scfg, ccfg := serverConfig(), clientConfig()
	scfg.MaxUDPPayload, ccfg.MaxUDPPayload = payload, payload
	client, server := connect(t, scfg, ccfg)
	ctx := testContext(t)
	move(t, ctx, client, server, copyGuardBytes/8) // windows and pools grow
	var profile bytes.Buffer
	runtime.SetCPUProfileRate(copyGuardRate) // StartCPUProfile complains, and leaves it at that
	if err := pprof.StartCPUProfile(&profile); err != nil {
		t.Fatal(err)
	}
	source, sink := io.Reader(&zeros{copyGuardBytes}), io.Discard
	switch mode {
	case "copying source":
		source = &copyingReader{source, make([]byte, 1<<20)}
	case "copying sink":
		sink = &copyingWriter{make([]byte, 64<<10)}
	}
	moveThrough(t, ctx, client, server, source, sink, copyGuardBytes)
	pprof.StopCPUProfile()
	if err := os.WriteFile(os.Getenv("QUIC_COPY_GUARD_FILE"), profile.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// profileShare is the share of a function itself in a CPU profile, in per cent.
func profileShare(dir string, profile []byte, function string) (float64, error) {
	name := filepath.Join(dir, "cpu.prof")
	if err := os.WriteFile(name, profile, 0o600); err != nil {
		return 0, err
	}
	out, err := exec.Command("go", "tool", "pprof", "-top", "-nodecount=1000", "-nodefraction=0", name).Output()
	if err != nil {
		return 0, fmt.Errorf("go tool pprof: %w", err)
	}
	line := regexp.MustCompile(`(?m)^\s*\S+\s+([0-9.]+)%.*\s` + regexp.QuoteMeta(function) + `(?: |$)`).FindSubmatch(out)
	if line == nil {
		return 0, nil // not one sample
	}
	return strconv.ParseFloat(string(line[1]), 64)
}
