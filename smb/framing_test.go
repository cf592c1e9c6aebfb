package smb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

// message returns a framed message: its first octets are head, then zeros up to n.
func message(head string, n int) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(n))
	b = append(b, head...)
	return append(b, make([]byte, max(0, n-len(head)))...)
}

// plain returns a framed message of SMB2 requests or responses, each a header
// with a body, compounded.
func plain(elems ...[]byte) []byte {
	var msg []byte
	for i, e := range elems {
		e = bytes.Clone(e)
		if i < len(elems)-1 {
			e = append(e, make([]byte, (8-len(e)%8)%8)...)
			binary.LittleEndian.PutUint32(e[20:], uint32(len(e)))
		}
		msg = append(msg, e...)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(msg))), msg...)
}

// element returns an SMB2 header and body.
func element(h header, body ...byte) []byte {
	le := binary.LittleEndian
	b := make([]byte, headerLen, headerLen+len(body))
	copy(b, "\xfeSMB")
	le.PutUint16(b[4:], headerLen)
	le.PutUint32(b[8:], h.status)
	le.PutUint16(b[12:], h.command)
	le.PutUint32(b[16:], h.flags)
	le.PutUint64(b[24:], h.messageID)
	le.PutUint32(b[36:], h.treeID)
	le.PutUint64(b[40:], h.sessionID)
	return append(b, body...)
}

// cut feeds b in pieces of n octets and returns how many octets went on.
func cut(in *Inspector, b []byte, n int) (passed int, err error) {
	for len(b) > 0 {
		k := min(n, len(b))
		ok, err := in.Inspect(b[:k])
		passed += ok
		if err != nil {
			return passed, err
		}
		b = b[k:]
	}
	return passed, in.Finish()
}

// HOSTILE 53: every way a frame can be wrong, however it is cut.
func TestInspectorRefuses(t *testing.T) {
	good := message("\xfeSMB", 100)
	for _, c := range []struct {
		name, want string
		bad        []byte
	}{
		{"length 0", "length 0", []byte{0, 0, 0, 0}},
		{"too long", "over the limit", message("\xfeSMB", 1<<20+1)},
		{"largest", "over the limit", []byte{0, 0xff, 0xff, 0xff, 0xfe, 'S', 'M', 'B'}},
		{"netbios keepalive", "first octet 0x85", []byte{0x85, 0, 0, 0}},
		{"record mark of ALPN sunrpc", "first octet 0x80", []byte{0x80, 0, 0, 40, 1, 2, 3, 4}},
		{"TLS ClientHello", "first octet 0x16", []byte{0x16, 3, 1, 2, 0}},
		{"SMB1", "SMB1", message("\xffSMB", 100)},
		{"other id", "protocol id", message("\x00SMB", 100)},
		{"other letters", "protocol id", message("\xfeSMC", 100)},
		{"tiny", "less than any", message("", 8)},
		{"short plain", "less than the 64", message("\xfeSMB", 63)},
		{"short encrypted", "less than the 52", message("\xfdSMB", 51)},
		{"short compressed", "less than any", message("\xfcSMB", 15)},
	} {
		for _, chunk := range []int{1, 3, 4, 5, 7, 64, 1 << 22} {
			in := NewInspector(ToBackend, 1<<20)
			passed, err := cut(in, append(bytes.Clone(good), c.bad...), chunk)
			var fe *FrameError
			if !errors.As(err, &fe) || !strings.Contains(err.Error(), c.want) || fe.Offset != int64(len(good)) {
				t.Errorf("%s, by %d: %v", c.name, chunk, err)
			}
			if passed < len(good) && chunk <= 64 || passed >= len(good)+preambleLen {
				t.Errorf("%s, by %d: %d octets passed", c.name, chunk, passed)
			}
			if _, again := in.Inspect(good); again != err {
				t.Errorf("%s: the error is not final: %v", c.name, again)
			}
		}
	}
}

func TestInspectorAccepts(t *testing.T) {
	var all []byte
	for _, m := range [][]byte{message("\xfeSMB", 64), message("\xfdSMB", 52), message("\xfcSMB", 16), message("\xfeSMB", 70000), message("\xfdSMB", 64)} {
		all = append(all, m...)
	}
	for _, chunk := range []int{1, 2, 8, 1000, len(all)} {
		in := NewInspector(ToClient, 0)
		passed, err := cut(in, all, chunk)
		if err != nil || passed != len(all) || in.Messages() != 5 || in.Midway() {
			t.Errorf("by %d: %d of %d, %d messages, %v", chunk, passed, len(all), in.Messages(), err)
		}
	}
}

