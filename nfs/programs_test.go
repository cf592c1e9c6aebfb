package nfs

import (
	"bytes"
	"encoding/binary"
	"net"
	"testing"
)

// TestSidePrograms: each program goes to its port of the backend, those on NFS's
// port go there, and what no port is given for does not exist.
func TestSidePrograms(t *testing.T) {
	checkNoLeak(t)
	named := func(name string) *rpcServer {
		return startServer(t, func(c net.Conn) {
			for {
				msg, err := readMessage(c, 1<<20)
				if err != nil {
					return
				}
				c.Write(AppendSuccess(nil, binary.BigEndian.Uint32(msg), []byte(name)))
			}
		})
	}
	ports := Ports{NLM: named("nlm.").port(), NSM: named("nsm.").port(), Rquota: named("quot").port(), Mount: named("mnt.").port()}
	nfs := named("nfs.")
	for _, tt := range []struct {
		program, version uint32
		args             string
		ports            Ports
		want             string // "": PROG_UNAVAIL
	}{
		{ProgNFS, 3, "", ports, "nfs."}, {ProgNFS, 4, "", ports, "nfs."}, {ProgACL, 3, "", ports, "nfs."},
		{ProgNLM, 4, "", ports, "nlm."}, {ProgNLM, 1, "", ports, "nlm."}, {ProgNSM, 1, "", ports, "nsm."},
		{ProgRquota, 1, "", ports, "quot"}, {ProgRquota, 2, "", ports, "quot"},
		{ProgMount, 3, "\x00\x00\x00\x01/\x00\x00\x00", ports, "mnt."},
		{ProgACL, 3, "", Ports{}, "nfs."}, {ProgNLM, 4, "", Ports{}, ""}, {ProgNSM, 1, "", Ports{}, ""}, {ProgRquota, 1, "", Ports{}, ""},
		{100026, 1, "", ports, ""}, {0x40000000, 1, "", ports, ""},
	} {
		g := startGateway(t, newTestService(t, Config{Backends: []string{nfs.addr}, Ports: tt.ports}), testIdentity(t))
		c := g.dial(t)
		mustWrite(t, c, callRecord(8, tt.program, tt.version, 1, tt.args))
		want := AppendAcceptError(nil, 8, AcceptProgUnavail)
		if tt.want != "" {
			want = AppendSuccess(nil, 8, []byte(tt.want))
		}
		if got := mustRead(t, c); !bytes.Equal(got, want[markLen:]) {
			t.Errorf("program %d version %d with ports %+v: % x, want %q", tt.program, tt.version, tt.ports, got, tt.want)
		}
		c.Close()
		g.outcome(t)
	}
}
