package nfs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// fragments cuts a record's message into fragments of n bytes.
func fragments(record []byte, n int) []byte {
	msg := record[markLen:]
	var b []byte
	for len(msg) > n {
		b = append(be32(b, uint32(n)), msg[:n]...)
		msg = msg[n:]
	}
	return append(be32(b, uint32(len(msg))|lastFrag), msg...)
}

// TestViolations: what breaks the protocol resets the stream with 0x1, and no backend is dialled.
func TestViolations(t *testing.T) {
	var manyEmpty, manySmall []byte
	for range 2000 {
		manyEmpty = be32(manyEmpty, 0)
		manySmall = append(be32(manySmall, 1), 0)
	}
	call := callRecord(1, ProgNFS, 3, 1, "")
	for _, tt := range []struct {
		name string
		send []byte
		fin  bool
		want error
	}{
		{"2 GiB fragment", []byte{0xff, 0xff, 0xff, 0xff}, false, ErrMessageSize},
		{"2 GiB in two fragments", append(append(be32(nil, 16), call[markLen:markLen+16]...), 0x7f, 0xff, 0xff, 0xff), false, ErrMessageSize},
		{"zero-length fragments", manyEmpty, false, ErrFragmentCount},
		{"endless one-byte fragments of a reply", append(append(fragments(be32(be32(be32(nil, 0), 1), 1), 1)[:35], 0, 0, 0, 1, 1), manySmall...), false, ErrFragmentCount},
		{"empty message", be32(nil, lastFrag), false, ErrTruncated},
		{"message of 24 bytes", append(be32(nil, 24|lastFrag), call[markLen:markLen+24]...), false, ErrTruncated},
		{"header cut by its record", append(be32(nil, 60|lastFrag), call[markLen:markLen+60]...), false, ErrTruncated},
		{"FIN inside a mark", []byte{0x80, 0}, true, ErrTruncated},
		{"FIN inside a header", call[:40], true, ErrTruncated},
		{"SMB on sunrpc", []byte("\x00\x00\x00\x44\xfeSMB\x40\x00\x00\x00\x00\x00\x00\x00"), false, ErrMessageType},
		{"HTTP on sunrpc", []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), false, ErrMessageSize},
		{"TLS on sunrpc", []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), false, ErrMessageSize},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkNoLeak(t)
			server := noServer(t)
			g := startGateway(t, newTestService(t, Config{Backends: []string{server.addr}}), testIdentity(t))
			c := g.dial(t)
			c.Write(tt.send) // the gateway may hang up before it took all
			if tt.fin {
				c.CloseWrite()
			}
			o := g.outcome(t)
			if o.Code != CodeProtocolViolation || !errors.Is(o.Err, tt.want) {
				t.Errorf("code %#x, %v; want %v", o.Code, o.Err, tt.want)
			}
			if !slices.Equal(o.cancelRead, []uint64{1}) || !slices.Equal(o.cancelWrite, []uint64{1}) {
				t.Errorf("peer saw STOP_SENDING %v and RESET_STREAM %v, want 1 and 1", o.cancelRead, o.cancelWrite)
			}
			if n, err := io.Copy(io.Discard, c); n != 0 {
				t.Errorf("%d bytes were answered, %v", n, err)
			}
		})
	}
}

