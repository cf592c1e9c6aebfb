package gateway_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/quic-fsgw/quic-fsgw/nfs"
	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
	"github.com/quic-fsgw/quic-fsgw/quic"
)

// A client of NFSv4.1 that knows its own session, on streams of a connection.
type session41 struct {
	*rpcSite
	xid, seq uint32
	clientID uint64
	id       [16]byte
}

// compound makes a call on a stream and returns the results.
func (s *session41) compound(st *quic.Stream, ops ...nfsv4.NfsArgop4) *nfsv4.Compound4res {
	s.t.Helper()
	s.xid++
	var args bytes.Buffer
	c := nfsv4.Compound4args{Minorversion: 1, Argarray: ops}
	if _, err := c.WriteTo(&args); err != nil {
		s.t.Fatal(err)
	}
	s.send(st, rpcCall(s.xid, nfs.ProgNFS, 4, 1, nfs.AuthSys, args.Bytes()))
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
func (s *session41) sequenced(what string, st *quic.Stream, ops ...nfsv4.NfsArgop4) *nfsv4.Compound4res {
	s.t.Helper()
	s.seq++
	seq := &nfsv4.NfsArgop4_OP_SEQUENCE{Opsequence: nfsv4.Sequence4args{SaSessionid: s.id, SaSequenceid: s.seq}}
	res := s.compound(st, append([]nfsv4.NfsArgop4{seq}, ops...)...)
	if res.Status != nfsv4.NFS4_OK || len(res.Resarray) != 1+len(ops) {
		s.t.Errorf("%s: status %v after %d operations", what, res.Status, len(res.Resarray))
	}
	return res
}

// begin makes a client and a session on a stream.
func (s *session41) begin(st *quic.Stream) {
	s.t.Helper()
	res := s.compound(st, &nfsv4.NfsArgop4_OP_EXCHANGE_ID{OpexchangeId: nfsv4.ExchangeId4args{
		EiaClientowner:  nfsv4.ClientOwner4{CoVerifier: [8]byte{1}, CoOwnerid: []byte(s.t.Name())},
		EiaStateProtect: &nfsv4.StateProtect4A_SP4_NONE{},
	}})
	id := res.Resarray[0].(*nfsv4.NfsResop4_OP_EXCHANGE_ID).OpexchangeId.(*nfsv4.ExchangeId4res_NFS4_OK).EirResok4
	s.clientID = id.EirClientid
	attrs := nfsv4.ChannelAttrs4{CaMaxrequestsize: 64 << 10, CaMaxresponsesize: 64 << 10, CaMaxresponsesizeCached: 4 << 10, CaMaxoperations: 8, CaMaxrequests: 4}
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
	s.begin(a)
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
