//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
)

// A helper that does not do what it should, in the middle of a transfer of
// 1 GiB (hostile inputs, row 45; one that is killed is TestHelperKilled).

// A spawned helper that hangs is replaced; the transfer does not notice.
func TestHostile45HelperHangs(t *testing.T) {
	s := newNFSStage(t, nfsSetup{exports: ganeshatest.Pseudo})
	local := filepath.Join(t.TempDir(), "local")
	sum := randomBytesFile(t, local, copySize)
	c := s.startCopy(t, "alice", local, s.url("/big"))
	helper, mark := s.Child(helperWord), s.Log.mark()
	if err := syscall.Kill(helper, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.Log.wait(t, mark, "the helper to be killed", func(l logLine) bool { return strings.Contains(l.Msg, "handshake helper hangs") })
	s.Log.wait(t, mark, "the next one", func(l logLine) bool { return l.Msg == "handshake helper connected" })
	mustCLI(t, time.Minute, nil, s.as("bob", "ls", s.url(""))...)
	if err := c.wait(t); err != nil {
		t.Error(err)
	}
	if got := fileHash(t, s.nfs.Dir+"/big"); got != sum {
		t.Errorf("SHA-256 %s, want %s", got, sum)
	}
}

// between is a process between the gateway and its helper: it passes messages
// on, keeps the last verdict, and says to the gateway what a test wants said.
type between struct {
	t        *testing.T
	listener *net.UnixListener
	helper   string
	pid      int // of the helper

	mu      sync.Mutex
	gateway *net.UnixConn // the newest connection
	real    *net.UnixConn // and that to the helper
	verdict []byte        // the last DONE
	stalled chan struct{} // not nil: nothing is passed to the gateway until it is closed
	conns   int
}

const (
	frameDone   = 10
	frameCancel = 11
	frameAttach = 14
	frameHeader = 16
)

func startBetween(t *testing.T, path, helper string) *between {
	t.Helper()
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	b := &between{t: t, listener: l, helper: helper}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			work.Go(func() { b.pass(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		b.resume()
		b.hangUp()
		work.Wait()
	})
	return b
}

func (b *between) pass(c *net.UnixConn) {
	defer c.Close()
	h, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: b.helper, Net: "unixpacket"})
	if err != nil {
		return
	}
	defer h.Close()
	b.mu.Lock()
	b.gateway, b.real = c, h
	b.conns++
	b.mu.Unlock()
	var work sync.WaitGroup
	work.Go(func() {
		defer h.Close()
		buf := make([]byte, 128<<10)
		for n, err := c.Read(buf); err == nil; n, err = c.Read(buf) {
			if _, err = h.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	defer work.Wait()
	defer c.Close()
	buf := make([]byte, 128<<10)
	for n, err := h.Read(buf); err == nil; n, err = h.Read(buf) {
		b.mu.Lock()
		for rest := buf[:n]; len(rest) > frameHeader; { // a datagram may carry several
			size := min(len(rest), frameHeader+int(binary.BigEndian.Uint32(rest[4:])))
			if rest[1] == frameDone {
				b.verdict = slices.Clone(rest[:size])
			}
			rest = rest[size:]
		}
		stalled := b.stalled
		b.mu.Unlock()
		if stalled != nil {
			<-stalled
		}
		if _, err = c.Write(buf[:n]); err != nil {
			return
		}
	}
}

// say sends a datagram to the gateway, with descriptors.
func (b *between) say(data []byte, fds ...int) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.send(b.gateway, data, fds)
}

// tell sends one to the helper.
func (b *between) tell(data []byte, fds ...int) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.send(b.real, data, fds)
}

func (b *between) send(to *net.UnixConn, data []byte, fds []int) {
	b.t.Helper()
	var oob []byte
	if len(fds) > 0 {
		oob = syscall.UnixRights(fds...)
	}
	if _, _, err := to.WriteMsgUnix(data, oob, nil); err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, io.ErrClosedPipe) {
		b.t.Errorf("send %d bytes: %v", len(data), err)
	}
}

func (b *between) lastVerdict() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.verdict)
}

func (b *between) connections() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.conns
}

func (b *between) stall() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stalled = make(chan struct{})
}

func (b *between) resume() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stalled != nil {
		close(b.stalled)
		b.stalled = nil
	}
}

func (b *between) hangUp() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gateway != nil {
		b.gateway.Close()
	}
}

// frame is a message of the helper's protocol; n is the length that it claims.
func helperFrame(typ byte, n uint32, request uint64, body int) []byte {
	b := make([]byte, frameHeader+body)
	b[0], b[1] = 1, typ
	binary.BigEndian.PutUint32(b[4:], n)
	binary.BigEndian.PutUint64(b[8:], request)
	return b
}