// TestRefusals: what is wrong with one call is answered, and the stream stays usable.
func TestRefusals(t *testing.T) {
	checkNoLeak(t)
	server := noServer(t)
	s := newTestService(t, Config{Backends: []string{server.addr}, Exports: []string{"/srv"}})
	g := startGateway(t, s, testIdentity(t))
	c := g.dial(t)
	auth := func(cred, verf OpaqueAuth) []byte { return appendAuth(appendAuth(nil, cred), verf) }
	sys := func(a AuthSysCred) OpaqueAuth { return OpaqueAuth{AuthSys, a.append(nil)} }
	withAuth := func(a []byte) []byte { return appendCall(nil, 1, ProgNFS, 3, 1, a, []byte("args")) }
	huge := callRecord(1, ProgNFS, 3, 1, "args")
	copy(huge[markLen+28:], []byte{0, 0, 1, 0x91})
	oldRPC := callRecord(1, ProgNFS, 3, 1, "args")
	oldRPC[markLen+11] = 1
	startTLS := appendCall(nil, 1, ProgNFS, 3, 0, auth(OpaqueAuth{Flavor: AuthTLS}, OpaqueAuth{}), nil)
	for _, tt := range []struct {
		name string
		send []byte
		want []byte
	}{
		{"AUTH_TLS probe", startTLS, AppendAuthError(nil, 1, AuthRejectedCred)},
		{"AUTH_SHORT", withAuth(auth(OpaqueAuth{AuthShort, []byte("1234")}, OpaqueAuth{})), AppendAuthError(nil, 1, AuthRejectedCred)},
		{"AUTH_DH", withAuth(auth(OpaqueAuth{Flavor: AuthDH}, OpaqueAuth{})), AppendAuthError(nil, 1, AuthRejectedCred)},
		{"RPCSEC_GSS", withAuth(auth(OpaqueAuth{AuthGSS, make([]byte, 20)}, OpaqueAuth{})), AppendAuthError(nil, 1, AuthRejectedCred)},
		{"unknown flavor", withAuth(auth(OpaqueAuth{Flavor: 390003}, OpaqueAuth{})), AppendAuthError(nil, 1, AuthRejectedCred)},
		{"17 groups", withAuth(auth(sys(AuthSysCred{Groups: make([]uint32, 17)}), OpaqueAuth{})), AppendAuthError(nil, 1, AuthBadCred)},
		{"credential too long", huge, AppendAuthError(nil, 1, AuthBadCred)},
		{"empty AUTH_SYS", withAuth(auth(OpaqueAuth{Flavor: AuthSys}, OpaqueAuth{})), AppendAuthError(nil, 1, AuthBadCred)},
		{"verifier", withAuth(auth(OpaqueAuth{}, OpaqueAuth{Flavor: AuthGSS})), AppendAuthError(nil, 1, AuthBadVerf)},
		{"RPC version 1", oldRPC, AppendRPCMismatch(nil, 1)},
		{"NLM", callRecord(1, ProgNLM, 4, 1, ""), AppendAcceptError(nil, 1, AcceptProgUnavail)},
		{"callback program", callRecord(1, 0x40000000, 1, 1, ""), AppendAcceptError(nil, 1, AcceptProgUnavail)},
		{"NFS version 2", callRecord(1, ProgNFS, 2, 1, ""), AppendProgMismatch(nil, 1, 3, 4)},
		{"mount version 4", callRecord(1, ProgMount, 4, 1, ""), AppendProgMismatch(nil, 1, 1, 3)},
		{"foreign path", callRecord(1, ProgMount, 3, mountMNT, "\x00\x00\x00\x04/etc"), AppendSuccess(nil, 1, be32(nil, 13))},
		{"MNT of 5000 bytes", callRecord(1, ProgMount, 3, mountMNT, string(make([]byte, 5000))), AppendAcceptError(nil, 1, AcceptGarbageArgs)},
		{"portmapper CALLIT", callRecord(1, ProgPortmap, 2, 5, ""), AppendAcceptError(nil, 1, AcceptProcUnavail)},
	} {
		for _, cut := range []int{1 << 20, 7, 1} {
			if cut == 1 && len(tt.send) > 1000 {
				continue // more fragments than a message may have
			}
			// A reply in front of it is discarded in silence.
			mustWrite(t, c, fragments(AppendSuccess(nil, 99, nil), cut))
			mustWrite(t, c, fragments(tt.send, cut))
			if got := mustRead(t, c); !bytes.Equal(got, tt.want[markLen:]) {
				t.Errorf("%s in fragments of %d: % x, want % x", tt.name, cut, got, tt.want[markLen:])
			}
		}
	}
	c.CloseWrite()
	if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
		t.Errorf("after the FIN: % x, %v", rest, err)
	}
	if o := g.outcome(t); o.Code != CodeNoError || o.Err != nil || o.Refused == 0 || o.Discarded == 0 || o.Backend != "" {
		t.Errorf("%+v", o)
	}
}

// TestNoIdentity: without one, every call but NULL is too weak.
func TestNoIdentity(t *testing.T) {
	server := startServer(t, echoCalls)
	s := newTestService(t, Config{Backends: []string{server.addr}, Ports: Ports{Mount: server.port()}})
	g := startGateway(t, s, nil)
	c := g.dial(t)
	for _, program := range []uint32{ProgNFS, ProgACL, ProgMount, ProgPortmap} {
		mustWrite(t, c, callRecord(5, program, 3, 1, ""))
		if got, want := mustRead(t, c), AppendAuthError(nil, 5, AuthTooWeak)[markLen:]; !bytes.Equal(got, want) {
			t.Errorf("program %d: % x, want % x", program, got, want)
		}
	}
	if len(server.conns) != 0 {
		t.Error("a refused call dialled the backend")
	}
	mustWrite(t, c, callRecord(6, ProgNFS, 3, 0, ""))
	if got, err := successResults(mustRead(t, c)); err != nil || !bytes.Equal(got, anonymous) {
		t.Errorf("NULL arrived with % x, %v; want AUTH_NONE", got, err)
	}
}

