//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/smb"
	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// tap is a TCP forwarder that keeps what passes: the network behind the gateway.
type tap struct {
	Addr string

	mu    sync.Mutex
	conns []*tapped
}

// tapped is one connection: what went to the server, and what came back.
type tapped struct{ up, down bytes.Buffer }

func startTap(t *testing.T, to string) *tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{Addr: l.Addr().String()}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.pass(c, to) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return p
}

func (p *tap) pass(c net.Conn, to string) {
	defer c.Close()
	s, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer s.Close()
	seen := new(tapped)
	p.mu.Lock()
	p.conns = append(p.conns, seen)
	p.mu.Unlock()
	var wg sync.WaitGroup
	copyAll := func(dst, src net.Conn, keep *bytes.Buffer) {
		_, _ = io.Copy(lockedWriter{p, keep, dst}, src)
		_ = dst.(*net.TCPConn).CloseWrite()
	}
	wg.Go(func() { copyAll(s, c, &seen.up) })
	wg.Go(func() { copyAll(c, s, &seen.down) })
	wg.Wait()
}

// lockedWriter keeps what it passes on.
type lockedWriter struct {
	p    *tap
	keep *bytes.Buffer
	dst  net.Conn
}

func (w lockedWriter) Write(b []byte) (int, error) {
	w.p.mu.Lock()
	w.keep.Write(b)
	w.p.mu.Unlock()
	return w.dst.Write(b)
}

// messages cuts a recorded direction into SMB2 messages.
func messages(t *testing.T, b []byte) (all [][]byte) {
	t.Helper()
	for len(b) >= 4 {
		n := int(binary.BigEndian.Uint32(b))
		if len(b) < 4+n {
			t.Fatalf("a message of %d octets is cut off after %d", n, len(b)-4)
		}
		all, b = append(all, b[4:4+n]), b[4+n:]
	}
	return all
}

// Hostile inputs, row 52: Samba's client offers to do without SMB's encryption, since
// QUIC encrypts. The server, which speaks TCP, does not take the offer, and what
// passes between it and the gateway stays encrypted.
func TestHostile52TransportCapabilities(t *testing.T) {
	smbd := sambatest.Start(t, sambatest.Options{Global: []string{"server smb encrypt = required", "server smb encryption over quic = no"}})
	lan := startTap(t, smbd.Addr)
	s := &smbSite{smbd: smbd, gatewayProcess: startGateway(t, gatewaySetup{Names: []string{sambatest.Host}, Rest: quietSMB(lan.Addr)})}
	g := s.target(t)
	g.Options = []string{"client smb encryption over quic = no"}
	secret := bytes.Repeat([]byte("the content of a file "), 5000)
	if err := os.WriteFile(filepath.Join(g.Work, "up"), secret, 0o644); err != nil {
		t.Fatal(err)
	}
	sambatest.MustSMBClient(t, g, "put /mnt/up named-in-secret", "get named-in-secret /mnt/down")
	sameHash(t, fileHash(t, filepath.Join(g.Work, "up")), s.path("named-in-secret"), filepath.Join(g.Work, "down"))

	lan.mu.Lock()
	defer lan.mu.Unlock()
	if len(lan.conns) != 1 {
		t.Fatalf("%d connections to the server, want the client's alone", len(lan.conns))
	}
	up, down := lan.conns[0].up.Bytes(), lan.conns[0].down.Bytes()
	request, err := smb.ParseNegotiateRequest(messages(t, up)[0])
	if err != nil || !request.TransportSecurity {
		t.Errorf("the client did not offer it: %+v, %v", request, err)
	}
	response, err := smb.ParseNegotiateResponse(messages(t, down)[0])
	if err != nil || response.Status != 0 || response.TransportSecurity {
		t.Errorf("the server's answer: %+v, %v", response, err)
	}
	encrypted := 0
	for _, b := range append(messages(t, up), messages(t, down)...) {
		switch {
		case b[0] == 0xfd:
			encrypted++
		case binary.LittleEndian.Uint16(b[12:]) > 1: // after NEGOTIATE and SESSION_SETUP
			t.Errorf("command %d passed in the clear", binary.LittleEndian.Uint16(b[12:]))
		}
	}
	if encrypted < 10 || len(up) < len(secret) {
		t.Errorf("%d encrypted messages, %d octets to the server: too little was seen", encrypted, len(up))
	}
	for _, clear := range [][]byte{secret[:22], []byte("n\x00a\x00m\x00e\x00d\x00-\x00i\x00n\x00")} {
		if bytes.Contains(up, clear) || bytes.Contains(down, clear) {
			t.Errorf("%q can be read on the network behind the gateway", clear)
		}
	}
}
