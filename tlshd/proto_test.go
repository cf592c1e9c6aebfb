package tlshd

import (
	"bytes"
	"testing"
)

func TestAttributesRoundTrip(t *testing.T) {
	b, bad := encodeStart(clientRequest("files.example.com", "smb", "sunrpc"), testWait)
	if bad != nil {
		t.Fatal(bad)
	}
	as, err := parseAttributes(msgStart, b)
	if err != nil {
		t.Fatal(err)
	}
	if as.str(attrPeerName) != "files.example.com" || len(as.all(attrALPN)) != 2 || as.u32(attrTimeout) != uint32(testWait.Milliseconds()) ||
		as.str(attrLocalTP) != "client parameters" || as.u8(attrMessageType) != uint8(MessageClientHello) {
		t.Errorf("%v", as)
	}
	for n := range len(b) {
		if as, err := parseAttributes(msgStart, b[:n]); err == nil && len(as.all(attrALPN)) == 2 && as.str(attrID) == "c" && n < len(b)-3*attrLen {
			t.Errorf("taken when cut to %d of %d bytes", n, len(b))
		}
	}
}

func TestAttributesAreStrict(t *testing.T) {
	ok := cryptoBody(LevelApp, 5, "data")
	with := func(f func(*body)) body {
		b := append(body{}, ok...)
		f(&b)
		return b
	}
	if _, err := parseAttributes(msgCryptoIn, with(func(b *body) { b.str(attrOptional+7, "later") })); err != nil {
		t.Errorf("an optional attribute: %v", err)
	}
	for name, b := range map[string]body{
		"twice":        with(func(b *body) { b.u8(attrLevel, 1) }),
		"foreign":      with(func(b *body) { b.u8(attrStatus, 1) }),
		"unknown":      with(func(b *body) { b.u8(777, 1) }),
		"half":         append(with(func(*body) {}), 0, 1),
		"past the end": append(with(func(*body) {}), 0, 18, 0, 0, 0xff, 0xff, 0xff, 0xff),
		"not zero":     append(with(func(*body) {}), 0x80, 18, 0, 1, 0, 0, 0, 0),
		"missing":      ok[:attrLen+1],
	} {
		if _, err := parseAttributes(msgCryptoIn, b); err == nil {
			t.Errorf("taken: %s", name)
		}
	}
	var many body
	for range 1000 {
		many.str(attrOptional, "")
	}
	if _, err := parseAttributes(msgTicket, many); err != nil {
		t.Error(err)
	}
	var hello body
	hello.u8(attrVersion, 1)
	hello.u8(attrRole, rolePacket)
	hello.str(999, "from the future")
	if _, err := parseAttributes(msgHello, hello); err != nil {
		t.Errorf("HELLO: %v", err)
	}
}

// A message of every size around the frame's goes through, in order, on both
// kinds of socket.
func TestMessagesInParts(t *testing.T) {
	a, b, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	w, r := newSocket(a), newSocket(b)
	defer w.close()
	defer r.close()
	for _, n := range []int{0, 1, maxFrame - 1, maxFrame, maxFrame + 1, 3*maxFrame + 7, maxMessage} {
		data := bytes.Repeat([]byte{byte(n), 1, 2}, n/3+1)[:n]
		errs := make(chan error, 1)
		go func() { errs <- w.write(msgDone, uint64(n), true, data) }()
		m, err := r.read()
		if err != nil || !bytes.Equal(m.body, data) || m.request != uint64(n) || !m.final {
			t.Errorf("%d bytes: %d came, %v", n, len(m.body), err)
		}
		if err := <-errs; err != nil {
			t.Error(err)
		}
		body := m.body
		r.wipe()
		if n > 0 && !bytes.Equal(body, make([]byte, n)) {
			t.Errorf("%d bytes are not wiped", n)
		}
	}
	if err := w.write(msgDone, 1, true, make([]byte, maxMessage+1)); err == nil {
		t.Error("a message that is too long was sent")
	}
	if !bytes.Equal(w.wbuf, make([]byte, len(w.wbuf))) {
		t.Error("the writer keeps what it sent")
	}
}

