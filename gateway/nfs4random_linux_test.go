package gateway_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/quic-fsgw/quic-fsgw/nfs"
	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
)

// twoWays is nfs-ganesha, reached directly and through a gateway. The direct
// client is the user that the gateway makes of the relayed one, who claims to be root.
func twoWays(t *testing.T) (server *ganeshatest.Server, site *rpcSite, direct net.Conn) {
	t.Helper()
	server = ganeshatest.Start(t)
	_, mount, _ := strings.Cut(server.Mount, ":")
	site = &rpcSite{t: t, ctx: t.Context()}
	site.inProcess = newInProcessConfig(t, inProcessConfig{backends: fmt.Sprintf("%q", server.NFS), mount: mount})
	closeGateway(t, site.Gateway)
	direct, err := net.Dial("tcp", server.NFS)
	if err != nil {
		t.Fatal(err)
	}
	_ = direct.SetDeadline(time.Now().Add(time.Minute))
	t.Cleanup(func() { direct.Close() })
	return server, site, direct
}

// fsx makes random calls of NFSv4.1 on a file, and on names beside it.
type fsx struct {
	*session41
	conn  io.ReadWriter
	dir   []nfsv4.NfsArgop4 // to the folder
	file  []nfsv4.NfsArgop4 // to the file
	state nfsv4.Stateid4
}

var mode644 = nfsv4.Fattr4{Attrmask: []uint32{0, 1 << 1}, AttrVals: words(0o644)}

func lookup41(name string) nfsv4.NfsArgop4 {
	return &nfsv4.NfsArgop4_OP_LOOKUP{Oplookup: nfsv4.Lookup4args{Objname: name}}
}

func newFSX(s *session41, conn io.ReadWriter, dir string) *fsx {
	s.t.Helper()
	s.begin(conn, dir)
	root := []nfsv4.NfsArgop4{&nfsv4.NfsArgop4_OP_PUTROOTFH{}, lookup41(ganeshatest.Pseudo[1:])}
	x := &fsx{session41: s, conn: conn, dir: append(root[:2:2], lookup41(dir))}
	mkdir := &nfsv4.NfsArgop4_OP_CREATE{Opcreate: nfsv4.Create4args{Objtype: &nfsv4.Createtype4_NF4DIR{}, Objname: dir,
		Createattrs: nfsv4.Fattr4{Attrmask: []uint32{0, 1 << 1}, AttrVals: words(0o755)}}}
	s.sequenced("CREATE", conn, append(root[:2:2], mkdir)...)
	open := &nfsv4.NfsArgop4_OP_OPEN{Opopen: nfsv4.Open4args{
		ShareAccess: 3, Owner: nfsv4.StateOwner4{Clientid: s.clientID, Owner: []byte("fsx")},
		Openhow: &nfsv4.Openflag4_OPEN4_CREATE{How: &nfsv4.Createhow4_UNCHECKED4{Createattrs: mode644}},
		Claim:   &nfsv4.OpenClaim4_CLAIM_NULL{File: "f"},
	}}
	res := s.sequenced("OPEN", conn, append(x.dir[:3:3], open)...)
	ok, is := res.Resarray[4].(*nfsv4.NfsResop4_OP_OPEN).Opopen.(*nfsv4.Open4res_NFS4_OK)
	if !is {
		s.t.Fatalf("OPEN: %v", res.Status)
	}
	x.state, x.file = ok.Resok4.Stateid, append(x.dir[:3:3], lookup41("f"))
	return x
}

