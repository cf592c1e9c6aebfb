//go:build linux

package main

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// A NAT that rebinds in the middle of a copy: the gateway sees its client's port
// change, then its address, several times, and the session goes on.

// rebinds is how often: every second time the address changes too, always the port.
const rebinds = 8

// A nat carries the datagrams of one client. It takes another port, or address,
// whenever a part of the bytes has gone through the one before.
type nat struct {
	t      testing.TB
	server netip.AddrPort
	front  *net.UDPConn
	every  int64 // bytes
	wg     sync.WaitGroup

	mu     sync.Mutex
	client netip.AddrPort
	backs  []*net.UDPConn // the last one sends
	since  int64          // bytes that came by it
}

func startNAT(t testing.TB, server string, every int64) *nat {
	t.Helper()
	n := &nat{t: t, server: netip.MustParseAddrPort(server), every: every}
	n.front = n.listen("127.0.0.1:0")
	n.rebind()
	n.wg.Go(n.outward)
	t.Cleanup(func() {
		n.mu.Lock()
		n.front.Close()
		for _, b := range n.backs {
			b.Close()
		}
		n.every = 1 << 62
		n.mu.Unlock()
		n.wg.Wait()
	})
	return n
}

func (n *nat) port() int { return n.front.LocalAddr().(*net.UDPAddr).Port }

func (n *nat) listen(addr string) *net.UDPConn {
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		n.t.Fatal(err)
	}
	c.SetReadBuffer(4 << 20) // as much as the system gives
	c.SetWriteBuffer(4 << 20)
	return c
}

// rebind takes the next address. What is on its way to the ones before still
// arrives. The caller holds mu or is alone.
func (n *nat) rebind() {
	b := n.listen(fmt.Sprintf("127.0.0.%d:0", 1+(len(n.backs)+1)/2))
	n.backs = append(n.backs, b)
	n.since = 0
	n.wg.Go(func() { n.inward(b) })
}

// seen are the addresses that it had.
func (n *nat) seen() (all []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, b := range n.backs {
		all = append(all, b.LocalAddr().String())
	}
	return all
}

func (n *nat) outward() {
	buf := make([]byte, 1<<16)
	for {
		k, from, err := n.front.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		n.mu.Lock()
		n.client = from
		back := n.backs[len(n.backs)-1]
		n.since += int64(k)
		n.mu.Unlock()
		back.WriteToUDPAddrPort(buf[:k], n.server)
	}
}

// inward carries what comes to one address. The next is due when enough has
// gone through this one and the server answers there.
func (n *nat) inward(b *net.UDPConn) {
	buf := make([]byte, 1<<16)
	for {
		k, _, err := b.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		n.mu.Lock()
		to := n.client
		if b == n.backs[len(n.backs)-1] {
			if n.since += int64(k); n.since >= n.every && len(n.backs) <= rebinds {
				n.rebind()
			}
		}
		n.mu.Unlock()
		n.front.WriteToUDPAddrPort(buf[:k], to)
	}
}

// check looks for each change in the gateway's log, and that the connections of
// before the first one were all there ever were: cp opens two for a large file.
func (n *nat) check(g *gatewayProcess) {
	n.t.Helper()
	all := n.seen()
	if len(all) != rebinds+1 {
		n.t.Errorf("the client was seen at %v", all)
	}
	followed := map[string]bool{}
	conns := int64(0)
	for _, l := range g.Log.since(0) {
		switch l.Msg {
		case "handshake":
			if conns++; len(followed) > 0 {
				n.t.Errorf("a connection was opened after the client had moved: %s", l.Raw)
			}
		case "peer address changed":
			followed[l.str("to")] = true
		}
	}
	for _, a := range all[1:] {
		if !followed[a] {
			n.t.Errorf("the gateway did not follow its client to %s", a)
		}
	}
	if b := g.Status().Routes[0].Backends[0]; conns == 0 || b.Dials != conns {
		n.t.Errorf("%d connections of the client, %d to the server: a session was not the same all the time", conns, b.Dials)
	}
}

func TestRebindCopy(t *testing.T) {
	const size = 1 << 30
	site := func(t *testing.T) *smbSite {
		s := &smbSite{smbd: sambatest.Start(t, sambatest.Options{})}
		s.gatewayProcess = startGateway(t, gatewaySetup{Names: []string{sambatest.Host}, Rest: quietSMB(s.smbd.Addr)})
		return s
	}
	t.Run("quic-fsgw cp", func(t *testing.T) {
		s := site(t)
		n := startNAT(t, s.Addr, size/(rebinds+2))
		local := filepath.Join(t.TempDir(), "up")
		want := randomBytesFile(t, local, size)
		url := fmt.Sprintf("smb://%s@127.0.0.1:%d/%s/up", sambatest.User, n.port(), sambatest.Share)
		r := mustCLI(t, 5*time.Minute, smbPassword, "cp", local, url, "--ca", s.Authority.CA, "--server-name", sambatest.Host)
		sameHash(t, want, s.path("up"))
		t.Logf("up: %s", rate(size, r.Took))
		n.check(s.gatewayProcess)
	})
	t.Run("smbclient", func(t *testing.T) {
		s := site(t)
		n := startNAT(t, s.Addr, size/(rebinds+2))
		g := sambatest.QUIC(n.port(), s.Authority.CA)
		g.Work, g.Limit = t.TempDir(), 5*time.Minute
		want := randomBytesFile(t, s.path("down"), size)
		start := time.Now()
		sambatest.MustSMBClient(t, g, "get down /mnt/down")
		t.Logf("down: %s", rate(size, time.Since(start)))
		sameHash(t, want, filepath.Join(g.Work, "down"))
		n.check(s.gatewayProcess)
	})
}
