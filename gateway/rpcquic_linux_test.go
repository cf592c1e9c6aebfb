package gateway_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/nfs"
	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// RPC over QUIC, draft-cel-nfsv4-rpc-over-quicv1-06, through a gateway to a server
// on TCP: a test for each requirement, by section. Not here: certificates and
// their usages (Sections 3.2.1 and 6: package tlshd, TestClientCertificates and
// TestServerCertificates), no early data (Section 6: package tlshd, TestNoEarlyDataForFiles).

// rpcServer is an NFS server on TCP whose answers are the test's.
type rpcServer struct {
	net.Listener
	calls chan []byte // messages that arrived, without marks
}

// startRPCServer answers each message by what answer writes to w, a record at a time.
func startRPCServer(t *testing.T, answer func(w io.Writer, msg []byte)) *rpcServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &rpcServer{Listener: l, calls: make(chan []byte, 1000)}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				for {
					msg, err := readRPC(c)
					if err != nil {
						return
					}
					s.calls <- msg
					if answer == nil {
						return
					}
					answer(c, msg)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return s
}

// echoArgs answers a call with its arguments, credential and verifier first.
func echoArgs(w io.Writer, msg []byte) { w.Write(rpcReply(word(msg, 0), msg[24:])) }

func word(msg []byte, i int) uint32 { return binary.BigEndian.Uint32(msg[4*i:]) }

func words(v ...uint32) (b []byte) {
	for _, x := range v {
		b = binary.BigEndian.AppendUint32(b, x)
	}
	return b
}

// rpcRecord marks a message as one fragment.
func rpcRecord(msg []byte) []byte { return append(words(uint32(len(msg))|1<<31), msg...) }

// rpcCall is a call with AUTH_SYS as root, or with a credential of another flavor.
func rpcCall(xid, program, version, procedure, flavor uint32, args []byte) []byte {
	body := words(1, 0, 0, 0, 0) // stamp, no name, uid, gid, no groups
	if flavor != nfs.AuthSys {
		body = nil
	}
	msg := words(xid, 0, 2, program, version, procedure, flavor, uint32(len(body)))
	return rpcRecord(append(append(append(msg, body...), words(0, 0)...), args...))
}

func rpcReply(xid uint32, results []byte) []byte {
	return rpcRecord(append(words(xid, 1, 0, 0, 0, 0), results...))
}

// readRPC reads a message of any number of fragments.
func readRPC(r io.Reader) ([]byte, error) {
	var msg []byte
	for {
		var mark [4]byte
		if _, err := io.ReadFull(r, mark[:]); err != nil {
			return nil, err
		}
		n := binary.BigEndian.Uint32(mark[:])
		piece := make([]byte, n&^(1<<31))
		if _, err := io.ReadFull(r, piece); err != nil {
			return nil, err
		}
		if msg = append(msg, piece...); n>>31 == 1 {
			return msg, nil
		}
	}
}

// rpcSite is a gateway in front of a server, and what dials it.
type rpcSite struct {
	*inProcess
	t      *testing.T
	server *rpcServer
	ctx    context.Context
}

func newRPCSite(t *testing.T, c inProcessConfig, answer func(w io.Writer, msg []byte)) *rpcSite {
	t.Helper()
	s := &rpcSite{t: t, server: startRPCServer(t, answer)}
	c.backends, c.mount = fmt.Sprintf("%q", s.server.Addr()), fmt.Sprint(s.server.Addr().(*net.TCPAddr).Port)
	c.nfs += "      probe: {interval: 0s}\n"
	s.inProcess = newInProcessConfig(t, c)
	closeGateway(t, s.Gateway)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	s.ctx = ctx
	return s
}

