package nfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

// A client that takes the gateway's streams gets callbacks there, whole and in
// order, and the backend gets its answers between its own replies; what the
// client answers unasked, or asks, is discarded.
func TestCallbacks(t *testing.T) {
	checkNoLeak(t)
	answered := make(chan []byte, 100)
	server := startServer(t, func(c net.Conn) {
		for {
			msg, err := readMessage(c, 1<<20)
			if err != nil {
				return
			}
			if binary.BigEndian.Uint32(msg[4:]) == msgReply {
				answered <- msg
				continue
			}
			xid := binary.BigEndian.Uint32(msg)
			out := fragments(callRecord(1000+xid, 0x40000000, 1, 1, strings.Repeat("c", 4000)), 999)
			c.Write(append(out, AppendSuccess(nil, xid, nil)...))
		}
	})
	s := newTestService(t, Config{Backends: []string{server.addr}})
	back, ours := net.Pipe()
	opened := 0
	relay := s.Relay(Client{Identity: testIdentity(t), Callbacks: func() (net.Conn, error) {
		opened++
		return ours, nil
	}})
	near, far := tcpPipe(t)
	done := make(chan Outcome, 1)
	go func() { done <- relay.ServeStream(t.Context(), far) }()
	for xid := range uint32(5) {
		mustWrite(t, near, callRecord(xid, ProgNFS, 4, 1, ""))
		if got := mustRead(t, near); !bytes.Equal(got, AppendSuccess(nil, xid, nil)[markLen:]) {
			t.Errorf("% x", got)
		}
		back.SetDeadline(time.Now().Add(20 * time.Second))
		call, err := readMessage(back, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if want := callRecord(1000+xid, 0x40000000, 1, 1, strings.Repeat("c", 4000))[markLen:]; !bytes.Equal(call, want) {
			t.Fatalf("the client got a callback of %d bytes, sent were %d", len(call), len(want))
		}
		mustWrite(t, back, AppendSuccess(nil, 77, nil))             // to no call
		mustWrite(t, back, callRecord(1000+xid, ProgNFS, 4, 1, "")) // a call where only replies may be
		mustWrite(t, back, AppendSuccess(nil, 1000+xid, []byte("res!")))
		select {
		case got := <-answered:
			if want := AppendSuccess(nil, 1000+xid, []byte("res!"))[markLen:]; !bytes.Equal(got, want) {
				t.Errorf("the backend got % x", got)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the backend got no answer")
		}
	}
	// The client ends the back channel while a call is under way: the server is told.
	mustWrite(t, near, callRecord(5, ProgNFS, 4, 1, ""))
	mustRead(t, near)
	if _, err := readMessage(back, 1<<20); err != nil {
		t.Fatal(err)
	}
	back.Close()
	select {
	case got := <-answered:
		if want := AppendAcceptError(nil, 1005, AcceptProgUnavail)[markLen:]; !bytes.Equal(got, want) {
			t.Errorf("the backend got % x", got)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the backend was not told")
	}
	near.Close()
	if o := <-done; o.Discarded < 10 || opened != 1 {
		t.Errorf("%+v, %d streams opened", o, opened)
	}
	if st := s.Stats(); st.Callbacks != 6 {
		t.Errorf("%d callbacks counted", st.Callbacks)
	}
}

// A callback too long to hold is refused, and so are those of a client whose stream cannot be opened.
func TestCallbacksRefused(t *testing.T) {
	answered := make(chan uint32, 100)
	server := startServer(t, func(c net.Conn) {
		for {
			msg, err := readMessage(c, 1<<20)
			if err != nil {
				return
			}
			if binary.BigEndian.Uint32(msg[4:]) == msgReply {
				answered <- binary.BigEndian.Uint32(msg)
				continue
			}
			c.Write(append(callRecord(1, 0x40000000, 1, 1, strings.Repeat("c", maxCallback)), callRecord(2, 0x40000000, 1, 1, "")...))
		}
	})
	s := newTestService(t, Config{Backends: []string{server.addr}})
	relay := s.Relay(Client{Identity: testIdentity(t), Callbacks: func() (net.Conn, error) { return nil, errors.New("no") }})
	near, far := tcpPipe(t)
	done := make(chan Outcome, 1)
	go func() { done <- relay.ServeStream(t.Context(), far) }()
	mustWrite(t, near, callRecord(1, ProgNFS, 4, 1, ""))
	for _, want := range []uint32{1, 2} {
		select {
		case got := <-answered:
			if got != want {
				t.Errorf("answer to %d, want %d", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the backend was not told")
		}
	}
	near.Close()
	<-done
}

// tcpPipe returns two ends of a loopback connection.
func tcpPipe(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}
