package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestBench runs both ends as a user would and reads their JSON.
func TestBench(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	logs, logEnd := io.Pipe()
	out, outEnd := io.Pipe()
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, stdio{outEnd, logEnd}, []string{"bench", "server", "--listen", "127.0.0.1:0", "--json"})
		_ = outEnd.Close()
		_ = logEnd.Close()
	}()
	line, err := bufio.NewReader(logs).ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		t.Fatalf("%q, %v", line, err)
	}
	go func() { _, _ = io.Copy(io.Discard, logs) }()
	code, got, errOut := do(t, "bench", "client", "--connect", addr, "--download", "2MiB", "--streams", "2", "--udp-payload", "1400", "--json")
	if code != exitOK {
		t.Fatalf("exit status %d: %s", code, errOut)
	}
	srv, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{got, srv} {
		var r struct {
			Bytes uint64
			Size  int `json:"datagram_size"`
		}
		if err := json.Unmarshal([]byte(text), &r); err != nil || r.Bytes != 2<<20 || r.Size != 1400 {
			t.Errorf("%s: %v", text, err)
		}
	}
	cancel()
	if code := <-done; code != exitOK {
		t.Errorf("server's exit status %d", code)
	}
}

// benchServer runs a server until the test ends and returns its address.
func benchServer(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	logs, logEnd := io.Pipe()
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, stdio{io.Discard, logEnd}, []string{"bench", "server", "--listen", "127.0.0.1:0", "--gso", "off", "--gro", "off"})
		_ = logEnd.Close()
	}()
	t.Cleanup(func() {
		cancel()
		if code := <-done; code != exitOK {
			t.Errorf("server's exit status %d", code)
		}
	})
	line, err := bufio.NewReader(logs).ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		t.Fatalf("%q, %v", line, err)
	}
	go func() { _, _ = io.Copy(io.Discard, logs) }()
	return addr
}

// TestBenchFlags runs the client with every flag that says what to measure and
// holds what its JSON must then say.
func TestBenchFlags(t *testing.T) {
	addr := benchServer(t)
	always := []string{"bytes", "seconds", "gbps", "cpu_s_per_gib", "packets", "datagram_size", "user_copies_per_byte", "gso", "gro"}
	for args, want := range map[string]map[string]any{
		"--download 1MiB":                           {"bytes": 1 << 20, "streams": 1, "connections": 1},
		"--upload 1048577":                          {"bytes": 1<<20 + 1},
		"--upload 1048578 --fill":                   {"bytes": 1<<20 + 2},
		"--upload 1MiB --streams 3 --connections 2": {"bytes": 1 << 20, "streams": 3, "connections": 2},
		"--download 1MiB --udp-payload 1300":        {"bytes": 1 << 20, "datagram_size": 1300},
		"--download 1MiB --gso off --gro off":       {"bytes": 1 << 20, "gso": false, "gro": false},
		"--requests 20":                             {"requests": 20, "bytes": 20 * (512 + 4096)},
		"--requests 21 --request 8 --response 100":  {"requests": 21, "bytes": 21 * 108},
		"--requests 22 --parallel 4":                {"requests": 22, "streams": 4},
		"--handshakes 3":                            {"handshakes": 3},
		"--handshakes 4 --parallel 2":               {"handshakes": 4},
		"--idle 2 --seconds 0.05":                   {"connections": 2, "handshakes": 2},
		"--download 100GiB --seconds 0.05":          {"role": "client"},
	} {
		code, out, errOut := do(t, append([]string{"bench", "client", "--connect", addr, "--json"}, strings.Fields(args)...)...)
		if code != exitOK {
			t.Errorf("%s: exit status %d: %s", args, code, errOut)
			continue
		}
		var got map[string]any
		if err := json.Unmarshal([]byte(out), &got); err != nil || strings.Count(out, "\n") != 1 {
			t.Errorf("%s: %q: %v", args, out, err)
			continue
		}
		keys := always
		if strings.Contains(args, "--requests") {
			keys = append(slices.Clone(always), "p50_us", "p99_us", "requests_per_second")
		}
		for _, k := range keys {
			if _, ok := got[k]; !ok {
				t.Errorf("%s: no %q in %s", args, k, out)
			}
		}
		for k, v := range want {
			if n, ok := v.(int); ok {
				v = float64(n)
			}
			if got[k] != v {
				t.Errorf("%s: %s is %v, want %v", args, k, got[k], v)
			}
		}
	}
}

// Without --json there is a table to read, and --cpuprofile writes a file.
func TestBenchTable(t *testing.T) {
	profile := filepath.Join(t.TempDir(), "cpu.pprof")
	code, out, errOut := do(t, "bench", "client", "--connect", benchServer(t), "--download", "1MiB", "--cpuprofile", profile)
	if code != exitOK || !strings.Contains(out, "Gbit/s") || !strings.Contains(out, "s/GiB") {
		t.Errorf("exit status %d, %s\n%s", code, out, errOut)
	}
	if fi, err := os.Stat(profile); err != nil || fi.Size() == 0 {
		t.Errorf("%v, %v", fi, err)
	}
}

func TestBenchUsage(t *testing.T) {
	for _, args := range []string{"", "neither", "client", "client --download 1 extra", "client --download 1XB", "client --download 9999999999TiB",
		"client --gso maybe --download 1", "client --connect nowhere --download 1", "client --requests 1 --request 7", "server --listen nowhere"} {
		if code, _, errOut := do(t, append([]string{"bench"}, strings.Fields(args)...)...); code != exitUsage {
			t.Errorf("bench %s: exit status %d, %s", args, code, errOut)
		}
	}
}
