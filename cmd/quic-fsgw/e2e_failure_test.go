//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// Backends that die and readers that stop.

// transferred waits until the gateway has sent more than n stream bytes on each
// of several connections.
func (s *smbSite) transferred(conns int, n uint64) {
	s.t.Helper()
	for deadline := time.Now().Add(e2eDeadline); ; poll(s.t) {
		ready := 0
		for _, c := range s.Status().Connections {
			if c.BytesOut > n {
				ready++
			}
		}
		if ready >= conns {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("no %d connections with %d bytes within %s\n%s", conns, n, e2eDeadline, s.Log.tail(10))
		}
	}
}

// A server that is killed in the middle of a transfer: its clients get an error
// at once, and the gateway serves the next ones from the other server.
func TestBackendKilled(t *testing.T) {
	first, second := sambatest.Start(t, sambatest.Options{}), sambatest.Start(t, sambatest.Options{})
	g := startGateway(t, gatewaySetup{Names: []string{sambatest.Host},
		Rest: strings.Replace(publicSMB(first.Addr), "]", fmt.Sprintf(", %q]", second.Addr), 1)})
	s := &smbSite{gatewayProcess: g, smbd: first}
	// Long enough, whatever its octets are.
	if err := errors.Join(os.WriteFile(s.path("large"), nil, 0o644), os.Truncate(s.path("large"), 64<<30)); err != nil {
		t.Fatal(err)
	}
	target := s.target(t)
	target.Limit = time.Minute
	samba := sambatest.StartSMBClient(t, target, "get large /dev/null")
	ours := exec.Command(program(t), "cat", s.url("large"), "--ca", g.Authority.CA, "--server-name", sambatest.Host)
	ours.Env = append(os.Environ(), smbPassword...)
	var message strings.Builder
	ours.Stderr = &message // its output goes to /dev/null
	if err := ours.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		ours.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		ours.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("cat wrote %q; smbd:\n%s", message.String(), first.Log())
		}
	})
	s.transferred(2, 16<<20)

	mark, start := g.Log.mark(), time.Now()
	first.Stop()
	if code, over := samba.Wait(5 * time.Second); !over || code == 0 {
		t.Errorf("smbclient: ended %v, exit status %d", over, code)
	} else {
		t.Logf("smbclient ended after %s", time.Since(start).Round(time.Millisecond))
	}
	select {
	case <-ended:
		if code := ours.ProcessState.ExitCode(); code != 1 || !strings.HasPrefix(message.String(), "quic-fsgw: cat: ") {
			t.Errorf("cat: exit status %d, %q", code, message.String())
		}
		t.Logf("cat ended after %s: %s", time.Since(start).Round(time.Millisecond), strings.TrimSpace(message.String()))
	case <-time.After(5*time.Second - time.Since(start)):
		t.Errorf("cat has not ended 5 s after its server")
	}
	for range 2 {
		l := g.Log.wait(t, mark, "the end of a session", func(l logLine) bool { return l.Msg == "connection ended" })
		if r := l.str("reason"); !strings.HasPrefix(r, "backend_") || l.str("backend") != first.Addr {
			t.Errorf("%s", l.Raw)
		}
	}
	sambatest.MustSMBClient(t, s.target(t), "mkdir after")
	if fi, err := os.Stat(second.Dir + "/after"); err != nil || !fi.IsDir() {
		t.Errorf("not on the second server: %v", err)
	}
}

// A command whose reader stops: nothing piles up in the gateway, and all of it
// comes when the reader goes on.
func TestStoppedReaderSMB(t *testing.T) {
	s := startSMB(t, sambatest.Options{}, "")
	const size = 512 << 20
	want := randomBytesFile(t, s.path("large"), size)
	pid := s.Child(workerWord)
	before, _ := memory(t, pid)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cat := exec.CommandContext(ctx, program(t), "cat", s.url("large"), "--ca", s.Authority.CA, "--server-name", sambatest.Host)
	cat.Env = append(os.Environ(), smbPassword...)
	out, err := cat.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	sent := s.stalled()
	now, peak := memory(t, pid)
	t.Logf("the gateway stopped after %d KiB; %d MiB resident, %d MiB at its peak", sent>>10, now>>20, peak>>20)
	if sent > 64<<20 || peak > before+64<<20 {
		t.Errorf("%d MiB sent to a reader that reads nothing, %d MiB at its peak", sent>>20, peak>>20)
	}
	h := sha256.New()
	n, err := io.Copy(h, out)
	if err != nil || n != size || hex.EncodeToString(h.Sum(nil)) != want {
		t.Errorf("%d of %d octets, %v, SHA-256 %x", n, int64(size), err, h.Sum(nil))
	}
	if err := cat.Wait(); err != nil {
		t.Error(err)
	}
}