// try dials with a configuration changed by change, which may be nil.
func (s *rpcSite) try(change func(*quic.Config)) (*quic.Conn, error) {
	s.t.Helper()
	sock, err := udp.ListenOne(netip.MustParseAddrPort("127.0.0.1:0"), udp.Config{})
	if err != nil {
		s.t.Fatal(err)
	}
	e := quic.NewEndpoint([]udp.PacketConn{sock}, nil)
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = e.Close(ctx)
	})
	cfg := &quic.Config{Handshaker: quic.TLS(s.client), ServerName: testName, NextProtos: []string{"sunrpc"}, Versions: []quic.Version{quic.Version1}, MaxStreamsBidi: -1}
	if change != nil {
		change(cfg)
	}
	c, err := e.Dial(s.ctx, s.addr, cfg)
	if err != nil {
		return nil, err
	}
	s.t.Cleanup(func() { _ = c.CloseWithError(0, "") })
	return c, nil
}

func (s *rpcSite) dial(change func(*quic.Config)) *quic.Conn {
	s.t.Helper()
	c, err := s.try(change)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *rpcSite) open(c *quic.Conn) *quic.Stream {
	s.t.Helper()
	st, err := c.OpenStream(s.ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = st.SetDeadline(time.Now().Add(30 * time.Second))
	s.t.Cleanup(func() { _ = st.Close() })
	return st
}

// send writes to a stream.
func (s *rpcSite) send(w io.Writer, b []byte) {
	s.t.Helper()
	if _, err := w.Write(b); err != nil {
		s.t.Fatal(err)
	}
}

// expect reads a message and compares it with a record.
func (s *rpcSite) expect(what string, r io.Reader, record []byte) {
	s.t.Helper()
	if msg, err := readRPC(r); err != nil || !bytes.Equal(msg, record[4:]) {
		s.t.Errorf("%s: %d octets % .40x, %v; want %d: % .40x", what, len(msg), msg, err, len(record)-4, record[4:])
	}
}

// null makes a NULL call, which the gateway passes on.
func (s *rpcSite) null(what string, st *quic.Stream) {
	s.t.Helper()
	s.send(st, rpcCall(77, nfs.ProgNFS, 3, 0, 0, nil))
	msg, err := readRPC(st)
	if err != nil || len(msg) < 24 || word(msg, 0) != 77 || word(msg, 2) != 0 {
		s.t.Errorf("%s: a NULL call got % .40x, %v", what, msg, err)
	}
}

// reset wants the stream to be reset with a code.
func (s *rpcSite) reset(what string, st *quic.Stream, code uint64) {
	s.t.Helper()
	_, err := io.ReadAll(st)
	var e *quic.StreamError
	if !errors.As(err, &e) || !e.Remote || e.Code != code {
		s.t.Errorf("%s: the stream ended with %v, want a reset with code %d", what, err, code)
	}
}

// transportCode is the code that the peer has closed a connection with.
func transportCode(err error) uint64 {
	var te *quic.TransportError
	if errors.As(err, &te) && te.Remote {
		return uint64(te.Code)
	}
	return 0
}

// Section 3: "RPC-over-QUIC version 1" is on QUIC version 1. A client that begins
// with version 2 is taken back to 1, or refused.
func TestRPCDraftR1Version(t *testing.T) {
	s := newRPCSite(t, inProcessConfig{}, echoArgs)
	c := s.dial(func(cfg *quic.Config) { cfg.Versions = []quic.Version{quic.Version2, quic.Version1} })
	if c.Version() != quic.Version1 {
		t.Errorf("version %v", c.Version())
	}
	s.null("after the change of version", s.open(c))
	// RFC 9001, Section 8.1: "The server MUST treat the inability to select a
	// compatible application protocol as a connection error of type 0x0178
	// (no_application_protocol)."
	const noApplicationProtocol = 0x178
	if _, err := s.try(func(cfg *quic.Config) { cfg.Versions = []quic.Version{quic.Version2} }); transportCode(err) != noApplicationProtocol {
		t.Errorf("version 2 alone: %v", err)
	}
}

// Section 3.2.1: the protocol is sunrpc; others may be offered beside it.
func TestRPCDraftR2Protocol(t *testing.T) {
	s := newRPCSite(t, inProcessConfig{}, echoArgs)
	for _, offer := range [][]string{{"sunrpc"}, {"h3", "sunrpc"}, {"sunrpc", "h3"}} {
		c := s.dial(func(cfg *quic.Config) { cfg.NextProtos = offer })
		if got := c.TLS().ALPN; got != "sunrpc" {
			t.Errorf("%q: %q was taken", offer, got)
		}
		s.null(fmt.Sprint(offer), s.open(c))
	}
	const noApplicationProtocol = 0x178
	for _, offer := range [][]string{{"h3"}, {"SUNRPC"}, {"sunrpc2"}} {
		if _, err := s.try(func(cfg *quic.Config) { cfg.NextProtos = offer }); transportCode(err) != noApplicationProtocol {
			t.Errorf("%q: %v", offer, err)
		}
	}
}

// Section 3.2.1: no STARTTLS. The probe of RFC 9289, Section 4.1, a NULL call with
// AUTH_TLS, is refused, whatever the program, and never answered with "STARTTLS".
func TestRPCDraftR3StartTLS(t *testing.T) {
	s := newRPCSite(t, inProcessConfig{}, echoArgs)
	st := s.open(s.dial(nil))
	const msgDenied, authError, rejectedCred = 1, 1, 2
	for i, program := range []uint32{nfs.ProgNFS, nfs.ProgMount, nfs.ProgPortmap, nfs.ProgACL, 12345} {
		s.send(st, rpcCall(uint32(i), program, 3, 0, nfs.AuthTLS, nil))
		s.expect(fmt.Sprint("program ", program), st, rpcRecord(words(uint32(i), 1, msgDenied, authError, rejectedCred)))
	}
	s.null("afterwards", st)
	if n := len(s.server.calls); n != 1 {
		t.Errorf("the server got %d calls, want the last alone", n)
	}
}

// Section 6: the identity of the handshake is that of every stream and message.
func TestRPCDraftR6Identity(t *testing.T) {
	s := newRPCSite(t, inProcessConfig{}, echoArgs)
	c := s.dial(nil)
	var first []byte
	for i := range 4 {
		st := s.open(c)
		for _, flavor := range []uint32{nfs.AuthSys, nfs.AuthNone} {
			s.send(st, rpcCall(9, nfs.ProgNFS, 3, 1, flavor, nil))
			msg, err := readRPC(st)
			if err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = msg
			}
			// flavor, length, stamp, name, uid, gid, no groups, no verifier
			if tail := words(4711, 4712, 0, 0, 0); !bytes.Equal(msg, first) || !bytes.HasSuffix(msg, tail) {
				t.Errorf("stream %d, flavor %d: the server saw % x", i, flavor, msg[24:])
			}
		}
	}
}