// TestCredentialReplaced: nothing of what the client claims reaches the backend.
func TestCredentialReplaced(t *testing.T) {
	server := startServer(t, echoCalls)
	id := testIdentity(t)
	s := newTestService(t, Config{Backends: []string{server.addr}, Ports: Ports{Mount: server.port()}})
	g := startGateway(t, s, id)
	c := g.dial(t)
	for _, claimed := range [][]byte{claimedAuth(), anonymous, id.cred} {
		for _, procedure := range []uint32{0, 1, 7} {
			for _, cut := range []int{1 << 20, 50, 3} {
				record := appendCall(nil, 77, ProgNFS, 4, procedure, claimed, []byte("arguments..."))
				mustWrite(t, c, fragments(record, cut))
				want := append(bytes.Clone(id.cred), "arguments..."...)
				if got, err := successResults(mustRead(t, c)); err != nil || !bytes.Equal(got, want) {
					t.Errorf("procedure %d, fragments of %d: % x, %v", procedure, cut, got, err)
				}
			}
		}
	}
	mustWrite(t, c, callRecord(78, ProgMount, 3, mountMNT, "\x00\x00\x00\x08/srv/../"))
	want := appendOpaque(bytes.Clone(id.cred), "/")
	if got, err := successResults(mustRead(t, c)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("MNT: % x, %v, want % x", got, err, want)
	}
}

// TestGSSPassThrough: with AllowGSS the header passes unchanged, except to MOUNT.
func TestGSSPassThrough(t *testing.T) {
	server := startServer(t, echoCalls)
	s := newTestService(t, Config{Backends: []string{server.addr}, Ports: Ports{Mount: server.port()}, AllowGSS: true})
	g := startGateway(t, s, nil)
	c := g.dial(t)
	auth := appendAuth(appendAuth(nil, OpaqueAuth{AuthGSS, []byte("credential..")}), OpaqueAuth{AuthGSS, []byte("signed")})
	for _, cut := range []int{1 << 20, 9} {
		mustWrite(t, c, fragments(appendCall(nil, 1, ProgNFS, 4, 1, auth, []byte("wrapped.")), cut))
		want := append(bytes.Clone(auth), "wrapped."...)
		if got, err := successResults(mustRead(t, c)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("% x, %v, want % x", got, err, want)
		}
	}
	mustWrite(t, c, appendCall(nil, 2, ProgMount, 3, 1, auth, nil))
	if got := mustRead(t, c); !bytes.Equal(got, AppendAuthError(nil, 2, AuthRejectedCred)[markLen:]) {
		t.Errorf("MOUNT: % x", got)
	}
}

// TestBackendViolations: a backend that breaks the protocol costs the stream, with 0x4.
func TestBackendViolations(t *testing.T) {
	for _, tt := range []struct {
		name string
		send []byte
	}{
		{"2 GiB fragment", []byte{0xff, 0xff, 0xff, 0xff}},
		{"message type 2", be32(be32(be32(nil, 8|lastFrag), 1), 2)},
		{"reply of 4 bytes", be32(be32(nil, 4|lastFrag), 1)},
		{"endless fragments", make([]byte, 4*2000)},
		{"reply never asked for", append(AppendSuccess(nil, 1, nil), AppendSuccess(nil, 2, nil)...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkNoLeak(t)
			server := startServer(t, func(c net.Conn) {
				readMessage(c, 1<<20)
				c.Write(tt.send)
				io.Copy(io.Discard, c)
			})
			g := startGateway(t, newTestService(t, Config{Backends: []string{server.addr}}), testIdentity(t))
			c := g.dial(t)
			mustWrite(t, c, callRecord(1, ProgNFS, 3, 1, ""))
			if o := g.outcome(t); o.Code != CodeUnspecifiedError || !errors.Is(o.Err, ErrBackendProtocol) {
				t.Errorf("code %#x, %v", o.Code, o.Err)
			}
		})
	}
}