// Half-open states: at each position the inspector knows where it is.
func TestInspectorMidway(t *testing.T) {
	m := message("\xfeSMB", 80)
	in := NewInspector(ToBackend, 0)
	for i := range m {
		if got, want := in.Midway(), i > 0; got != want {
			t.Errorf("at %d: midway %t", i, got)
		}
		if err := in.Finish(); (err != nil) != (i > 0) {
			t.Errorf("at %d: end of stream gives %v", i, err)
		}
		if i >= preambleLen && in.Left() != len(m)-i {
			t.Errorf("at %d: %d left", i, in.Left())
		}
		if _, err := in.Inspect(m[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if in.Midway() || in.Left() != 0 || in.Finish() != nil {
		t.Error("not at a boundary after the last octet")
	}
}

// HOSTILE 53 and 56: nothing is allocated for what a header promises.
func TestInspectorAllocatesNothing(t *testing.T) {
	huge := []byte{0, 0xff, 0xff, 0xff, 0xfc, 'S', 'M', 'B', 0xff, 0xff, 0xff, 0xff}
	in := NewInspector(ToBackend, 0)
	if n := testing.AllocsPerRun(100, func() {
		*in = Inspector{dir: ToBackend, max: MaxMessage}
		if _, err := in.Inspect(huge); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A walker sees every element of a chain, with as much as it wants, and only that.
func TestWalker(t *testing.T) {
	msg := plain(element(header{command: 3, messageID: 1}, []byte("0123456789")...), element(header{command: 5, messageID: 2}), element(header{command: 6, messageID: 3}, 1, 2, 3))
	all := append(bytes.Clone(msg), message("\xfdSMB", 90)...)
	all = append(all, msg...)
	for chunk := 1; chunk < 140; chunk++ {
		var got []byte
		in := NewInspector(ToBackend, 0)
		in.walk = &walker{
			want: func(h header, _ []byte) int { return headerLen + 2*int(h.messageID) },
			see: func(h header, b []byte) error {
				got = append(got, byte(h.command), byte(len(b)-headerLen))
				return nil
			},
		}
		if _, err := cut(in, all, chunk); err != nil {
			t.Fatal(err)
		}
		if want := []byte{3, 2, 5, 0, 6, 3, 3, 2, 5, 0, 6, 3}; !bytes.Equal(got, want) {
			t.Fatalf("by %d: %v, want %v", chunk, got, want)
		}
	}
}

func TestWalkerRefusesChains(t *testing.T) {
	for _, next := range []uint32{1, 8, 60, 65, 72, 96, 1 << 31, 0xfffffff8} {
		msg := plain(element(header{}, make([]byte, 64)...))
		binary.LittleEndian.PutUint32(msg[frameHeaderLen+20:], next)
		in := NewInspector(ToClient, 0)
		in.walk = (&clientConn{}).walker(0)
		if _, err := in.Inspect(msg); err == nil {
			t.Errorf("next command at %d of 128 was accepted", next)
		}
	}
}

// FuzzInspector checks that the verdict does not depend on how the stream is
// cut, and that nothing after a breach goes on.
func FuzzInspector(f *testing.F) {
	tree := element(header{command: cmdTreeConnect, messageID: 4}, treeConnectBody(`\\s\IPC$`)...)
	for _, seed := range [][]byte{
		message("\xfeSMB", 64), message("\xfdSMB", 60), message("\xfcSMB", 20), message("\xffSMB", 64), {0, 0, 0, 0}, {0x85, 0, 0, 0},
		plain(tree, element(header{command: cmdCreate, flags: flagRelated})), append(message("\xfeSMB", 64), 0, 0, 1),
		negotiateRequest(ProbeConfig{Host: "files.example.com", OfferTransportSecurity: true}),
	} {
		f.Add(seed, uint8(1))
		f.Add(seed, uint8(9))
	}
	f.Fuzz(func(t *testing.T, b []byte, chunk uint8) {
		verdict := func(n int) (int, string, int64) {
			o := Options{Shares: []string{"a"}}
			in := NewInspector(ToBackend, 1<<16)
			in.walk = newPolicy(&o).requests()
			passed, err := cut(in, b, n)
			if passed > len(b) {
				t.Fatalf("%d octets of %d passed", passed, len(b))
			}
			if err != nil {
				return passed, err.Error(), in.Messages()
			}
			return passed, "", in.Messages()
		}
		whole, err1, m1 := verdict(len(b) + 1)
		parts, err2, m2 := verdict(int(chunk) + 1)
		if err1 != err2 && !strings.Contains(err1+err2, "protocol id") || m1 != m2 {
			t.Fatalf("whole: %d %q %d messages; by %d: %d %q %d messages", whole, err1, m1, int(chunk)+1, parts, err2, m2)
		}
		if err1 == "" && whole != len(b) {
			t.Fatalf("%d of %d passed without an error", whole, len(b))
		}
	})
}
