package tlshd

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeHelper is the other end of a Client's socket, in the hands of a test.
type fakeHelper struct {
	t    *testing.T
	sock *socket
	c    *Client
}

func newFakeHelper(t *testing.T) *fakeHelper {
	t.Helper()
	leakCheck(t)
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeHelper{t: t, sock: newSocket(theirs), c: NewClient(ClientOptions{})}
	t.Cleanup(func() {
		f.c.Close()
		f.sock.close()
	})
	if err := f.c.Attach(ours); err != nil {
		t.Fatal(err)
	}
	if err := greet(f.sock, rolePacket, []string{"test"}); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fakeHelper) expect(want msgType) message {
	f.t.Helper()
	if err := f.sock.c.SetReadDeadline(time.Now().Add(testWait)); err != nil {
		f.t.Fatal(err)
	}
	m, err := f.sock.read()
	if err != nil || m.typ != want {
		f.t.Fatalf("%v (%v), want %v", m.typ, err, want)
	}
	if _, err := parseAttributes(m.typ, m.body); err != nil {
		f.t.Fatal(err)
	}
	return m
}

func (f *fakeHelper) send(t msgType, id uint64, final bool, b body) {
	f.t.Helper()
	if err := f.sock.write(t, id, final, b); err != nil {
		f.t.Fatal(err)
	}
}

// synced waits until the Client has handled what was sent.
func (f *fakeHelper) synced() {
	f.t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := f.c.ServerStats(testContext(f.t)); err != nil {
			f.t.Error(err)
		}
	})
	m := f.expect(msgStats)
	var b body
	b.bytes(attrJSON, []byte("{}"))
	f.send(msgStats, m.request, true, b)
	wg.Wait()
}

func secretBody(l Level, write bool) (b body) {
	b.u8(attrLevel, uint8(l))
	b.flag(attrWrite, write)
	b.u16(attrSuite, 0x1301)
	b.bytes(attrData, make([]byte, 32))
	return b
}

func cryptoBody(l Level, off uint64, data string) (b body) {
	b.u8(attrLevel, uint8(l))
	b.u64(attrOffset, off)
	b.str(attrData, data)
	return b
}

func tpBody(a attr) (b body) {
	b.str(a, "parameters")
	return b
}

func doneBody() (b body) {
	b.u32(attrStatus, 0)
	b.str(attrReason, "ok")
	b.u16(attrTLSVersion, 0x0304)
	b.u16(attrSuite, 0x1301)
	b.str(attrALPN, "smb")
	b.u8(attrAuthMode, uint8(AuthUnauth))
	b.bytes(attrExporter, make([]byte, 32))
	return b
}

func (f *fakeHelper) secrets(id uint64) {
	for _, l := range []Level{LevelHandshake, LevelApp} {
		f.send(msgSecret, id, false, secretBody(l, false))
		f.send(msgSecret, id, false, secretBody(l, true))
	}
}

func collect() (func(Event), chan Event) {
	ch := make(chan Event, 256)
	return func(e Event) { ch <- e }, ch
}

func next(t *testing.T, ch chan Event) Event {
	t.Helper()
	select {
	case e := <-ch:
		return e
	case <-time.After(testWait):
		t.Fatal("no event")
		return Event{}
	}
}