// TestBackendCalls: callbacks of a backend do not reach a client that takes no streams, replies around
// them do, and the backend is told of each that nobody answers it.
func TestBackendCalls(t *testing.T) {
	refused := make(chan uint32, 100)
	server := startServer(t, func(c net.Conn) {
		for {
			msg, err := readMessage(c, 1<<20)
			if err != nil {
				return
			}
			if binary.BigEndian.Uint32(msg[4:]) == msgReply {
				if want := AppendAcceptError(nil, binary.BigEndian.Uint32(msg), AcceptProgUnavail)[markLen:]; !bytes.Equal(msg, want) {
					t.Errorf("the backend got % x", msg)
				}
				refused <- binary.BigEndian.Uint32(msg)
				continue
			}
			callback := callRecord(1, 0x40000000, 1, 1, string(make([]byte, 9000)))
			out := append(callRecord(2, 0x40000000, 1, 0, ""), AppendSuccess(nil, uint32(msg[3]), nil)...)
			out = append(out, fragments(callback, 1000)...)
			c.Write(append(out, callback...))
		}
	})
	g := startGateway(t, newTestService(t, Config{Backends: []string{server.addr}}), testIdentity(t))
	c := g.dial(t)
	for xid := range uint32(5) {
		mustWrite(t, c, callRecord(xid, ProgNFS, 4, 1, ""))
		if got := mustRead(t, c); !bytes.Equal(got, AppendSuccess(nil, xid, nil)[markLen:]) {
			t.Errorf("% x", got)
		}
		for i, want := range []uint32{2, 1, 1} {
			select {
			case got := <-refused:
				if got != want {
					t.Errorf("refusal %d is of call %d, want %d", i, got, want)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("the backend was not told")
			}
		}
	}
	c.CloseWrite()
	if o := g.outcome(t); o.Err != nil || o.Replies != 5 || o.Discarded < 13 {
		t.Errorf("%+v", o)
	}
}

// FuzzServeStream: whatever a client sends, in whatever pieces, the relay ends, leaks nothing, forwards
// the same bytes, and never forwards a credential that is not the identity's.
func FuzzServeStream(f *testing.F) {
	f.Add(callRecord(1, ProgNFS, 3, 1, "args"), uint8(3))
	f.Add(fragments(callRecord(1, ProgNFS, 3, 1, "argsargsargs"), 5), uint8(1))
	f.Add(append(callRecord(1, ProgMount, 3, 1, "\x00\x00\x00\x04/srv"), callRecord(2, ProgPortmap, 2, 4, "")...), uint8(100))
	f.Add(append(AppendSuccess(nil, 1, nil), callRecord(2, ProgNFS, 4, 1, "x123")...), uint8(9))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, uint8(1))
	id, err := NewIdentity(4242, 4243, nil, RootRefused)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte, piece uint8) {
		whole, o1 := relayBytes(t, id, data, len(data)+1)
		pieces, o2 := relayBytes(t, id, data, int(piece)+1)
		if o1.Code != o2.Code || o1.Calls != o2.Calls || o1.Refused != o2.Refused || o1.Code == CodeNoError && !bytes.Equal(whole, pieces) {
			t.Fatalf("whole: %+v % x\npieces of %d: %+v % x", o1, whole, piece, o2, pieces)
		}
		r := bytes.NewReader(whole)
		for r.Len() > 0 {
			msg, err := readMessage(r, 16<<20)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(msg[24:24+len(id.cred)], id.cred) {
				t.Fatalf("forwarded with another credential: % x", msg)
			}
		}
	})
}

// pieceConn is a stream on which data arrives in pieces of n bytes, and then a FIN.
type pieceConn struct {
	net.Conn // never used: its methods below are all that a stream that cannot block needs
	data     []byte
	n        int
}

func (c *pieceConn) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.data[:min(c.n, len(c.data))])
	c.data = c.data[n:]
	return n, nil
}

func (c *pieceConn) Write(p []byte) (int, error)     { return len(p), nil }
func (c *pieceConn) Close() error                    { return nil }
func (c *pieceConn) SetDeadline(time.Time) error     { return nil }
func (c *pieceConn) SetReadDeadline(time.Time) error { return nil }
func (c *pieceConn) LocalAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443} }

// relayBytes sends data in pieces of n bytes through a relay and returns the messages that backends
// got, with XIDs of zero, since the gateway's own calls have random ones.
func relayBytes(t *testing.T, id *Identity, data []byte, n int) ([]byte, Outcome) {
	var conns []*bytes.Buffer
	var wg sync.WaitGroup
	cfg := Config{Backends: []string{"backend:2049"}, Ports: Ports{Mount: 20048}, Exports: []string{"/srv"}}
	cfg.Logger = slog.New(slog.DiscardHandler)
	cfg.Dial = func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		got := new(bytes.Buffer)
		conns = append(conns, got)
		wg.Go(func() {
			defer theirs.Close()
			for {
				msg, err := readMessage(theirs, 16<<20)
				if err != nil {
					return
				}
				got.Write(be32(be32(nil, uint32(len(msg))|lastFrag), 0))
				got.Write(msg[4:])
				theirs.Write(AppendSuccess(nil, binary.BigEndian.Uint32(msg), nil))
			}
		})
		return ours, nil
	}
	relay := newTestService(t, cfg).Relay(Client{Identity: id})
	o := relay.ServeStream(context.Background(), &pieceConn{data: data, n: n})
	wg.Wait()
	var all []byte
	for _, b := range conns {
		all = append(all, b.Bytes()...)
	}
	return all, o
}
