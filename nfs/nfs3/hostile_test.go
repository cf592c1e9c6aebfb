package nfs3

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv3"
)

// script plays a server on a pipe: it reads calls and answers each with what
// answer returns for it, raw octets with record marks and all.
func script(t *testing.T, cfg Config, answer func(n int, call []byte) []byte) *Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		for n := 0; ; n++ {
			call, err := readCall(theirs)
			if err != nil {
				return
			}
			if b := answer(n, call); b != nil {
				if _, err := theirs.Write(b); err != nil {
					return
				}
			}
		}
	}()
	c, err := NewConn(ours, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func readCall(r io.Reader) ([]byte, error) {
	var mark [4]byte
	if _, err := io.ReadFull(r, mark[:]); err != nil {
		return nil, err
	}
	call := make([]byte, binary.BigEndian.Uint32(mark[:])&^lastMark)
	_, err := io.ReadFull(r, call)
	return call, err
}

func u32(v ...uint32) []byte {
	var b []byte
	for _, v := range v {
		b = appendUint32(b, v)
	}
	return b
}

// frame puts body into fragments of at most size octets.
func frame(body []byte, size int) []byte {
	var b []byte
	for {
		n := min(size, len(body))
		mark := uint32(n)
		if n == len(body) {
			mark |= lastMark
		}
		b = append(appendUint32(b, mark), body[:n]...)
		if body = body[n:]; mark&lastMark != 0 {
			return b
		}
	}
}

// success is a reply with results to call.
func success(call []byte, results ...[]byte) []byte {
	return append(append(bytes.Clone(call[:4]), u32(1, 0, 0, 0, 0)...), bytes.Join(results, nil)...)
}

func readResult(count uint32, eof uint32, length uint32, data string) []byte {
	return append(u32(0, 0, count, eof, length), data...)
}

func TestHostileRead(t *testing.T) {
	whole := func(b []byte) []byte { return frame(b, 1<<30) }
	for name, c := range map[string]struct {
		reply func(call []byte) []byte
		want  error
		dead  bool // the connection ends
	}{
		"more than asked":        {func(c []byte) []byte { return whole(success(c, readResult(24, 1, 24, strings.Repeat("x", 24)))) }, ErrMalformed, false},
		"count unlike length":    {func(c []byte) []byte { return whole(success(c, readResult(4, 1, 8, "12345678"))) }, ErrMalformed, false},
		"length beyond reply":    {func(c []byte) []byte { return whole(success(c, readResult(16, 1, 16, "1234"))) }, ErrMalformed, false},
		"no data, no end":        {func(c []byte) []byte { return whole(success(c, readResult(0, 0, 0, ""))) }, ErrMalformed, false},
		"cut header":             {func(c []byte) []byte { return whole(c[:4]) }, ErrMalformed, true},
		"cut results":            {func(c []byte) []byte { return whole(success(c, u32(0))) }, ErrMalformed, false},
		"huge verifier":          {func(c []byte) []byte { return whole(append(bytes.Clone(c[:4]), u32(1, 0, 0, 1<<30)...)) }, ErrMalformed, false},
		"bad boolean":            {func(c []byte) []byte { return whole(success(c, u32(0, 2, 0, 0, 0))) }, ErrMalformed, false},
		"2 GiB fragment":         {func(c []byte) []byte { return append(u32(0xffffffff), success(c)...) }, ErrMalformed, true},
		"fragments without end":  {func(c []byte) []byte { return append(u32(24), append(success(c), bytes.Repeat(u32(0), 40)...)...) }, ErrMalformed, true},
		"too much in pieces":     {func(c []byte) []byte { return frame(success(c, make([]byte, 4000)), 512) }, ErrMalformed, true},
		"denied":                 {func(c []byte) []byte { return whole(append(bytes.Clone(c[:4]), u32(1, 1, 1, 5)...)) }, fs.ErrPermission, false},
		"unknown procedure":      {func(c []byte) []byte { return whole(append(bytes.Clone(c[:4]), u32(1, 0, 0, 0, 3)...)) }, errors.ErrUnsupported, false},
		"stale":                  {func(c []byte) []byte { return whole(success(c, u32(70, 0))) }, &Error{}, false},
		"unknown status":         {func(c []byte) []byte { return whole(success(c, u32(4711, 0))) }, &Error{}, false},
		"reply status undefined": {func(c []byte) []byte { return whole(append(bytes.Clone(c[:4]), u32(1, 7)...)) }, ErrMalformed, false},
	} {
		t.Run(name, func(t *testing.T) {
			conn := script(t, Config{Timeout: 5 * time.Second}, func(n int, call []byte) []byte {
				if n == 0 {
					return c.reply(call)
				}
				return whole(success(call, readResult(2, 1, 2, "ok\x00\x00")))
			})
			buf := make([]byte, 16)
			n, _, err := conn.Read(t.Context(), "h", 0, buf)
			if e := (*Error)(nil); errors.As(c.want, &e) && errors.As(err, &e) {
				c.want = err
			}
			if n != 0 || !errors.Is(err, c.want) {
				t.Fatalf("%d, %v", n, err)
			}
			n, _, err = conn.Read(t.Context(), "h", 0, buf)
			if c.dead != (err != nil) || !c.dead && string(buf[:n]) != "ok" {
				t.Fatalf("next call: %q, %v", buf[:n], err)
			}
		})
	}
}

// Wrong XIDs, calls instead of replies, and answers given twice are skipped;
// replies may come in any order and any number of fragments.
func TestReplyMatching(t *testing.T) {
	conn := script(t, Config{Timeout: 5 * time.Second}, func(n int, call []byte) []byte {
		good := success(call, readResult(5, 1, 5, "right\x00\x00\x00"))
		wrong := success(u32(binary.BigEndian.Uint32(call)+77), readResult(5, 1, 5, "wrong\x00\x00\x00"))
		backwards := append(bytes.Clone(call[:4]), u32(0, 2, 100003, 3, 0, 0, 0, 0, 0)...)
		return bytes.Join([][]byte{frame(wrong, 3), frame(backwards, 100), frame(good, 1+n), frame(good, 7)}, nil)
	})
	for range 20 {
		buf := make([]byte, 16)
		n, eof, err := conn.Read(t.Context(), "h", 0, buf)
		if err != nil || !eof || string(buf[:n]) != "right" {
			t.Fatalf("%q %v %v", buf[:n], eof, err)
		}
	}
}

func TestHostileWrite(t *testing.T) {
	for name, results := range map[string][]byte{
		"nothing written":   u32(0, 0, 0, 0, 0, 0, 0),
		"more than sent":    u32(0, 0, 0, 99, 0, 0, 0),
		"less firm":         u32(0, 0, 0, 4, 0, 0, 0),
		"unknown stability": u32(0, 0, 0, 4, 9, 0, 0),
		"cut":               u32(0, 0, 0, 4, 2, 0),
	} {
		conn := script(t, Config{Timeout: 5 * time.Second}, func(n int, call []byte) []byte { return frame(success(call, results), 100) })
		if _, _, _, err := conn.Write(t.Context(), "h", 0, []byte("data"), nfsv3.DATA_SYNC); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHostileReaddir(t *testing.T) {
	entry := func(name string, cookie uint64) []byte {
		return appendUint64(appendOpaque(appendUint64(u32(1), 1), name), cookie)
	}
	head := append(u32(0, 0), make([]byte, 8)...)
	for _, results := range [][]byte{
		bytes.Join([][]byte{head, entry("../../etc/passwd", 3), u32(0, 0)}, nil),
		bytes.Join([][]byte{head, entry("a/b", 3), u32(0, 0)}, nil),
		bytes.Join([][]byte{head, entry("", 3), u32(0, 0)}, nil),
		bytes.Join([][]byte{head, entry("nul\x00", 3), u32(0, 0)}, nil),
		bytes.Join([][]byte{head, u32(0, 0)}, nil),                // no entry, no end
		bytes.Join([][]byte{head, entry("x", 0), u32(0, 0)}, nil), // no progress
		bytes.Join([][]byte{head, entry("x", 5)}, nil),            // cut
	} {
		conn := script(t, Config{Timeout: 5 * time.Second}, func(n int, call []byte) []byte { return frame(success(call, results), 100) })
		if page, err := conn.Readdir(t.Context(), "h", 0, [8]byte{}, 1024); !errors.Is(err, ErrMalformed) {
			t.Errorf("%x: %+v, %v", results, page, err)
		}
	}
}

// A server that restarts between WRITE and COMMIT gets the data again.
func TestVerifierChange(t *testing.T) {
	const size = 40 << 10
	stored := make([]byte, size)
	boot, writes := byte(1), 0
	conn := script(t, Config{Timeout: 5 * time.Second}, func(n int, call []byte) []byte {
		d := decoder{b: call[24:]} // behind the procedure number
		d.fixed(16)                // AUTH_NONE twice
		verf := []byte{boot, 0, 0, 0, 0, 0, 0, 0}
		switch binary.BigEndian.Uint32(call[20:]) {
		case procFsinfo:
			return frame(success(call, u32(0, 0, 8192, 8192, 1, 8192, 8192, 1, 8192, 0, 1<<30, 0, 1, 0)), 1<<20)
		case procCreate:
			return frame(success(call, u32(0, 1), appendOpaque(nil, "handle"), u32(0, 0, 0)), 1<<20)
		case procWrite:
			d.handle()
			off, count, stable := d.uint64(), d.uint32(), d.uint32()
			data := d.opaque(size)
			writes++
			if boot == 1 && stable == uint32(nfsv3.UNSTABLE) {
				data = nil // lost with the restart to come
			}
			copy(stored[off:], data)
			return frame(success(call, u32(0, 0, 0, count, stable), verf), 1<<20)
		case procCommit:
			boot++
			return frame(success(call, u32(0, 0, 0), []byte{boot, 0, 0, 0, 0, 0, 0, 0}), 1<<20)
		}
		t.Errorf("unexpected call %x", call[:24])
		return nil
	})
	f, err := NewFS(t.Context(), conn, "/", "root", Options{Window: 2, Retain: 3})
	if err != nil {
		t.Fatal(err)
	}
	w, err := f.Create(t.Context(), "file", 0o644, true)
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(stored, data) || writes <= size/8192 {
		t.Fatalf("stored data differs: %v, after %d writes", !bytes.Equal(stored, data), writes)
	}
}

// Silence, and replies that stop half-way, end by the deadline; a stalled
// call that is cancelled returns at once and its buffer stays alone.
func TestDeadlines(t *testing.T) {
	for name, part := range map[string]func(call []byte) []byte{
		"silent":   func([]byte) []byte { return nil },
		"half way": func(c []byte) []byte { return frame(success(c, readResult(16, 1, 16, "1234567890123456")), 1<<20)[:56] },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn := script(t, Config{Timeout: time.Minute}, func(n int, call []byte) []byte { return part(call) })
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start, buf := time.Now(), make([]byte, 16)
				if _, _, err := conn.Read(ctx, "h", 0, buf); !errors.Is(err, context.DeadlineExceeded) {
					t.Fatalf("cancelled: %v", err)
				}
				if d := time.Since(start); d != time.Second {
					t.Fatalf("cancelled after %v", d)
				}
				if _, _, err := conn.Read(t.Context(), "h", 0, buf); !errors.Is(err, ErrTimeout) {
					t.Fatalf("timed out: %v", err)
				}
				conn.Close()
			})
		})
	}
}

func TestRetryLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		xids := map[string]bool{}
		conn := script(t, Config{}, func(n int, call []byte) []byte {
			xids[string(call[:4])] = true
			if n < 4 {
				return frame(success(call, u32(10008, 0)), 100)
			}
			return frame(success(call, readResult(2, 1, 2, "ok\x00\x00")), 100)
		})
		buf := make([]byte, 8)
		if n, _, err := conn.Read(t.Context(), "h", 0, buf); err != nil || string(buf[:n]) != "ok" || len(xids) != 5 {
			t.Fatalf("%q %v, %d XIDs", buf[:n], err, len(xids))
		}
		conn.Close()
	})
}

// The codec and the one generated from the RFC's description agree.
func TestAgainstGeneratedCodec(t *testing.T) {
	a := Attr{Type: nfsv3.NF3REG, Mode: 0o4755, Nlink: 2, Uid: 3, Gid: 4, Size: 5 << 40, Used: 6, Rdev: nfsv3.Specdata3{Specdata1: 7, Specdata2: 8},
		Fsid: 9, Fileid: 10, Atime: nfsv3.Nfstime3{Seconds: 11, Nseconds: 12}, Mtime: nfsv3.Nfstime3{Seconds: 13}, Ctime: nfsv3.Nfstime3{Seconds: 14}}
	res := &nfsv3.Readdirplus3res_NFS3_OK{Resok: nfsv3.Readdirplus3resok{
		DirAttributes: &nfsv3.PostOpAttr_TRUE{Attributes: a}, Cookieverf: [8]byte{1, 2},
		Reply: nfsv3.Dirlistplus3{Eof: true, Entries: &nfsv3.Entryplus3{Fileid: 1, Name: "first", Cookie: 5,
			NameAttributes: &nfsv3.PostOpAttr_TRUE{Attributes: a}, NameHandle: &nfsv3.PostOpFh3_TRUE{Handle: nfsv3.NfsFh3{Data: []byte("handle")}},
			Nextentry: &nfsv3.Entryplus3{Fileid: 2, Name: "..", Cookie: 6, NameAttributes: &nfsv3.PostOpAttr_FALSE{}, NameHandle: &nfsv3.PostOpFh3_FALSE{}}}},
	}}
	var b bytes.Buffer
	if _, err := res.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	d := decoder{b: b.Bytes()[4:]}
	page := d.dirPage(true)
	if d.end() != nil || len(d.b) != 0 || len(page.Entries) != 1 || !page.EOF || page.Cookie != 6 || *page.Entries[0].Attr != a || page.Entries[0].Handle != "handle" {
		t.Fatalf("%+v %v", page, d.err)
	}
	mode, size, when := uint32(0o640), uint64(77), time.Unix(5, 6)
	own := (&SetAttr{Mode: &mode, Size: &size, Mtime: &when}).append(nil)
	var generated nfsv3.Sattr3
	if n, err := generated.ReadFrom(bytes.NewReader(own)); err != nil || int(n) != len(own) {
		t.Fatalf("%d of %d octets, %v", n, len(own), err)
	}
	b.Reset()
	if _, err := generated.WriteTo(&b); err != nil || !bytes.Equal(b.Bytes(), own) {
		t.Fatalf("%x, %x", own, b.Bytes())
	}
}