// HOSTILE 45, 46: a helper that talks nonsense within one handshake fails that
// one, and nothing else.
func TestHelperBreaksAHandshake(t *testing.T) {
	for name, act := range map[string]func(f *fakeHelper, id uint64){
		"verdict without secrets": func(f *fakeHelper, id uint64) { f.send(msgDone, id, false, doneBody()) },
		"secret twice": func(f *fakeHelper, id uint64) {
			f.send(msgSecret, id, false, secretBody(LevelHandshake, true))
			f.send(msgSecret, id, false, secretBody(LevelHandshake, true))
		},
		"secret of Initial":  func(f *fakeHelper, id uint64) { f.send(msgSecret, id, false, secretBody(LevelInitial, true)) },
		"secret of level 77": func(f *fakeHelper, id uint64) { f.send(msgSecret, id, false, secretBody(77, true)) },
		"gap":                func(f *fakeHelper, id uint64) { f.send(msgCryptoOut, id, false, cryptoBody(0, 1, "x")) },
		"level 9":            func(f *fakeHelper, id uint64) { f.send(msgCryptoOut, id, false, cryptoBody(9, 0, "x")) },
		"parameters twice": func(f *fakeHelper, id uint64) {
			f.send(msgPeerTP, id, false, tpBody(attrPeerTP))
			f.send(msgPeerTP, id, false, tpBody(attrPeerTP))
		},
		"0-RTT that nobody asked for": func(f *fakeHelper, id uint64) { f.send(msgSecret, id, false, secretBody(LevelEarly, false)) },
		"0-RTT at a server": func(f *fakeHelper, id uint64) {
			var b body
			b.u8(attrEarlyState, earlyOffered)
			f.send(msgEarly, id, false, b)
		},
		"final without a verdict": func(f *fakeHelper, id uint64) { f.send(msgCryptoOut, id, true, cryptoBody(0, 0, "x")) },
		"x509 without a chain": func(f *fakeHelper, id uint64) {
			f.secrets(id)
			b := doneBody()
			i := strings.Index(string(b), string([]byte{0, byte(attrAuthMode), 0, 0, 0, 0, 0, 1}))
			b[i+8] = byte(AuthX509)
			f.send(msgDone, id, false, b)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeHelper(t)
			sink, ch := collect()
			f.c.Start(serverRequest(nil), sink)
			act(f, f.expect(msgStart).request)
			var e Event
			for e = next(t, ch); e.Kind != EventFailed; e = next(t, ch) {
			}
			if he, ok := errors.AsType[*Error](e.Err); !ok || he.Status != StatusEIO || he.Reason != ReasonProtocol || e.Alert != alertInternalError {
				t.Errorf("%v", e.Err)
			}
			// The next handshake goes well.
			h := f.c.Start(serverRequest(nil), sink)
			var m message
			for m = f.read(); m.typ != msgStart; m = f.read() {
			}
			id := m.request
			f.secrets(id)
			f.send(msgDone, id, false, doneBody())
			for e = next(t, ch); e.Kind == EventSecret; e = next(t, ch) {
			}
			if e.Kind != EventDone {
				t.Errorf("%+v", e)
			}
			h.Close()
		})
	}
}

func (f *fakeHelper) read() message {
	f.t.Helper()
	m, err := f.sock.read()
	if err != nil {
		f.t.Fatal(err)
	}
	return m
}

// HOSTILE 45, 46: replayed answers and answers for handshakes that are over or
// never were change nothing.
func TestHelperRepliesAgain(t *testing.T) {
	f := newFakeHelper(t)
	sink, ch := collect()
	h := f.c.Start(serverRequest(nil), sink)
	id := f.expect(msgStart).request
	f.secrets(id)
	f.send(msgDone, id, false, doneBody())
	for e := next(t, ch); e.Kind != EventDone; e = next(t, ch) {
	}
	f.send(msgDone, id, false, doneBody())
	f.send(msgDone, id, true, encodeFailure(overload("replayed")))
	f.send(msgSecret, id, false, secretBody(LevelApp, true))
	f.send(msgPeerTP, id, false, tpBody(attrPeerTP))
	f.send(msgDone, 4711, true, doneBody())
	f.send(msgSecret, 4711, false, secretBody(LevelApp, true))
	f.synced()
	h.Close()
	f.expect(msgCancel)
	f.send(msgDone, id, true, doneBody())
	f.synced()
	select {
	case e := <-ch:
		t.Errorf("event %+v", e)
	default:
	}
	if st := f.c.Stats(); st.Ignored != 7 || st.Done != 1 || st.Failed != 0 || st.InFlight != 0 {
		t.Errorf("%+v", st)
	}
}