func TestPostGate(t *testing.T) {
	ticket := append([]byte{typeNewSessionTicket, 0, 1, 0}, make([]byte, 256)...)
	for step := 1; step < 9; step++ {
		var g postGate
		all := bytes.Repeat(ticket, 3)
		for len(all) > 0 {
			n := min(step, len(all))
			if err := g.check(all[:n]); err != nil {
				t.Fatal(err)
			}
			all = all[n:]
		}
		if err := g.check([]byte{typeKeyUpdate, 0, 0, 1}); err == nil || err.Alert != alertUnexpectedMessage {
			t.Errorf("KeyUpdate: %v", err)
		}
	}
	var g postGate
	var err *Error
	n := 0
	for ; err == nil && n < 10000; n++ {
		err = g.check(ticket)
	}
	if n != maxPostTickets+1 {
		t.Errorf("%d tickets taken", n)
	}
}

func FuzzAttributes(f *testing.F) {
	f.Add(uint8(msgCryptoIn), []byte(cryptoBody(1, 2, "x")))
	f.Add(uint8(msgDone), []byte(doneBody()))
	f.Add(uint8(msgSecret), []byte(secretBody(LevelApp, true)))
	start, _ := encodeStart(clientRequest("a.example", "smb"), testWait)
	f.Add(uint8(msgStart), start)
	f.Fuzz(func(t *testing.T, typ uint8, b []byte) {
		as, err := parseAttributes(msgType(typ), b)
		if err != nil {
			return
		}
		if len(as) > maxAttrs {
			t.Errorf("%d attributes", len(as))
		}
		for _, r := range grammar[typ] {
			v := as.bytes(r.attr)
			if r.required && v == nil {
				t.Errorf("%v without %d", msgType(typ), r.attr)
			}
			if v != nil && (len(v) < r.min || len(v) > r.max) || len(as.all(r.attr)) > max(r.many, 1) {
				t.Errorf("%v: attribute %d breaks its rule", msgType(typ), r.attr)
			}
		}
	})
}

// FuzzClientReceive gives a running handshake whatever a helper could say.
func FuzzClientReceive(f *testing.F) {
	f.Add(uint8(msgDone), true, []byte(doneBody()))
	f.Add(uint8(msgCryptoOut), false, []byte(cryptoBody(1, 0, "x")))
	f.Add(uint8(msgSecret), false, []byte(secretBody(LevelHandshake, true)))
	f.Add(uint8(msgDone), true, []byte(encodeFailure(overload("x"))))
	f.Fuzz(func(t *testing.T, typ uint8, final bool, b []byte) {
		c := NewClient(ClientOptions{})
		defer c.Close()
		cc := &clientConn{gone: make(chan struct{})}
		ends := 0
		h := c.Start(serverRequest(nil), func(e Event) {
			if e.Kind == EventFailed || e.Kind == EventDone {
				ends++
			}
		})
		c.mu.Lock()
		c.conn, h.sent = cc, true
		c.mu.Unlock()
		if m := (message{typ: msgType(typ), request: h.id, final: final, body: b}); m.typ != msgCaps && m.typ != msgStats {
			for range 2 {
				_ = c.receive(cc, m)
			}
			c.deliver(h)
		}
		if ends > 1 {
			t.Errorf("%d ends", ends)
		}
		c.mu.Lock()
		c.conn = nil
		c.mu.Unlock()
	})
}

func FuzzPostGate(f *testing.F) {
	f.Add([]byte{typeNewSessionTicket, 0, 0, 1, 9}, 1)
	f.Add([]byte{typeKeyUpdate, 0, 0, 1, 0}, 2)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		var whole, parts postGate
		cut = min(max(cut, 0), len(b))
		a := whole.check(b)
		c := parts.check(b[:cut])
		if c == nil {
			c = parts.check(b[cut:])
		}
		if (a == nil) != (c == nil) {
			t.Errorf("whole %v, in parts %v", a, c)
		}
	})
}

func FuzzName(f *testing.F) {
	for _, s := range []string{"a.example.com", "A.EXAMPLE.com.", "", ".", "a..b", "*.x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, ok := normalizeName(s)
		if !ok {
			return
		}
		if again, ok := normalizeName(n); !ok || again != n {
			t.Errorf("%q becomes %q and then %q", s, n, again)
		}
	})
}