// helperSite is a gateway whose helper is a service, reached through between.
func helperSite(t *testing.T) (*nfsStage, *between) {
	t.Helper()
	dir := shortDir(t)
	real, front := filepath.Join(dir, "real.sock"), filepath.Join(dir, "tlshd.sock")
	a := newAuthority(t)
	cert, key := a.server(nfsName)
	conf := filepath.Join(dir, "tlshd.yaml")
	yaml := fmt.Sprintf("tlshd:\n  mode: socket\n  socket: %s\n  certificates: [{names: [%s], cert: %s, key: %s}]\n  client_ca: [%s]\n", real, nfsName, cert, key, a.CA)
	yaml += "access: {staff: {client_certificate: required, allow: [{any: true}]}}\nroutes: [{name: home, match: {alpn: sunrpc, server_name: " + nfsName +
		"}, access: staff, nfs: {backends: [\"127.0.0.1:2049\"]}}]\n"
	if err := os.WriteFile(conf, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	helper := startHelperService(t, conf, real)
	helper.Log.wait(t, 0, "the helper to listen", func(l logLine) bool { return strings.Contains(l.Raw, "handshake helper listening") })
	b := startBetween(t, front, real)
	b.pid = helper.cmd.Process.Pid
	return newNFSStage(t, nfsSetup{exports: ganeshatest.Pseudo, authority: newAuthority(t), clients: a, tlshd: "  mode: socket\n  socket: " + front + "\n"}), b
}

// descriptors counts the open descriptors of a process.
func descriptors(t *testing.T, pid int) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// Whatever comes from a helper that is broken: the transfer goes on, nobody is
// let in by it, no descriptor stays, and the next helper serves.
func TestHostile45HelperMisbehaves(t *testing.T) {
	s, b := helperSite(t)
	ls := func() cliResult { return cli(t, time.Minute, nil, s.as("bob", "ls", s.url(""))...) }
	if r := ls(); r.Code != 0 {
		t.Fatalf("exit %d: %s", r.Code, r.Err)
	}
	local := filepath.Join(t.TempDir(), "local")
	sum := randomBytesFile(t, local, copySize)
	c := s.startCopy(t, "alice", local, s.url("/big"))
	worker := s.Child(workerWord)
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd := int(null.Fd())
	replay := b.lastVerdict()
	if len(replay) == 0 {
		t.Fatal("no verdict has passed")
	}
	before, ofHelper := descriptors(t, worker), descriptors(t, b.pid)

	// What the gateway passes over, and stays connected.
	seen := b.connections()
	b.say(replay)
	b.say(replay, fd, fd, fd)
	stranger := slices.Clone(replay)
	binary.BigEndian.PutUint64(stranger[8:], 1<<60)
	b.say(stranger)
	if r := ls(); r.Code != 0 || b.connections() != seen {
		t.Errorf("after a replayed verdict: exit %d, %d connections more: %s", r.Code, b.connections()-seen, r.Err)
	}

	// What the helper passes over: nobody's request, with descriptors that are no
	// packet process's to send.
	b.tell(helperFrame(frameCancel, 0, 1<<60, 0), fd, fd, fd)
	if r := ls(); r.Code != 0 || b.connections() != seen {
		t.Errorf("after descriptors for the helper: exit %d, %d connections more: %s", r.Code, b.connections()-seen, r.Err)
	}

	// What ends the helper, for the gateway or by itself.
	for name, data := range map[string][]byte{
		"to it: a short write":    helperFrame(frameCancel, 4096, 7, 100),
		"to it: half a header":    helperFrame(frameCancel, 0, 7, 0)[:7],
		"to it: oversize":         helperFrame(frameCancel, 16<<10, 7, 40<<10),
		"to it: a length of 2GiB": helperFrame(frameCancel, 1<<31-1, 7, 16),
		"to it: a verdict":        replay,
		"to it: a connection":     helperFrame(frameAttach, 0, 7, 0),

		"a short write":    helperFrame(frameDone, 4096, 7, 100),
		"half a header":    helperFrame(frameDone, 0, 7, 0)[:7],
		"oversize":         helperFrame(frameDone, 16<<10, 7, 40<<10),
		"a length of 2GiB": helperFrame(frameDone, 1<<31-1, 7, 16),
		"unknown type":     helperFrame(99, 0, 7, 0),
		"zeros":            make([]byte, 4096),
	} {
		seen, mark := b.connections(), s.Log.mark()
		if strings.HasPrefix(name, "to it: ") {
			b.tell(data, fd)
		} else {
			b.say(data, fd)
		}
		s.Log.wait(t, mark, name+" to end the helper", func(l logLine) bool { return l.Msg == "handshake helper lost" })
		s.Log.wait(t, mark, "the helper to be back after "+name, func(l logLine) bool { return l.Msg == "handshake helper connected" })
		if r := ls(); r.Code != 0 || b.connections() <= seen {
			t.Errorf("after %s: exit %d, %d connections more: %s", name, r.Code, b.connections()-seen, r.Err)
		}
	}

	t.Logf("after all of these the copy was under way: %v", c.running())

	// One that takes all and says nothing: the handshake's own deadline.
	b.stall()
	if r := ls(); r.Code != exitRemote {
		t.Errorf("with a helper that is silent: exit %d: %s", r.Code, r.Err)
	}
	b.resume()
	eventually(t, "the helper to serve again", func() bool { return ls().Code == 0 })
	eventually(t, "the descriptors to be closed", func() bool { return descriptors(t, worker) <= before+2 })
	eventually(t, "the helper's to be closed", func() bool { return descriptors(t, b.pid) <= ofHelper+2 })
	if s.Child(workerWord) != worker {
		t.Error("the packet process is another")
	}
	if err := c.wait(t); err != nil {
		t.Error(err)
	}
	if got := fileHash(t, s.nfs.Dir+"/big"); got != sum {
		t.Errorf("SHA-256 %s, want %s", got, sum)
	}
}
