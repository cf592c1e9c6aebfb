//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// Samba's own clients over QUIC, through `quic-fsgw serve`, to smbd.

// smbSite is smbd behind a gateway with a public route for sambatest.Host.
type smbSite struct {
	*gatewayProcess
	smbd *sambatest.Server
}

// startSMB runs smbd and a gateway in front of it. rest are further sections of
// YAML, such as quic.
func startSMB(t testing.TB, opts sambatest.Options, rest string) *smbSite {
	t.Helper()
	s := &smbSite{smbd: sambatest.Start(t, opts)}
	s.gatewayProcess = startGateway(t, gatewaySetup{Names: []string{sambatest.Host}, Rest: publicSMB(s.smbd.Addr) + rest})
	return s
}

// publicSMB is a public route to an SMB server.
func publicSMB(backend string) string {
	return fmt.Sprintf("routes:\n  - name: office\n    match: {alpn: smb, server_name: %s}\n    access: public\n    smb: {backends: [%q], min_dialect: \"2.1\"}\n",
		sambatest.Host, backend)
}

// quietSMB is publicSMB with a backend that nobody checks: each connection to
// it is a client's.
func quietSMB(backend string) string {
	return strings.Replace(publicSMB(backend), "min_dialect", "probe: {interval: 0s}, min_dialect", 1)
}

// target is for Samba's clients, with a work directory of its own.
func (s *smbSite) target(t testing.TB) sambatest.Target {
	g := sambatest.QUIC(s.Port, s.Authority.CA)
	g.Work = t.TempDir()
	return g
}

// path is a file of the share as this machine sees it.
func (s *smbSite) path(name ...string) string {
	return filepath.Join(append([]string{s.smbd.Dir}, name...)...)
}

func sameHash(t testing.TB, want string, files ...string) {
	t.Helper()
	for _, f := range files {
		if got := fileHash(t, f); got != want {
			t.Errorf("%s has SHA-256 %s, want %s", f, got, want)
		}
	}
}

func TestSMBClient(t *testing.T) {
	s := startSMB(t, sambatest.Options{}, "")
	t.Run("ls, mkdir, cd", func(t *testing.T) {
		sambatest.MustSMBClient(t, s.target(t), "ls", "mkdir d", "cd d", "mkdir sub", "cd sub", "ls")
		if fi, err := os.Stat(s.path("d", "sub")); err != nil || !fi.IsDir() {
			t.Error(err)
		}
	})
	// Around the packet size, the windows, and SMB's own chunk sizes.
	for _, size := range []int64{0, 1, 1199, 1200, 1452, 65535, 65536, 65537, 1 << 20, 1<<20 + 1, 8 << 20, 16 << 20, 32<<20 + 1} {
		t.Run(fmt.Sprintf("put and get %d", size), func(t *testing.T) {
			g := s.target(t)
			want := randomBytesFile(t, filepath.Join(g.Work, "up"), size)
			name := fmt.Sprintf("f%d", size)
			sambatest.MustSMBClient(t, g, "cd d", "put /mnt/up "+name, "get "+name+" /mnt/back")
			sameHash(t, want, s.path("d", name), filepath.Join(g.Work, "back"))
		})
	}
	t.Run("rename, allinfo", func(t *testing.T) {
		sambatest.MustSMBClient(t, s.target(t), "cd d", "rename f65536 g65536", "allinfo g65536", "del f1452")
		if _, err := os.Stat(s.path("d", "g65536")); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(s.path("d", "f1452")); !os.IsNotExist(err) {
			t.Errorf("after del: %v", err)
		}
	})
	t.Run("200 files on one connection", func(t *testing.T) { manyFiles(t, s) })
	t.Run("4 connections at once", func(t *testing.T) { fourAtOnce(t, s) })
	for _, o := range []string{"client max protocol = SMB3_11", "client max protocol = SMB2_10", "client signing = required", "client smb encrypt = required"} {
		t.Run(o, func(t *testing.T) {
			g := s.target(t)
			g.Options = []string{o}
			want := randomBytesFile(t, filepath.Join(g.Work, "up"), 8<<20)
			sambatest.MustSMBClient(t, g, "cd d", "put /mnt/up o", "get o /mnt/back")
			sameHash(t, want, s.path("d", "o"), filepath.Join(g.Work, "back"))
		})
	}
	t.Run("wrong password", func(t *testing.T) {
		g := s.target(t)
		g.User, g.Password = sambatest.User, "wrong"
		if out := sambatest.SMBClient(t, g, "ls"); out.Code == 0 || !strings.Contains(out.Text, "NT_STATUS_LOGON_FAILURE") {
			t.Errorf("exit status %d\n%s", out.Code, out.Text)
		}
	})
	t.Run("deltree", func(t *testing.T) {
		sambatest.MustSMBClient(t, s.target(t), "deltree d")
		if _, err := os.Stat(s.path("d")); !os.IsNotExist(err) {
			t.Error(err)
		}
	})
	// PEERS: the client has no loss recovery, so nothing of ours may drop a packet.
	tr := s.Status().Listeners[0].Transport
	for reason, n := range tr.Drops {
		if n != 0 && reason != "duplicate" && reason != "unknown" {
			t.Errorf("%d packets dropped: %s", n, reason)
		}
	}
	t.Logf("transport: %d packets in, %d out, %d lost, %d probe timeouts", tr.PacketsReceived, tr.PacketsSent, tr.PacketsLost, tr.PTOs)
}

