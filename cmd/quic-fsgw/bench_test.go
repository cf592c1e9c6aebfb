package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
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

func TestBenchUsage(t *testing.T) {
	for _, args := range []string{"", "neither", "client", "client --download 1 extra", "client --download 1XB", "client --download 9999999999TiB",
		"client --gso maybe --download 1", "client --connect nowhere --download 1", "client --requests 1 --request 7", "server --listen nowhere"} {
		if code, _, errOut := do(t, append([]string{"bench"}, strings.Fields(args)...)...); code != exitUsage {
			t.Errorf("bench %s: exit status %d, %s", args, code, errOut)
		}
	}
}
