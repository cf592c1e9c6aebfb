//go:build linux

package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/internal/flight"
	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
)

// cpuSeconds is the processor time that a process has used.
func cpuSeconds(t *testing.T, pid int) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return float64(user+system) / 100 // USER_HZ
}

// metric is one value at the admin address.
func metric(t *testing.T, base, name string) float64 {
	t.Helper()
	_, all := httpGet(t, base+"/metrics")
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindStringSubmatch(all)
	if m == nil {
		t.Fatalf("no metric %s", name)
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Prebuilt Initials, as fast as one core sends them: a live copy goes on, memory
// stays where it was, Retry goes on by itself and off again. With SOAK_TIME (make
// soak) it takes 20 s, and handshakes at most 30 % of the gateway's processor time.
func TestSoakFloodOfInitials(t *testing.T) {
	soak := os.Getenv("SOAK_TIME") != ""
	lasts := 2 * time.Second
	if soak {
		lasts = 20 * time.Second
	}
	admin := fmt.Sprintf("127.0.0.1:%d", freeTCPPort(t))
	base := "http://" + admin
	s := newNFSStage(t, nfsSetup{exports: ganeshatest.Pseudo, admin: fmt.Sprintf(", http: %q", admin)})
	local := filepath.Join(t.TempDir(), "local")
	size := int64(512 << 20)
	if soak {
		size = 8 << 30
	}
	f, err := os.Create(local)
	if err == nil {
		err = f.Truncate(size) // zeros: what is copied does not matter, that it is does
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	c := s.startCopy(t, "alice", local, s.url("/big"))
	worker, helper := s.Child(workerWord), s.Child(helperWord)
	began, _ := memory(t, worker)
	resetPeak(t, worker)
	cpuWorker, cpuHelper := cpuSeconds(t, worker), cpuSeconds(t, helper)
	initials := metric(t, base, "quicfsgw_first_packets_seconds_total")
	retries := metric(t, base, "quicfsgw_retries_total")
	moved := func() uint64 {
		var n uint64
		for _, conn := range s.Status().Connections {
			n += uint64(conn.BytesIn)
		}
		return n
	}
	before := moved()

	flights := flight.Initials(t, 4000, &tls.Config{ServerName: nfsName, NextProtos: []string{"sunrpc"}, MinVersion: tls.VersionTLS13})
	u, err := net.Dial("udp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	sent := 0
	for end := time.Now().Add(lasts); time.Now().Before(end); {
		for i := range 64 {
			if _, err := u.Write(flights[(sent+i)%len(flights)]); err != nil {
				break // the socket's buffer is full
			}
		}
		sent += 64
	}

	after := moved()
	_, peak := memory(t, worker)
	took := cpuSeconds(t, worker) - cpuWorker
	forTLS := cpuSeconds(t, helper) - cpuHelper
	forInitials := metric(t, base, "quicfsgw_first_packets_seconds_total") - initials
	forInitials = min(forInitials, took) // it is measured by the clock, also while others have the processor
	share := (forTLS + forInitials) / (took + forTLS)
	t.Logf("%d datagrams in %v; packet process %.2f CPU s, of which first packets %.2f s; helper %.2f CPU s: handshakes took %.0f %%; %d MiB were copied meanwhile; memory %d MiB, then at most %d MiB",
		sent, lasts, took, forInitials, forTLS, 100*share, (after-before)>>20, began>>20, peak>>20)
	if soak && share > 0.3 {
		t.Errorf("handshakes took %.0f %% of the gateway's processor time, at most 30 %% may be", 100*share)
	}
	if c.running() && after <= before {
		t.Error("the copy stood still")
	}
	if peak > began+256<<20 {
		t.Errorf("memory grew from %d to %d MiB", began>>20, peak>>20)
	}
	if metric(t, base, "quicfsgw_retries_total") == retries {
		t.Error("Retry did not go on")
	}
	eventually(t, "Retry to go off", func() bool {
		n := metric(t, base, "quicfsgw_retries_total")
		mustCLI(t, time.Minute, nil, s.as("bob", "ls", s.url(""))...)
		return metric(t, base, "quicfsgw_retries_total") == n
	})
	if !soak {
		if err := c.wait(t); err != nil {
			t.Error(err)
		}
	}
}