func manyFiles(t *testing.T, s *smbSite) {
	g := s.target(t)
	for _, d := range []string{"many", "back"} {
		if err := os.Mkdir(filepath.Join(g.Work, d), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]string{}
	for i := range 200 {
		name := fmt.Sprintf("n%d", i)
		want[name] = randomBytesFile(t, filepath.Join(g.Work, "many", name), int64(i)*37)
	}
	sambatest.MustSMBClient(t, g, "lcd /mnt/many", "cd d", "mkdir many", "cd many", "recurse", "prompt", "mput *", "lcd /mnt/back", "mget *")
	for name, h := range want {
		sameHash(t, h, s.path("d", "many", name), filepath.Join(g.Work, "back", name))
	}
}

func fourAtOnce(t *testing.T, s *smbSite) {
	var wg sync.WaitGroup
	for i := range 4 {
		g := s.target(t)
		want := randomBytesFile(t, filepath.Join(g.Work, "up"), 8<<20)
		wg.Go(func() {
			name := fmt.Sprintf("par%d", i)
			out := sambatest.SMBClient(t, g, "cd d", "put /mnt/up "+name, "get "+name+" /mnt/back")
			if out.Code != 0 {
				t.Errorf("smbclient %d: exit status %d\n%s", i, out.Code, out.Text)
				return
			}
			sameHash(t, want, s.path("d", name), filepath.Join(g.Work, "back"))
		})
	}
	wg.Wait()
}

// Samba's upload takes time that grows with the square of what is sent on a
// connection, so 64 MiB go up; 1 GiB comes down.
func TestSMBClientLarge(t *testing.T) {
	s := startSMB(t, sambatest.Options{}, "")
	g := s.target(t)
	g.Limit = 5 * time.Minute
	pid := s.Child(workerWord)
	const up, down = 64 << 20, 1 << 30
	want := randomBytesFile(t, filepath.Join(g.Work, "up"), up)
	start := time.Now()
	sambatest.MustSMBClient(t, g, "put /mnt/up up")
	t.Logf("put: %s", rate(up, time.Since(start)))
	sameHash(t, want, s.path("up"))
	want = randomBytesFile(t, s.path("down"), down)
	start = time.Now()
	sambatest.MustSMBClient(t, g, "get down /mnt/down")
	t.Logf("get: %s", rate(down, time.Since(start)))
	sameHash(t, want, filepath.Join(g.Work, "down"))
	now, peak := memory(t, pid)
	t.Logf("packet process: %d MiB resident, %d MiB at its peak", now>>20, peak>>20)
	if peak > 200<<20 {
		t.Errorf("the packet process took %d MiB", peak>>20)
	}
}

// The suites of smbtorture that pass whole on TCP pass over QUIC. Some of them
// mostly wait: those have a server of their own and run beside the others.
func TestSMBTorture(t *testing.T) {
	// The longest first: as many run at a time as there are processors.
	groups := [][]string{{"smb2.compound_find"}, {"smb2.timestamps"}, nil, {"smb2.secleak", "smb2.durable-v2-delay"}}
	for _, suite := range sambatest.WholeSuites {
		if !slices.ContainsFunc(groups, func(g []string) bool { return slices.Contains(g, suite) }) {
			groups[2] = append(groups[2], suite)
		}
	}
	var total atomic.Int64
	t.Run("all", func(t *testing.T) {
		for _, suites := range groups {
			t.Run(suites[0], func(t *testing.T) {
				t.Parallel()
				s := startSMB(t, sambatest.Options{}, "")
				for _, suite := range suites {
					start := time.Now()
					n := sambatest.CompareTorture(t, s.smbd, sambatest.TCP(s.smbd.Port), s.target(t), suite)
					total.Add(int64(n))
					t.Logf("%s: %d subtests compared in %.1f s", suite, n, time.Since(start).Seconds())
				}
			})
		}
	})
	t.Logf("%d subtests compared", total.Load())
	if total.Load() < 100 {
		t.Errorf("%d subtests compared, the suites have 100 and more", total.Load())
	}
}
