package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/quic-fsgw/quic-fsgw/nfs"
	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// A client of NFSv4.1 that knows its own session, on streams of a connection.
type session41 struct {
	*rpcSite
	xid, seq uint32
	clientID uint64
	id       [16]byte
	uid, gid uint32 // that it claims
}

// compound makes a call on a stream and returns the results.
func (s *session41) compound(st io.ReadWriter, ops ...nfsv4.NfsArgop4) *nfsv4.Compound4res {
	s.t.Helper()
	s.xid++
	var args bytes.Buffer
	c := nfsv4.Compound4args{Minorversion: 1, Argarray: ops}
	if _, err := c.WriteTo(&args); err != nil {
		s.t.Fatal(err)
	}
	header := words(s.xid, 0, 2, nfs.ProgNFS, 4, 1, nfs.AuthSys, 20, 1, 0, s.uid, s.gid, 0, 0, 0)
	s.send(st, rpcRecord(append(header, args.Bytes()...)))
	msg, err := readRPC(st)
	if err != nil || len(msg) < 24 || word(msg, 0) != s.xid || word(msg, 2) != 0 || word(msg, 5) != 0 {
		s.t.Fatalf("call %d of %T: % .60x, %v", s.xid, ops[0], msg, err)
	}
	res := new(nfsv4.Compound4res)
	if _, err := res.ReadFrom(bytes.NewReader(msg[24:])); err != nil {
		s.t.Fatal(err)
	}
	return res
}

// sequenced makes a call in the session, in its first slot.
func (s *session41) sequenced(what string, st io.ReadWriter, ops ...nfsv4.NfsArgop4) *nfsv4.Compound4res {
	s.t.Helper()
	res := s.attempt(st, ops...)
	if res.Status != nfsv4.NFS4_OK || len(res.Resarray) != 1+len(ops) {
		s.t.Errorf("%s: status %v after %d operations", what, res.Status, len(res.Resarray))
	}
	return res
}

// attempt makes a call in the session that may fail.
func (s *session41) attempt(st io.ReadWriter, ops ...nfsv4.NfsArgop4) *nfsv4.Compound4res {
	s.t.Helper()
	s.seq++
	seq := &nfsv4.NfsArgop4_OP_SEQUENCE{Opsequence: nfsv4.Sequence4args{SaSessionid: s.id, SaSequenceid: s.seq}}
	return s.compound(st, append([]nfsv4.NfsArgop4{seq}, ops...)...)
}

// begin makes a client and a session on a stream.
func (s *session41) begin(st io.ReadWriter, owner string) {
	s.t.Helper()
	res := s.compound(st, &nfsv4.NfsArgop4_OP_EXCHANGE_ID{OpexchangeId: nfsv4.ExchangeId4args{
		EiaClientowner:  nfsv4.ClientOwner4{CoVerifier: [8]byte{1}, CoOwnerid: []byte(owner)},
		EiaStateProtect: &nfsv4.StateProtect4A_SP4_NONE{},
	}})
	id := res.Resarray[0].(*nfsv4.NfsResop4_OP_EXCHANGE_ID).OpexchangeId.(*nfsv4.ExchangeId4res_NFS4_OK).EirResok4
	s.clientID = id.EirClientid
	attrs := nfsv4.ChannelAttrs4{CaMaxrequestsize: 128 << 10, CaMaxresponsesize: 128 << 10, CaMaxresponsesizeCached: 4 << 10, CaMaxoperations: 8, CaMaxrequests: 4}
	res = s.compound(st, &nfsv4.NfsArgop4_OP_CREATE_SESSION{OpcreateSession: nfsv4.CreateSession4args{
		CsaClientid: id.EirClientid, CsaSequence: id.EirSequenceid, CsaForeChanAttrs: attrs, CsaBackChanAttrs: attrs,
		CsaCbProgram: 0x40000000, CsaSecParms: []nfsv4.CallbackSecParms4{&nfsv4.CallbackSecParms4_AUTH_NONE{}},
	}})
	s.id = res.Resarray[0].(*nfsv4.NfsResop4_OP_CREATE_SESSION).OpcreateSession.(*nfsv4.CreateSession4res_NFS4_OK).CsrResok4.CsrSessionid
	s.sequenced("RECLAIM_COMPLETE", st, &nfsv4.NfsArgop4_OP_RECLAIM_COMPLETE{})
}

func (s *session41) bind(st *quic.Stream) {
	s.t.Helper()
	res := s.compound(st, &nfsv4.NfsArgop4_OP_BIND_CONN_TO_SESSION{OpbindConnToSession: nfsv4.BindConnToSession4args{BctsaSessid: s.id, BctsaDir: nfsv4.CDFC4_FORE}})
	if res.Status != nfsv4.NFS4_OK {
		s.t.Errorf("BIND_CONN_TO_SESSION: %v", res.Status)
	}
}