// step makes one call, chosen by r, and tells what came of it.
func (x *fsx) step(r *rand.Rand) string {
	off, data := uint64(r.IntN(256<<10)), make([]byte, 1+r.IntN(60<<10))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	a, b := fmt.Sprintf("n%d", r.IntN(8)), fmt.Sprintf("n%d", r.IntN(8))
	attrs := &nfsv4.NfsArgop4_OP_GETATTR{Opgetattr: nfsv4.Getattr4args{ // size, mode, links, owner, group
		AttrRequest: []uint32{1 << 4, 1<<1 | 1<<3 | 1<<4 | 1<<5}}}
	at, ops := x.file, []nfsv4.NfsArgop4(nil)
	switch r.IntN(10) {
	case 0, 1, 2:
		ops = append(ops, &nfsv4.NfsArgop4_OP_WRITE{Opwrite: nfsv4.Write4args{Stateid: x.state, Offset: off, Stable: nfsv4.StableHow4(r.IntN(3)), Data: data}})
	case 3, 4:
		ops = append(ops, &nfsv4.NfsArgop4_OP_READ{Opread: nfsv4.Read4args{Stateid: x.state, Offset: off, Count: uint32(len(data))}})
	case 5:
		ops = append(ops, &nfsv4.NfsArgop4_OP_SETATTR{Opsetattr: nfsv4.Setattr4args{Stateid: x.state,
			ObjAttributes: nfsv4.Fattr4{Attrmask: []uint32{1 << 4}, AttrVals: append(words(0), words(uint32(off))...)}}})
	case 6:
		at, ops = x.dir, append(ops, &nfsv4.NfsArgop4_OP_CREATE{Opcreate: nfsv4.Create4args{Objtype: &nfsv4.Createtype4_NF4DIR{}, Objname: a, Createattrs: mode644}})
	case 7:
		at, ops = x.dir, append(ops, &nfsv4.NfsArgop4_OP_REMOVE{Opremove: nfsv4.Remove4args{Target: a}})
	case 8:
		at, ops = x.dir, append(ops, &nfsv4.NfsArgop4_OP_SAVEFH{}, &nfsv4.NfsArgop4_OP_RENAME{Oprename: nfsv4.Rename4args{Oldname: a, Newname: b}})
	default:
		at, ops = x.dir, append(ops, lookup41(a))
	}
	ops = append(append(at[:len(at):len(at)], ops...), attrs)
	return outcome41(x.attempt(x.conn, ops...))
}

// outcome41 is a result without what differs from place to place.
func outcome41(res *nfsv4.Compound4res) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v after %d", res.Status, len(res.Resarray))
	for _, op := range res.Resarray {
		switch op := op.(type) {
		case *nfsv4.NfsResop4_OP_READ:
			if ok, is := op.Opread.(*nfsv4.Read4res_NFS4_OK); is {
				fmt.Fprintf(&b, " READ %d %v %x", len(ok.Resok4.Data), ok.Resok4.Eof, sha256.Sum256(ok.Resok4.Data))
			}
		case *nfsv4.NfsResop4_OP_WRITE:
			if ok, is := op.Opwrite.(*nfsv4.Write4res_NFS4_OK); is {
				fmt.Fprintf(&b, " WRITE %d %v", ok.Resok4.Count, ok.Resok4.Committed)
			}
		case *nfsv4.NfsResop4_OP_GETATTR:
			if ok, is := op.Opgetattr.(*nfsv4.Getattr4res_NFS4_OK); is {
				fmt.Fprintf(&b, " GETATTR %x", ok.Resok4.ObjAttributes.AttrVals)
			}
		}
	}
	return b.String()
}

// The same random calls of NFSv4.1, directly and through a gateway, in two folders:
// every answer is the same, and so are the files on the disk, and whose they are.
func TestNFS4RandomCalls(t *testing.T) {
	server, site, tcp := twoWays(t)
	direct := newFSX(&session41{rpcSite: site, uid: 4711, gid: 4712}, tcp, "direct")
	relayed := newFSX(&session41{rpcSite: site}, site.open(site.dial(nil)), "relayed")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	one, two := rand.New(rand.NewPCG(seed, 4)), rand.New(rand.NewPCG(seed, 4))
	seen := map[string]bool{}
	for i := range 1500 {
		a, b := direct.step(one), relayed.step(two)
		if a != b {
			t.Fatalf("call %d: direct %q, relayed %q", i, a, b)
		}
		status, _, _ := strings.Cut(a, " ")
		seen[status] = true
	}
	if len(seen) < 3 {
		t.Errorf("too few kinds of outcomes: %v", seen)
	}
	var sums [2][32]byte
	for i, dir := range []string{"direct", "relayed"} {
		name := filepath.Join(server.Dir, dir, "f")
		data, err := os.ReadFile(name)
		if err != nil || len(data) == 0 {
			t.Fatalf("%s: %d octets, %v", name, len(data), err)
		}
		sums[i] = sha256.Sum256(data)
		fi, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if st := fi.Sys().(*syscall.Stat_t); st.Uid != 4711 || st.Gid != 4712 {
			t.Errorf("%s belongs to %d:%d", dir, st.Uid, st.Gid)
		}
	}
	if sums[0] != sums[1] {
		t.Error("the files differ")
	}
}

