package smb

import (
	"context"
	"io"
	"net"
	"testing"
	"time"
)

// server answers NEGOTIATE on every connection until the test ends; silent ones
// accept and say nothing.
func server(t *testing.T, silent bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if !silent {
					c.Write(negotiateResponse(Dialect311, 0, nil))
				}
				io.Copy(io.Discard, c)
			}()
		}
	}()
	return l.Addr().String()
}

// deadAddr is an address nobody listens on.
func deadAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Refusing and mute backends are passed over, remembered, and reported.
func TestBackendsFailover(t *testing.T) {
	dead, mute, good := deadAddr(t), server(t, true), server(t, false)
	b, err := NewBackends(BackendsConfig{Addrs: []string{dead, mute, good}})
	if err != nil {
		t.Fatal(err)
	}
	relay := &Relay{Backends: b, Options: Options{NegotiateTimeout: 300 * time.Millisecond}}
	for range 2 {
		client, stream := tcpPair(t)
		p := &peers{client: client, result: make(chan Result, 1)}
		go func() { p.result <- relay.Serve(t.Context(), stream, "") }()
		send(t, client, negotiateRequest(ProbeConfig{}))
		expect(t, client, negotiateResponse(Dialect311, 0, nil))
		client.Close()
		if r := <-p.result; r.Backend != good {
			t.Errorf("%+v", r)
		}
	}
	// The second session found the failed ones at the end of the order.
	for i, s := range b.State() {
		if up := i == 2; s.Up != up || (s.Failures == 0) != up || s.Dials != int64(1+i/2) {
			t.Errorf("%+v", s)
		}
	}
}

func TestBackendsAllDown(t *testing.T) {
	b, err := NewBackends(BackendsConfig{Addrs: []string{deadAddr(t), deadAddr(t)}})
	if err != nil {
		t.Fatal(err)
	}
	client, stream := tcpPair(t)
	p := &peers{client: client, result: make(chan Result, 1)}
	go func() { p.result <- (&Relay{Backends: b}).Serve(t.Context(), stream, "") }()
	send(t, client, negotiateRequest(ProbeConfig{}))
	p.want(t, ReasonBackendUnreachable)
	ended(t, client)
}

// A session that is cancelled while a backend is dialed says nothing about it.
func TestBackendsCancelled(t *testing.T) {
	b, err := NewBackends(BackendsConfig{Addrs: []string{server(t, true)}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := b.Dial(ctx, ""); err == nil {
		t.Error("dialed with a context that has ended")
	}
	if s := b.State()[0]; s.Failures != 0 {
		t.Errorf("%+v", s)
	}
}