// Section 3.4: bidirectional streams alone.
func TestRPCDraftR8OnlyBidirectional(t *testing.T) {
	s := newRPCSite(t, inProcessConfig{}, echoArgs)
	c := s.dial(nil)
	s.null("first", s.open(c))
	ctx, cancel := context.WithTimeout(s.ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := c.OpenUniStream(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a unidirectional stream: %v", err)
	}
}

// Sections 3.3 and 3.4: either end opens streams; who opens one makes calls there,
// and the other end replies. What goes the wrong way is discarded, and the
// stream stays usable.
func TestRPCDraftR9R10R11Directions(t *testing.T) {
	const callback = 0x40000000
	answered := make(chan []byte, 10)
	s := newRPCSite(t, inProcessConfig{}, func(w io.Writer, msg []byte) {
		if word(msg, 1) == 1 {
			answered <- msg
			return
		}
		w.Write(append(rpcCall(500+word(msg, 0), callback, 1, 1, 0, []byte("call")), rpcReply(word(msg, 0), nil)...))
	})
	c := s.dial(func(cfg *quic.Config) { cfg.MaxStreamsBidi = 10 })
	ours := s.open(c)
	s.send(ours, rpcReply(1, nil)) // to nobody
	s.send(ours, rpcCall(2, nfs.ProgNFS, 4, 1, 0, nil))
	s.expect("the reply, and no call on the client's stream", ours, rpcReply(2, nil))
	theirs, err := c.AcceptStream(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	_ = theirs.SetDeadline(time.Now().Add(30 * time.Second))
	s.expect("the call on the gateway's stream", theirs, rpcCall(502, callback, 1, 1, 0, []byte("call")))
	s.send(theirs, rpcCall(502, nfs.ProgNFS, 4, 1, 0, nil)) // the responder's calls are discarded
	s.send(theirs, rpcReply(502, []byte("done")))
	if msg := receive(t, answered); !bytes.Equal(msg, rpcReply(502, []byte("done"))[4:]) {
		t.Errorf("the server got % x", msg)
	}
	s.send(ours, rpcCall(3, nfs.ProgNFS, 4, 1, 0, nil))
	s.expect("another reply", ours, rpcReply(3, nil))
	s.expect("another call, on the same stream", theirs, rpcCall(503, callback, 1, 1, 0, []byte("call")))

	// A client that takes no streams: the server is told that nobody answers.
	c = s.dial(nil)
	ours = s.open(c)
	s.send(ours, rpcCall(4, nfs.ProgNFS, 4, 1, 0, nil))
	s.expect("the reply", ours, rpcReply(4, nil))
	const progUnavail = 1
	if msg := receive(t, answered); !bytes.Equal(msg, words(504, 1, 0, 0, 0, progUnavail)) {
		t.Errorf("the server got % x", msg)
	}
}

func receive(t *testing.T, c <-chan []byte) []byte {
	t.Helper()
	select {
	case msg := <-c:
		return msg
	case <-time.After(30 * time.Second):
		t.Fatal("nothing came")
		return nil
	}
}

// Section 3.4: a reply is on the stream of its call, and transactions are told
// apart by stream and XID.
func TestRPCDraftR12Streams(t *testing.T) {
	s := newRPCSite(t, inProcessConfig{}, echoArgs)
	c := s.dial(nil)
	var streams []*quic.Stream
	for i := range 10 {
		st := s.open(c)
		s.send(st, rpcCall(5, nfs.ProgNFS, 3, 1, 0, fmt.Appendf(nil, "stream %d", i)))
		streams = append(streams, st)
	}
	for i := len(streams) - 1; i >= 0; i-- {
		msg, err := readRPC(streams[i])
		if err != nil || word(msg, 0) != 5 || !bytes.HasSuffix(msg, fmt.Appendf(nil, "stream %d", i)) {
			t.Errorf("stream %d: % x, %v", i, msg, err)
		}
	}
}

// Section 3.4: messages on a stream are not interleaved; records are those of RFC
// 5531, of any number of fragments, wherever QUIC's frames begin and end.
func TestRPCDraftR13R14R15Records(t *testing.T) {
	big := func(xid uint32) []byte { return bytes.Repeat([]byte{byte(xid), 1, 2, 3}, 256<<10) }
	s := newRPCSite(t, inProcessConfig{}, func(w io.Writer, msg []byte) {
		switch word(msg, 5) {
		case 6: // READ: 1 MiB
			w.Write(rpcReply(word(msg, 0), big(word(msg, 0))))
		default:
			echoArgs(w, msg)
		}
	})
	c := s.dial(nil)
	st := s.open(c)
	go func() {
		for xid := range uint32(20) {
			st.Write(rpcCall(xid, nfs.ProgNFS, 3, 6, 0, nil))
			st.Write(rpcCall(1000+xid, nfs.ProgPortmap, 2, 0, 0, nil)) // answered by the gateway, in between
		}
	}()
	for range 40 {
		msg, err := readRPC(st)
		if err != nil {
			t.Fatal(err)
		}
		if xid := word(msg, 0); xid < 1000 && !bytes.Equal(msg[24:], big(xid)) || xid >= 1000 && len(msg) != 24 {
			t.Fatalf("reply %d of %d octets is damaged", xid, len(msg))
		}
	}
	// Fragments of one octet, in packets of three octets: marks are torn apart.
	call := rpcCall(7, nfs.ProgNFS, 3, 1, 0, []byte("arguments"))
	var small []byte
	for i, b := range call[4:] {
		mark := words(1)
		if i == len(call)-5 {
			mark[0] = 0x80
		}
		small = append(append(small, mark...), b)
	}
	for piece := range slices.Chunk(small, 3) {
		s.send(st, piece)
		if err := st.Flush(s.ctx); err != nil {
			t.Fatal(err)
		}
	}
	if msg, err := readRPC(st); err != nil || word(msg, 0) != 7 || !bytes.HasSuffix(msg, []byte("arguments")) {
		t.Errorf("%x, %v", msg, err)
	}
	// One message that is too large, in one fragment or in several.
	for _, send := range [][]byte{words(1<<31 | 1<<30), append(append(words(60), make([]byte, 60)...), words(0x7fffffff)...)} {
		st := s.open(c)
		if len(send) > 4 {
			copy(send[4:], call[4:64])
		}
		s.send(st, send)
		s.reset("an oversize message", st, nfs.CodeProtocolViolation)
	}
}

// Section 3.1.1.2: a stream for each call is as good as one for all.
func TestRPCDraftR16StreamPerCall(t *testing.T) {
	s := newRPCSite(t, inProcessConfig{}, echoArgs)
	c := s.dial(nil)
	for range 300 { // more than may be open at a time
		st := s.open(c)
		s.null("a stream of its own", st)
		_ = st.CloseWrite()
		if _, err := io.ReadAll(st); err != nil {
			t.Fatal(err)
		}
		_ = st.Close()
	}
}

// Section 3.3: the end of a stream is the end of its calls, and of nothing else.
func TestRPCDraftR18StreamEnds(t *testing.T) {
	release := make(chan struct{})
	s := newRPCSite(t, inProcessConfig{}, func(w io.Writer, msg []byte) {
		if word(msg, 5) == 7 {
			<-release
		}
		echoArgs(w, msg)
	})
	defer close(release)
	c := s.dial(nil)
	a, b := s.open(c), s.open(c)
	s.null("the other stream", b)
	s.send(a, rpcCall(1, nfs.ProgNFS, 3, 7, 0, nil))
	for word(receive(t, s.server.calls), 5) != 7 {
	}
	a.CancelRead(nfs.CodeNoError)
	a.CancelWrite(nfs.CodeNoError)
	s.null("the other stream", b)
	again := s.open(c)
	s.send(again, rpcCall(1, nfs.ProgNFS, 3, 1, 0, nil)) // the client's to send again
	if msg, err := readRPC(again); err != nil || word(msg, 0) != 1 {
		t.Errorf("%x, %v", msg, err)
	}
}

// Section 3.5: the code that a client sees for each cause. That of a call that gets
// no reply is in package nfs, TestTimeouts: it takes the gateway half a minute.
func TestRPCDraftR19Codes(t *testing.T) {
	t.Run("none", func(t *testing.T) { // the server hangs up, and owes nothing
		s := newRPCSite(t, inProcessConfig{}, func(w io.Writer, msg []byte) {
			echoArgs(w, msg)
			w.(net.Conn).Close()
		})
		st := s.open(s.dial(nil))
		s.null("the first call", st)
		if rest, err := io.ReadAll(st); err != nil || len(rest) > 0 {
			t.Errorf("then % x, %v", rest, err)
		}
	})
	t.Run("protocol violation", func(t *testing.T) {
		s := newRPCSite(t, inProcessConfig{}, echoArgs)
		c := s.dial(nil)
		st := s.open(c)
		s.send(st, rpcRecord(words(1, 2, 3)))
		s.reset("a message that is neither call nor reply", st, nfs.CodeProtocolViolation)
		s.null("the connection", s.open(c))
	})
	t.Run("busy", func(t *testing.T) {
		s := newRPCSite(t, inProcessConfig{limits: "  streams_per_client: 1\n"}, echoArgs)
		c := s.dial(nil)
		first := s.open(c)
		s.null("the first stream", first)
		st := s.open(c)
		_, _ = st.Write(rpcCall(1, nfs.ProgNFS, 3, 0, 0, nil)) // may be refused already
		s.reset("a stream too many", st, nfs.CodeServerBusy)
		s.null("the first stream", first)
	})
	t.Run("unspecified", func(t *testing.T) { // the server hangs up, and owes a reply
		s := newRPCSite(t, inProcessConfig{}, nil)
		st := s.open(s.dial(nil))
		s.send(st, rpcCall(1, nfs.ProgNFS, 3, 1, 0, nil))
		s.reset("a call without reply", st, nfs.CodeUnspecifiedError)
	})
}

// Section 7.1: netid quic names the gateway's address in the portmapper's answers.
func TestRPCDraftR20Netid(t *testing.T) {
	s := newRPCSite(t, inProcessConfig{}, echoArgs)
	st := s.open(s.dial(nil))
	text := func(v string) []byte {
		b := append(words(uint32(len(v))), v...)
		return append(b, make([]byte, (4-len(v)%4)%4)...)
	}
	uaddr := fmt.Sprintf("127.0.0.1.%d.%d", s.addr.Port()>>8, s.addr.Port()&255)
	for netid, want := range map[string]string{"quic": uaddr, "quic6": "", "udp": ""} {
		args := append(words(nfs.ProgNFS, 3), bytes.Join([][]byte{text(netid), text(""), text("")}, nil)...)
		s.send(st, rpcCall(1, nfs.ProgPortmap, 4, 3, nfs.AuthSys, args))
		s.expect("GETADDR of "+netid, st, rpcReply(1, text(want)))
	}
	s.send(st, rpcCall(2, nfs.ProgPortmap, 2, 3, nfs.AuthSys, words(nfs.ProgNFS, 3, 6, 0)))
	s.expect("GETPORT", st, rpcReply(2, words(uint32(s.addr.Port()))))
	s.send(st, rpcCall(3, nfs.ProgPortmap, 3, 4, nfs.AuthSys, nil))
	msg, err := readRPC(st)
	if err != nil || !bytes.Contains(msg, text("quic")) || !bytes.Contains(msg, text(uaddr)) {
		t.Errorf("DUMP: % x, %v", msg, err)
	}
}

// Section 3.2: no port of its own, but the one that the program has anyway, over UDP.
func TestRPCDraftR21Port(t *testing.T) {
	s := newRPCSite(t, inProcessConfig{listen: "127.20.49.1:2049"}, echoArgs)
	st := s.open(s.dial(nil))
	s.null("port 2049", st)
	s.send(st, rpcCall(2, nfs.ProgPortmap, 2, 3, nfs.AuthSys, words(nfs.ProgNFS, 3, 6, 0)))
	s.expect("GETPORT", st, rpcReply(2, words(2049)))
}

// Section 4: streams of one connection may have different flavors.
func TestRPCDraftR22Flavors(t *testing.T) {
	s := newRPCSite(t, inProcessConfig{nfs: "      rpcsec_gss: pass\n"}, echoArgs)
	c := s.dial(nil)
	sys, gss := s.open(c), s.open(c)
	// Credential and verifier of RPCSEC_GSS are signed: not an octet of them changes.
	auth := append(append(words(6, 8), "creds..."...), append(words(6, 4), "mic."...)...)
	call := rpcRecord(append(words(1, 0, 2, nfs.ProgNFS, 4, 1), append(auth, "wrapped"...)...))
	for range 3 {
		s.send(gss, call)
		s.send(sys, rpcCall(1, nfs.ProgNFS, 4, 1, nfs.AuthSys, []byte("open")))
		s.expect("RPCSEC_GSS", gss, rpcReply(1, append(auth, "wrapped"...)))
		msg, err := readRPC(sys)
		if err != nil || !bytes.HasSuffix(msg, append(words(4711, 4712, 0, 0, 0), "open"...)) {
			t.Errorf("AUTH_SYS: % x, %v", msg, err)
		}
	}
}

// Sections 4 and 6: tls-exporter (RFC 9266), the same at both ends and another for
// each connection.
func TestRPCDraftR23ChannelBinding(t *testing.T) {
	var log syncBuffer
	s := newRPCSite(t, inProcessConfig{log: &log}, echoArgs)
	a, b := s.dial(nil), s.dial(nil)
	if x, y := a.TLS().Exporter, b.TLS().Exporter; len(x) != 32 || len(y) != 32 || bytes.Equal(x, y) {
		t.Errorf("%x and %x", x, y)
	}
	if strings.Contains(log.String(), fmt.Sprintf("%x", a.TLS().Exporter)) {
		t.Error("the log has it")
	}
}