// Section 3.3: what NFSv4.1 calls a connection is a stream. A session is used on
// two streams, and outlives each of them; the server is a real one.
func TestRPCDraftR17Sessions(t *testing.T) {
	server := ganeshatest.Start(t)
	_, mount, _ := strings.Cut(server.Mount, ":")
	site := &rpcSite{t: t, ctx: t.Context()}
	site.inProcess = newInProcessConfig(t, inProcessConfig{backends: fmt.Sprintf("%q", server.NFS), mount: mount})
	closeGateway(t, site.Gateway)
	s := &session41{rpcSite: site}
	c := s.dial(nil)
	a, b := s.open(c), s.open(c)
	s.begin(a, t.Name())
	s.bind(b)
	walk := []nfsv4.NfsArgop4{&nfsv4.NfsArgop4_OP_PUTROOTFH{}, &nfsv4.NfsArgop4_OP_LOOKUP{Oplookup: nfsv4.Lookup4args{Objname: ganeshatest.Pseudo[1:]}}, &nfsv4.NfsArgop4_OP_GETFH{}}
	var first []byte
	for i, st := range []*quic.Stream{a, b, a, b} {
		res := s.sequenced(fmt.Sprint("call ", i), st, walk...)
		fh := res.Resarray[3].(*nfsv4.NfsResop4_OP_GETFH).Opgetfh.(*nfsv4.Getfh4res_NFS4_OK).Resok4.Object
		if first == nil {
			first = fh
		}
		if !bytes.Equal(fh, first) {
			t.Errorf("handle %x, before it was %x", fh, first)
		}
	}
	if conns := established(t, server.NFS); conns < 2 {
		t.Errorf("the server has %d connections for two streams", conns)
	}
	_ = a.Close()
	s.sequenced("after the end of the first stream", b, walk...)
	b.CancelRead(nfs.CodeNoError)
	b.CancelWrite(nfs.CodeNoError)
	again := s.open(c)
	s.bind(again)
	s.sequenced("on a stream opened since", again, walk...)
	res := s.compound(again, &nfsv4.NfsArgop4_OP_DESTROY_SESSION{OpdestroySession: nfsv4.DestroySession4args{DsaSessionid: s.id}})
	if res.Status != nfsv4.NFS4_OK {
		t.Errorf("DESTROY_SESSION: %v", res.Status)
	}
}

// established counts the TCP connections to an address of loopback.
func established(t *testing.T, addr string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	var n uint16
	if _, err := fmt.Sscan(port, &n); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), fmt.Sprintf(" 0100007F:%04X 01 ", n)) // the other end's address, ESTABLISHED
}

// Section 3.1.1.2: a server may deny streams. The client goes on with those that
// it has: where the limit of QUIC is one, and where a second is reset at its
// first use. copyBothWays asks for two.
func TestRPCDraftR16DeniedStreams(t *testing.T) {
	server := ganeshatest.Start(t)
	_, mount, _ := strings.Cut(server.Mount, ":")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	g := newInProcessConfig(t, inProcessConfig{backends: fmt.Sprintf("%q", server.NFS), mount: mount, limits: "  streams_per_client: 1\n"})
	closeGateway(t, g.Gateway)
	if err := g.copyBothWays(ctx, "f", 1<<20); err != nil {
		t.Errorf("the second stream is reset: %v", err)
	}
	var port uint16
	if _, err := fmt.Sscan(mount, &port); err != nil {
		t.Fatal(err)
	}
	service, err := nfs.NewService(nfs.Config{Backends: []string{server.NFS}, Ports: nfs.Ports{Mount: port}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	one := &inProcess{client: g.client, addr: oneStreamServer(t, g, service)}
	if err := one.copyBothWays(ctx, "g", 1<<20); err != nil {
		t.Errorf("MAX_STREAMS is 1: %v", err)
	}
}

// oneStreamServer serves RPC over QUIC, one stream at a time on each connection.
func oneStreamServer(t *testing.T, g *inProcess, service *nfs.Service) netip.AddrPort {
	t.Helper()
	id, err := nfs.NewIdentity(4711, 4712, nil, nfs.RootRefused)
	if err != nil {
		t.Fatal(err)
	}
	sock, err := udp.ListenOne(netip.MustParseAddrPort("127.0.0.1:0"), udp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	e := quic.NewEndpoint([]udp.PacketConn{sock}, &quic.Config{Handshaker: quic.TLS(g.server), NextProtos: []string{"sunrpc"}, MaxStreamsBidi: 1, MaxStreamsUni: -1})
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := e.Accept(ctx)
			if err != nil {
				return
			}
			serving.Go(func() {
				relay := service.Relay(nfs.Client{Identity: id})
				for {
					s, err := c.AcceptStream(ctx)
					if err != nil {
						return
					}
					relay.ServeStream(ctx, s)
				}
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		cctx, done := context.WithTimeout(context.Background(), 2*time.Second)
		defer done()
		_ = e.Close(cctx)
		serving.Wait()
	})
	return sock.LocalAddr()
}
