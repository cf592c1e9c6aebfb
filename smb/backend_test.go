package smb

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
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

// A key keeps its backend, all get some, and one that goes moves only its own.
func TestBackendsSticky(t *testing.T) {
	addrs := []string{"10.0.0.1:445", "10.0.0.2:445", "10.0.0.3:445"}
	b, err := NewBackends(BackendsConfig{Addrs: addrs, Policy: Sticky})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	count := map[string]int{}
	before := map[string]string{}
	for i := range 3000 {
		key := fmt.Sprintf("client-%d", i)
		before[key] = b.order(key, now)[0]
		count[before[key]]++
	}
	for _, a := range addrs {
		if count[a] < 800 || count[a] > 1200 {
			t.Errorf("%s has %d of 3000", a, count[a])
		}
	}
	b.mark(addrs[1], fmt.Errorf("gone"), now)
	for key, was := range before {
		if got := b.order(key, now)[0]; got == addrs[1] || was != addrs[1] && got != was {
			t.Fatalf("%s moved from %s to %s", key, was, got)
		}
	}
}

func TestBackendsCooldown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := NewBackends(BackendsConfig{Addrs: []string{"a:1", "b:1"}})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []time.Duration{10, 20, 40, 80, 80} {
			b.mark("a:1", fmt.Errorf("refused"), time.Now())
			if got := b.order("", time.Now()); !slices.Equal(got, []string{"b:1", "a:1"}) {
				t.Errorf("order %q", got)
			}
			time.Sleep(want * time.Second)
			if got := b.order("", time.Now()); got[0] != "a:1" {
				t.Errorf("after %d s: order %q", want, got)
			}
		}
		b.mark("a:1", nil, time.Now())
		if s := b.State()[0]; !s.Up || s.Failures != 0 || s.LastError != "" || s.Dials != 6 || s.Failed != 5 {
			t.Errorf("%+v", s)
		}
	})
}

func TestBackendsConfig(t *testing.T) {
	for _, addrs := range [][]string{nil, {"host"}, {":445"}, {"host:"}, {"a:1", "a:1"}} {
		if _, err := NewBackends(BackendsConfig{Addrs: addrs}); err == nil {
			t.Errorf("%q was accepted", addrs)
		}
	}
}