// HOSTILE 45: what breaks the framing ends the helper, and fails its handshakes.
func TestHelperBreaksTheSocket(t *testing.T) {
	frame := func(typ msgType, flags uint16, n int, body int) []byte {
		return append(header{typ: typ, flags: flags, length: n, request: 1}.append(nil), make([]byte, body)...)
	}
	version := frame(msgDone, 0, 0, 0)
	version[0] = 9
	for name, raw := range map[string][][]byte{
		"half a header":    {{1, 10, 0}},
		"short write":      {frame(msgDone, 0, 100, 50)},
		"too long":         {frame(msgDone, 0, 10, 50)},
		"oversize":         {frame(msgDone, 0, maxFrame, maxFrame+1000)},
		"length of 2 GiB":  {frame(msgDone, 0, 1<<31-1, 10)},
		"version":          {version},
		"type":             {frame(200, 0, 0, 0)},
		"flags":            {frame(msgDone, 0x8000, 0, 0)},
		"not a helper's":   {frame(msgStart, 0, 0, 0)},
		"no attributes":    {frame(msgDone, 0, 0, 0)},
		"zeros":            {frame(msgDone, 0, 64, 64)},
		"mixed parts":      {frame(msgDone, flagMore, 10, 10), frame(msgSecret, 0, 10, 10)},
		"empty part":       {frame(msgDone, flagMore, 0, 0)},
		"end":              {},
		"endless in parts": nil,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeHelper(t)
			sink, ch := collect()
			f.c.Start(serverRequest(nil), sink)
			f.expect(msgStart)
			if raw == nil {
				for range maxMessage/maxFrame + 1 {
					raw = append(raw, frame(msgDone, flagMore, maxFrame, maxFrame))
				}
			}
			for _, b := range raw {
				if _, err := f.sock.c.Write(b); err != nil {
					break // it has hung up
				}
			}
			if len(raw) == 0 {
				f.sock.close()
			}
			e := next(t, ch)
			if he, ok := errors.AsType[*Error](e.Err); !ok || e.Kind != EventFailed || he.Reason != ReasonHelperGone || !errors.Is(e.Err, ErrHelperGone) {
				t.Errorf("%+v", e)
			}
			select {
			case <-f.c.Detached():
			case <-time.After(testWait):
				t.Error("still attached")
			}
		})
	}
}

func TestClientDeadlines(t *testing.T) {
	f := newFakeHelper(t)
	sink, ch := collect()
	f.c.Start(serverRequest(func(r *Request) { r.Timeout = 10 * time.Millisecond }), sink)
	he, ok := errors.AsType[*Error](next(t, ch).Err)
	if !ok || he.Status != StatusETIMEDOUT || he.Reason != ReasonTimeout {
		t.Errorf("%v", he)
	}
	start := f.read()
	if start.typ == msgStart {
		f.expect(msgCancel)
	}
	// Without a helper.
	c := NewClient(ClientOptions{})
	c.Start(serverRequest(func(r *Request) { r.Timeout = 10 * time.Millisecond }), sink)
	he, ok = errors.AsType[*Error](next(t, ch).Err)
	if !ok || he.Status != StatusETIMEDOUT || !strings.Contains(he.Detail, "no helper") {
		t.Errorf("%v", he)
	}
	c.Start(serverRequest(nil), sink)
	if _, err := c.ServerStats(testContext(t)); !errors.Is(err, ErrHelperGone) {
		t.Error(err)
	}
	c.Close()
	if e := next(t, ch); !errors.Is(e.Err, ErrClosed) {
		t.Errorf("%+v", e)
	}
	c.Start(serverRequest(nil), sink)
	if e := next(t, ch); !errors.Is(e.Err, ErrClosed) {
		t.Errorf("%+v", e)
	}
}

func TestClientRefusesBadRequests(t *testing.T) {
	c := NewClient(ClientOptions{})
	defer c.Close()
	long := strings.Repeat("x", 300)
	for name, r := range map[string]*Request{
		"no protocols":       serverRequest(func(r *Request) { r.NextProtos = nil }),
		"many protocols":     serverRequest(func(r *Request) { r.NextProtos = make([]string, 100) }),
		"empty protocol":     serverRequest(func(r *Request) { r.NextProtos = []string{""} }),
		"long name":          serverRequest(func(r *Request) { r.ServerName = long }),
		"long route":         serverRequest(func(r *Request) { r.Options.Route = long }),
		"long parameters":    serverRequest(func(r *Request) { r.TransportParams = make([]byte, maxTP+1) }),
		"client without any": {NextProtos: []string{"smb"}, ServerName: "x"},
	} {
		sink, ch := collect()
		c.Start(r, sink)
		if he, ok := errors.AsType[*Error](next(t, ch).Err); !ok || he.Status != StatusEINVAL {
			t.Errorf("%s: %v", name, he)
		}
	}
}