// stalled waits until a connection that has got something gets nothing more
// for a second, and returns how much it got.
func (s *smbSite) stalled() uint64 {
	s.t.Helper()
	var last uint64
	since, deadline := time.Now(), time.Now().Add(e2eDeadline)
	for ; time.Now().Before(deadline); poll(s.t) {
		var n uint64
		for _, c := range s.Status().Connections {
			n += c.BytesOut + c.BytesIn
		}
		if n != last {
			last, since = n, time.Now()
		}
		if last > 64<<10 && time.Since(since) > time.Second {
			return last
		}
	}
	s.t.Fatalf("the transfer did not come to a stop within %s (%d bytes)", e2eDeadline, last)
	return 0
}

// pump writes SMB2 messages of 1 MiB, which nobody asked for, as fast as they
// are taken; their octets go to h.
func pump(w io.Writer, messages int, h hash.Hash) error {
	message := make([]byte, 4+1<<20)
	random := newOctets()
	for range messages {
		random.Read(message)
		binary.BigEndian.PutUint32(message, 1<<20)
		copy(message[4:], "\xfdSMB") // encrypted: the octets are the ends' affair
		h.Write(message)
		if _, err := w.Write(message); err != nil {
			return err
		}
	}
	return nil
}

// A real SMB client bounds what is under way by what it asks for. Ends that
// send without being asked, to an end that does not read, are held back by flow
// control alone: memory stays bounded, and not an octet is lost.
func TestStoppedReaderFlood(t *testing.T) {
	const messages, size = 512, 512 * (4 + 1<<20)
	for _, down := range []bool{true, false} {
		t.Run(map[bool]string{true: "client stops", false: "backend stops"}[down], func(t *testing.T) {
			g, backend, client := hostileSite(t)
			s := &smbSite{gatewayProcess: g}
			pid := g.Child(workerWord)
			str := stream(t, client.mustDial(t, g.Addr))
			str.SetDeadline(time.Now().Add(2 * time.Minute))
			if _, err := str.Write(negotiate()); err != nil {
				t.Fatal(err)
			}
			tcp := accepted(t, backend)
			answer := make([]byte, len(negotiateAnswer()))
			if _, err := io.ReadFull(str, answer); err != nil {
				t.Fatal(err)
			}
			from, to := net.Conn(tcp), net.Conn(str)
			if !down {
				from, to = to, from
			}
			before, _ := memory(t, pid)
			sent, failed := sha256.New(), make(chan error, 1)
			go func() { failed <- pump(from, messages, sent) }()
			held := s.stalled()
			now, peak := memory(t, pid)
			t.Logf("stopped after %d MiB; %d MiB resident, %d MiB at its peak, %d MiB before", held>>20, now>>20, peak>>20, before>>20)
			// One way the client's window bounds it, the other way the gateway's,
			// which is 32 MiB on smb, and buffers may pin twice their payload.
			limit := int64(96 << 20)
			if raceDetector() {
				limit *= 3 // it has a shadow of all memory
			}
			if held > 48<<20 || peak > before+limit {
				t.Errorf("%d MiB went to an end that reads nothing, %d MiB at its peak", held>>20, peak>>20)
			}
			got := sha256.New()
			start := time.Now()
			if n, err := io.CopyN(got, to, size); err != nil {
				t.Fatalf("%d octets of %d: %v\n%s", n, size, err, g.Log.tail(5))
			}
			t.Logf("then %s", rate(size, time.Since(start)))
			if err := <-failed; err != nil {
				t.Fatal(err)
			}
			if string(got.Sum(nil)) != string(sent.Sum(nil)) {
				t.Error("other octets came out than went in")
			}
		})
	}
}

// accepted returns the gateway's connection to a backend, past NEGOTIATE.
func accepted(t *testing.T, b *countingBackend) net.Conn {
	t.Helper()
	select {
	case c := <-b.conns:
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(2 * time.Minute))
		if _, err := io.ReadFull(c, make([]byte, len(negotiate()))); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(negotiateAnswer()); err != nil {
			t.Fatal(err)
		}
		return c
	case <-time.After(e2eDeadline):
		t.Fatal("the backend was not dialed")
	}
	return nil
}