// Calls with headers that no client of good will sends: what the gateway lets
// through gets the server's own answer, octet by octet, and what it refuses
// itself the server would not have carried out either.
func TestNFSHostileHeaders(t *testing.T) {
	_, site, tcp := twoWays(t)
	st := site.open(site.dial(nil))
	sys := func(body []byte) []byte { return append(words(nfs.AuthSys, uint32(len(body))), body...) }
	user, none := sys(words(1, 0, 4711, 4712, 0)), words(0, 0)
	call := func(rpc, program, version, procedure uint32, auth, args []byte) []byte {
		msg := append(words(7, 0, rpc, program, version, procedure), auth...)
		return rpcRecord(append(append(msg, none...), args...))
	}
	ask := func(rw io.ReadWriter, record []byte) []byte {
		t.Helper()
		site.send(rw, record)
		msg, err := readRPC(rw)
		if err != nil {
			t.Fatal(err)
		}
		return msg
	}
	gids := func(n uint32) []byte { return append(words(1, 0, 4711, 4712, n), make([]byte, 4*n)...) }
	for _, tt := range []struct {
		name   string
		record []byte
		same   bool // the answer is the server's
	}{
		{"NULL", call(2, nfs.ProgNFS, 3, 0, user, nil), true},
		{"NULL with arguments", call(2, nfs.ProgNFS, 4, 0, user, []byte("more")), true},
		{"unknown procedure of NFSv3", call(2, nfs.ProgNFS, 3, 99, user, nil), true},
		{"GETATTR of nothing", call(2, nfs.ProgNFS, 3, 1, user, words(0)), true},
		{"GETATTR of a handle too long", call(2, nfs.ProgNFS, 3, 1, user, append(words(64), bytes.Repeat([]byte{255}, 64)...)), true},
		{"LOOKUP cut off", call(2, nfs.ProgNFS, 3, 3, user, words(4, 1)), true},
		{"COMPOUND of minor version 9", call(2, nfs.ProgNFS, 4, 1, user, words(0, 9, 0)), true},
		{"COMPOUND with an unknown operation", call(2, nfs.ProgNFS, 4, 1, user, words(0, 1, 1, 10044)), true},
		{"NFS version 2", call(2, nfs.ProgNFS, 2, 0, user, nil), true},
		{"NFS version 9", call(2, nfs.ProgNFS, 9, 0, user, nil), true},
		{"unknown program", call(2, 12345, 1, 0, user, nil), true},
		{"17 groups", call(2, nfs.ProgNFS, 3, 1, sys(gids(17)), words(0)), true},
		{"credential longer than it says", call(2, nfs.ProgNFS, 3, 1, sys(append(gids(0), 1, 2, 3, 4)), words(0)), false},
		{"flavor 77", call(2, nfs.ProgNFS, 3, 1, words(77, 0), words(0)), true},
		{"RPC version 3", call(3, nfs.ProgNFS, 3, 0, user, nil), false},
	} {
		direct, err := net.Dial("tcp", tcp.RemoteAddr().String()) // the server hangs up on some
		if err != nil {
			t.Fatal(err)
		}
		_ = direct.SetDeadline(time.Now().Add(20 * time.Second))
		relayed := ask(st, tt.record)
		site.send(direct, tt.record)
		msg, err := readRPC(direct)
		direct.Close()
		if tt.same && (err != nil || !bytes.Equal(msg, relayed)) {
			t.Errorf("%s: direct % x (%v), relayed % x", tt.name, msg, err, relayed)
		}
		if !tt.same {
			if word(relayed, 2) != 1 { // MSG_DENIED
				t.Errorf("%s: relayed % x", tt.name, relayed)
			}
			t.Logf("%s: direct % x (%v), relayed % x", tt.name, msg, err, relayed)
		}
	}
	site.null("afterwards", st)
}