// The queue is bounded while no helper takes anything.
func TestClientQueueIsBounded(t *testing.T) {
	leakCheck(t)
	c := NewClient(ClientOptions{})
	sink := func(Event) {}
	var refused int
	for range 300 {
		h := c.Start(serverRequest(nil), func(e Event) {
			if he, ok := errors.AsType[*Error](e.Err); ok && he.Status == StatusENOMEM {
				refused++
			}
		})
		h.Crypto(LevelInitial, make([]byte, maxCryptoIn))
	}
	if st := c.Stats(); st.Queued > maxQueued || refused == 0 {
		t.Errorf("%d bytes wait, %d refused", st.Queued, refused)
	}
	// What is over makes room.
	c.mu.Lock()
	var all []*Handshake
	for _, h := range c.handshakes {
		all = append(all, h)
	}
	c.mu.Unlock()
	for _, h := range all {
		h.Close()
	}
	h := c.Start(serverRequest(nil), sink)
	h.Crypto(LevelInitial, make([]byte, maxCryptoIn))
	if st := c.Stats(); st.Queued > 2*maxCryptoIn || st.InFlight != 1 {
		t.Errorf("%+v", st)
	}
	c.Close()
}

// A sink that calls back, and events that arrive meanwhile.
func TestSinkMayCallBack(t *testing.T) {
	s := newSite(t)
	l := startLocal(t, s.cfg)
	var h *Handshake
	ready := make(chan struct{})
	over := make(chan struct{})
	h = l.Client.Start(serverRequest(nil), func(e Event) {
		<-ready
		h.Crypto(LevelInitial, []byte{0})
		h.TransportParams(nil)
		h.Ticket()
		h.Close()
		close(over)
	})
	h.Crypto(LevelInitial, []byte{99, 0, 0, 0})
	close(ready)
	<-over
}

func TestSinkCalledFromCrypto(t *testing.T) {
	s := newSite(t)
	l := startLocal(t, s.cfg)
	p := shake(t, viaHelper(l.Client, serverRequest(nil)), s.raw(nil)).ok()
	h := p.server.shaker.(*Handshake)
	h.sink = func(e Event) {
		h.Crypto(LevelApp, []byte{1})
		h.Close()
	}
	h.Crypto(LevelApp, []byte{1})
	if st := l.Client.Stats(); st.InFlight != 0 {
		t.Errorf("%+v", st)
	}
}

// clientOf is a packet process in the hands of a test.
func clientOf(t *testing.T, l *Local) (*socket, chan error) {
	t.Helper()
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- l.Server.Serve(testContext(t), theirs) }()
	sock := newSocket(ours)
	t.Cleanup(func() { sock.close() })
	if err := ours.SetReadDeadline(time.Now().Add(testWait)); err != nil {
		t.Fatal(err)
	}
	return sock, ended
}

func hello(t *testing.T, sock *socket, role uint8) {
	t.Helper()
	var b body
	b.u8(attrVersion, protoVersion)
	b.u8(attrRole, role)
	if err := sock.write(msgHello, 0, false, b); err != nil {
		t.Fatal(err)
	}
	if m, err := sock.read(); err != nil || m.typ != msgCaps {
		t.Fatalf("%v %v", m.typ, err)
	}
}

func startBody(t *testing.T, edit func(*Request)) body {
	t.Helper()
	b, bad := encodeStart(serverRequest(edit), testWait)
	if bad != nil {
		t.Fatal(bad)
	}
	return b
}

// A packet process is not trusted either.
func TestPacketProcessBreaksTheSocket(t *testing.T) {
	s := newSite(t)
	l := startLocal(t, s.cfg)
	greeting := func(role uint8) (b body) {
		b.u8(attrVersion, protoVersion)
		b.u8(attrRole, role)
		return b
	}
	start := startBody(t, nil)
	type msg struct {
		t  msgType
		id uint64
		b  body
	}
	ok := msg{msgHello, 0, greeting(rolePacket)}
	flood := []msg{ok, {msgStart, 1, start}}
	for i := range uint64(1000) {
		flood = append(flood, msg{msgCryptoIn, 1, cryptoBody(LevelApp, i<<40, strings.Repeat("x", 4096))})
	}
	for name, msgs := range map[string][]msg{
		"no greeting":    {{msgStart, 1, start}},
		"supervisor":     {{msgHello, 0, greeting(roleControl)}},
		"greeting twice": {ok, ok},
		"id in use":      {ok, {msgStart, 1, start}, {msgStart, 1, start}},
		"id 0":           {ok, {msgStart, 0, start}},
		"a helper's":     {ok, {msgDone, 1, doneBody()}},
		"no attributes":  {ok, {msgStart, 1, nil}},
		"level":          {ok, {msgStart, 1, start}, {msgCryptoIn, 1, cryptoBody(4, 0, "x")}},
		"attach":         {ok, {msgAttach, 1, nil}},
		"reload":         {ok, {msgReload, 1, nil}},
	} {
		t.Run(name, func(t *testing.T) {
			sock, ended := clientOf(t, l)
			for _, m := range msgs {
				if err := sock.write(m.t, m.id, false, m.b); err != nil {
					break
				}
			}
			if err := <-ended; !errors.Is(err, errProtocol) {
				t.Errorf("ended with %v", err)
			}
			for {
				if _, err := sock.read(); err != nil {
					if errors.Is(err, os.ErrDeadlineExceeded) {
						t.Error("still open")
					}
					break
				}
			}
		})
	}
	t.Run("flood", func(t *testing.T) {
		sock, ended := clientOf(t, l)
		for _, m := range flood {
			if err := sock.write(m.t, m.id, false, m.b); err != nil {
				break
			}
		}
		sock.close()
		if err := <-ended; err != nil && !errors.Is(err, errProtocol) && !errors.Is(err, io.EOF) {
			t.Logf("ended with %v", err)
		}
	})
	if st := l.Server.Stats(); st.InFlight != 0 || st.Kept != 0 {
		t.Errorf("left over: %+v", st)
	}
}