// FuzzReply feeds a stream of octets to a connection with one READ and one
// READDIRPLUS under way. Nothing may panic, hang or write beyond the buffer.
func FuzzReply(f *testing.F) {
	call := u32(1)
	f.Add(frame(success(call, readResult(5, 1, 5, "right\x00\x00\x00")), 9))
	f.Add(frame(success(u32(2), u32(0, 0, 0, 0, 1, 0, 1, 0, 1, 0x61000000, 0, 7, 0, 0, 0, 1)), 1<<20))
	f.Add(frame(append(u32(1), u32(1, 1, 0, 2, 2)...), 4))
	f.Add(append(u32(0, 0, 0), frame(success(call, u32(70, 0)), 4)...))
	f.Fuzz(func(t *testing.T, stream []byte) {
		ours, theirs := net.Pipe()
		c, err := NewConn(ours, Config{Timeout: time.Second, MaxReply: 4096})
		if err != nil {
			t.Fatal(err)
		}
		buf := bytes.Repeat([]byte{0xaa}, 64)
		calls := []*pendingCall{{into: buf[:32], limit: 32 + replySlack}, {limit: 4096}}
		c.mu.Lock()
		for i, cl := range calls {
			cl.xid, cl.done = uint32(i+1), make(chan struct{})
			c.pending[cl.xid] = cl
		}
		c.mu.Unlock()
		theirs.Write(stream)
		theirs.Close()
		<-c.readerDone
		for _, cl := range calls {
			<-cl.done
			if len(cl.reply) > cl.limit || cl.n > 32 {
				t.Fatalf("reply of %d octets, %d read", len(cl.reply), cl.n)
			}
			d := decoder{b: cl.reply}
			d.uint32()
			d.dirPage(true)
		}
		if !bytes.Equal(buf[32:], bytes.Repeat([]byte{0xaa}, 32)) {
			t.Fatal("written beyond the buffer")
		}
		c.Close()
	})
}

type pendingCall = call
