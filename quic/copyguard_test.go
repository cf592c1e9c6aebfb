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

// TestCopyGuard runs itself as a process of its own: a profile is of all that a
// process does, and other tests leave work behind.
func TestCopyGuard(t *testing.T) {
	if mode := os.Getenv("QUIC_COPY_GUARD"); mode != "" {
		copyGuardProfile(t, mode)
		return
	}
	least := func(mode string, rounds int) float64 {
		best := 100.0
		for range rounds {
			name := t.TempDir() + "/cpu.prof"
			cmd := exec.Command(os.Args[0], "-test.run=^TestCopyGuard$", "-test.count=1")
			cmd.Env = append(os.Environ(), "QUIC_COPY_GUARD="+mode, "QUIC_COPY_GUARD_FILE="+name)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", mode, err, out)
			}
			profile, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			share, err := profileShare(t.TempDir(), profile, "runtime.memmove")
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: %.2f %% of the processor time moves memory", mode, share)
			if best = min(best, share); best < copyGuardShare {
				break
			}
		}
		return best
	}
	if share := least("plain", copyGuardRounds); share >= copyGuardShare {
		t.Errorf("%.2f %% of the processor time moves memory, want less than %.0f %%", share, copyGuardShare)
	}
	// A guard that notices no copy guards nothing.
	if share := least("copying", 2); share < copyGuardShare {
		t.Errorf("one copy of each byte is %.2f %% of the processor time, and would pass", share)
	}
}

func copyGuardProfile(t *testing.T, mode string) {
	scfg, ccfg := serverConfig(), clientConfig()
	scfg.MaxUDPPayload, ccfg.MaxUDPPayload = 1400, 1400
	client, server := connect(t, scfg, ccfg)
	ctx := testContext(t)
	move(t, ctx, client, server, copyGuardBytes/8) // windows and pools grow
	var profile bytes.Buffer
	runtime.SetCPUProfileRate(copyGuardRate) // StartCPUProfile complains, and leaves it at that
	if err := pprof.StartCPUProfile(&profile); err != nil {
		t.Fatal(err)
	}
	wrap := func(r io.Reader) io.Reader { return r }
	if mode == "copying" {
		wrap = func(r io.Reader) io.Reader { return &copyingReader{r, make([]byte, 1<<20)} }
	}
	moveThrough(t, ctx, client, server, copyGuardBytes, wrap)
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
