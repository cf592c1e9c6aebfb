package tlshd

import (
	"bytes"
	"testing"
)

// Where the other end reads them, several messages go out in one datagram;
// otherwise each frame has its own.
func TestGather(t *testing.T) {
	for _, gather := range []bool{true, false} {
		a, b, err := socketPair()
		if err != nil {
			t.Fatal(err)
		}
		w, r := newSocket(a), newSocket(b)
		defer w.close()
		defer r.close()
		w.gather.Store(gather)
		sizes := []int{0, 10, 1, 2 * maxFrame, 5000, 5000, 5000, 5000, 0}
		var frames []byte
		for i, n := range sizes {
			frames = appendFrames(frames, msgSecret, uint64(i), i%2 == 0, bytes.Repeat([]byte{byte(i + 1)}, n))
		}
		errs := make(chan error, 1)
		go func() { errs <- w.writeFrames(frames) }()
		datagrams := 0
		for i, n := range sizes {
			if !r.more() {
				datagrams++
			}
			m, err := r.read()
			if err != nil || m.request != uint64(i) || m.final != (i%2 == 0) || !bytes.Equal(m.body, bytes.Repeat([]byte{byte(i + 1)}, n)) {
				t.Fatalf("message %d: %d bytes of %d, %v", m.request, len(m.body), m.request, err)
			}
		}
		if err := <-errs; err != nil || r.more() {
			t.Errorf("more: %v, %v", r.more(), err)
		}
		if few := datagrams < len(sizes); r.packet && few != gather {
			t.Errorf("gather %v: %d datagrams begin a message", gather, datagrams)
		}
		r.wipe()
		if !bytes.Equal(r.rbuf, make([]byte, len(r.rbuf))) {
			t.Error("the reader keeps what it read")
		}
	}
}

// A frame that says more than its datagram holds, behind one that is good.
func TestGatherCutShort(t *testing.T) {
	a, b, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	w, r := newSocket(a), newSocket(b)
	defer r.close()
	frames := appendFrames(nil, msgTicket, 1, false, nil)
	frames = appendFrames(frames, msgTicket, 2, false, []byte("cut short"))
	if _, err := a.Write(frames[:len(frames)-1]); err != nil {
		t.Fatal(err)
	}
	_ = w.close()
	if m, err := r.read(); err != nil || m.request != 1 {
		t.Errorf("%+v, %v", m, err)
	}
	if m, err := r.read(); err == nil {
		t.Errorf("taken: %+v", m)
	}
}

// What a server knows at the start goes to the helper in the order that it
// would come in otherwise, which a helper of any age understands.
func TestStartIsWhole(t *testing.T) {
	f := newFakeHelper(t)
	h := f.c.Start(serverRequest(func(r *Request) {
		r.TransportParams, r.Crypto = []byte("parameters"), []byte("hello")
	}), func(Event) {})
	id := f.expect(msgStart).request
	for _, want := range []msgType{msgLocalTP, msgCryptoIn} {
		if m := f.expect(want); m.request != id {
			t.Errorf("%v for %d, want %d", want, m.request, id)
		}
	}
	h.TransportParams([]byte("again")) // has no effect
	h.Crypto(LevelInitial, []byte("more"))
	m := f.expect(msgCryptoIn)
	as, err := parseAttributes(m.typ, m.body)
	if err != nil || as.u64(attrOffset) != 5 || as.str(attrData) != "more" {
		t.Errorf("%v at %d, %v", as.str(attrData), as.u64(attrOffset), err)
	}
	h.Close()
	f.expect(msgCancel)
}

// A message that the socket has no room for waits, and nothing is lost or
// changes places.
func TestQueueOutlastsAFullSocket(t *testing.T) {
	f := newFakeHelper(t)
	h := f.c.Start(serverRequest(nil), func(Event) {})
	f.expect(msgStart)
	const n = 5000 // more than a socket of Linux takes, unless somebody has raised its memory twentyfold
	for i := range n {
		h.Crypto(LevelInitial, []byte{byte(i)})
	}
	for i := range n {
		m := f.expect(msgCryptoIn)
		as, err := parseAttributes(m.typ, m.body)
		if err != nil || as.u64(attrOffset) != uint64(i) || as.str(attrData) != string([]byte{byte(i)}) {
			t.Fatalf("message %d at offset %d, %v", i, as.u64(attrOffset), err)
		}
	}
	h.Close()
	f.expect(msgCancel)
}

// A server's handshake that begins with everything needs no message between
// the two processes for our parameters.
func TestHandshakeFromWholeStart(t *testing.T) {
	s := newSite(t)
	c := startLocal(t, s.cfg).Client
	p := &pair{t: t, events: make(chan pairEvent, 1024)}
	p.server.secrets, p.client.secrets = map[string]string{}, map[string]string{}
	var hello []byte
	p.client.shaker = s.raw(nil)(func(e Event) {
		if e.Kind == EventCrypto && hello == nil {
			hello = e.Data
			return
		}
		p.events <- pairEvent{false, e}
	})
	defer func() { p.client.shaker.Close() }()
	p.server.shaker = c.Start(serverRequest(func(r *Request) {
		r.TransportParams, r.Crypto = []byte("server parameters"), hello
	}), func(e Event) { p.events <- pairEvent{true, e} })
	defer func() { p.server.shaker.Close() }()
	for !p.over() {
		p.step()
	}
	p.ok()
}