// Messages for handshakes that are over are passed over.
func TestPacketProcessUnknownRequests(t *testing.T) {
	s := newSite(t)
	l := startLocal(t, s.cfg)
	sock, _ := clientOf(t, l)
	hello(t, sock, rolePacket)
	for _, m := range []msgType{msgTicket, msgCancel} {
		if err := sock.write(m, 99, false, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := sock.write(msgCryptoIn, 99, false, cryptoBody(0, 0, "x")); err != nil {
		t.Fatal(err)
	}
	if err := sock.write(msgStats, 5, false, nil); err != nil {
		t.Fatal(err)
	}
	m, err := sock.read()
	if err != nil || m.typ != msgStats || m.request != 5 || !m.final {
		t.Fatalf("%+v %v", m, err)
	}
	as, err := parseAttributes(m.typ, m.body)
	if err != nil {
		t.Fatal(err)
	}
	var st ServerStats
	if err := json.Unmarshal(as.bytes(attrJSON), &st); err != nil || st.Unknown != 3 {
		t.Errorf("%+v %v", st, err)
	}
}

func TestHelperDeadlineCancelOverload(t *testing.T) {
	s := newSite(t)
	s.cfg.MaxHandshakes = 2
	s.cfg.MaxTimeout = 300 * time.Millisecond
	l := startLocal(t, s.cfg)
	sock, _ := clientOf(t, l)
	hello(t, sock, rolePacket)
	start := startBody(t, nil)
	for id := range uint64(3) {
		if err := sock.write(msgStart, id+1, false, start); err != nil {
			t.Fatal(err)
		}
	}
	read := func() (uint64, *Error) {
		t.Helper()
		m, err := sock.read()
		if err != nil || m.typ != msgDone || !m.final {
			t.Fatalf("%+v %v", m, err)
		}
		as, err := parseAttributes(m.typ, m.body)
		if err != nil {
			t.Fatal(err)
		}
		return m.request, &Error{Status: Status(as.u32(attrStatus)), Alert: as.u8(attrAlert), Reason: Reason(as.str(attrReason)), Detail: as.str(attrDetail)}
	}
	id, e := read()
	if id != 3 {
		t.Errorf("request %d was refused", id)
	}
	checkRefused(t, e, StatusENOMEM, alertInternalError, ReasonOverload)
	if err := sock.write(msgCancel, 1, false, nil); err != nil {
		t.Fatal(err)
	}
	id, e = read() // no answer to CANCEL; the other one runs out of time
	if id != 2 {
		t.Errorf("request %d timed out", id)
	}
	checkRefused(t, e, StatusETIMEDOUT, alertInternalError, ReasonTimeout)
	if st := l.Server.Stats(); st.Failed != 3 || st.InFlight != 0 {
		t.Errorf("%+v", st)
	}
	// A packet process that goes away takes its handshakes along.
	if err := sock.write(msgStart, 9, false, start); err != nil {
		t.Fatal(err)
	}
	sock.close()
	deadline := time.Now().Add(testWait)
	for st := l.Server.Stats(); st.Failed != 4 || st.Kept != 0 || st.InFlight != 0; st = l.Server.Stats() {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", st)
		}
		time.Sleep(time.Millisecond)
	}
}
