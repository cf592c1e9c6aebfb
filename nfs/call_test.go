package nfs

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func header(b []byte) []byte { return b[markLen:] }

func TestParseCall(t *testing.T) {
	b := append(header(callRecord(0xaabbccdd, ProgNFS, 3, 7, "")), "arguments"...)
	c, need, err := ParseCall(b)
	if err != nil || need != 0 {
		t.Fatalf("ParseCall: need %d, %v", need, err)
	}
	if c.XID != 0xaabbccdd || c.Program != ProgNFS || c.Version != 3 || c.Procedure != 7 ||
		c.Cred.Flavor != AuthSys || c.Verf.Flavor != AuthNone || string(b[c.Len:]) != "arguments" {
		t.Errorf("ParseCall: %+v", c)
	}
	sys, err := ParseAuthSys(c.Cred.Body)
	want := AuthSysCred{Stamp: 7, Machine: "evil", Groups: []uint32{0, 1, 2, 3, 4, 5}}
	if err != nil || !reflect.DeepEqual(sys, want) {
		t.Errorf("ParseAuthSys: %+v, %v", sys, err)
	}
	// Every truncation asks for more, and for no more than there is.
	for n := range c.Len {
		_, need, err := ParseCall(b[:n])
		if err != nil || need <= n || need > c.Len {
			t.Errorf("ParseCall of %d bytes: need %d, %v", n, need, err)
		}
	}
}

func TestParseCallErrors(t *testing.T) {
	mutate := func(at int, v ...byte) []byte {
		b := bytes.Clone(header(callRecord(1, ProgNFS, 3, 1, "")))
		copy(b[at:], v)
		return b
	}
	odd := appendCallHeader(nil, &Call{}, append(appendOpaque(be32(nil, 9), "abc"), 0, 0, 0, 0, 0, 0, 0, 0))
	odd[24+8+3] = 1
	for _, tt := range []struct {
		name string
		b    []byte
		want error
	}{
		{"reply", mutate(4, 0, 0, 0, 1), ErrWrongDirection},
		{"type 2", mutate(4, 0, 0, 0, 2), ErrMessageType},
		{"SMB header", []byte("\xfeSMB\x40\x00\x00\x00"), ErrMessageType},
		{"RPC version 3", mutate(8, 0, 0, 0, 3), ErrRPCVersion},
		{"credential of 401 bytes", mutate(28, 0, 0, 1, 0x91), ErrBadCredential},
		{"credential of 4 GiB", mutate(28, 0xff, 0xff, 0xff, 0xff), ErrBadCredential},
		{"verifier of 401 bytes", mutate(24+8+48+4, 0, 0, 1, 0x91), ErrBadVerifier},
		{"padding not zero", odd, ErrBadCredential},
	} {
		if _, _, err := ParseCall(tt.b); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestParseAuthSysStrict(t *testing.T) {
	good := (&AuthSysCred{Machine: "abcde", UID: 1, GID: 2, Groups: []uint32{3}}).append(nil)
	if _, err := ParseAuthSys(good); err != nil {
		t.Fatal(err)
	}
	for n := range good {
		if _, err := ParseAuthSys(good[:n]); err == nil {
			t.Errorf("truncation to %d of %d bytes accepted", n, len(good))
		}
	}
	many := &AuthSysCred{Groups: make([]uint32, 17)}
	long := &AuthSysCred{Machine: strings.Repeat("m", 256)}
	pad := bytes.Clone(good)
	pad[4+4+5] = 1
	for name, b := range map[string][]byte{
		"byte too many": append(bytes.Clone(good), 0),
		"17 groups":     many.append(nil),
		"long machine":  long.append(nil),
		"padding":       pad,
	} {
		if _, err := ParseAuthSys(b); err == nil {
			t.Errorf("%s accepted", name)
		}
	}
}

func FuzzParseCall(f *testing.F) {
	f.Add(header(callRecord(1, ProgNFS, 3, 1, "abcd")))
	f.Add(header(appendCall(nil, 2, ProgMount, 3, 1, anonymous, nil)))
	f.Add([]byte("\xfeSMB\x40\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, need, err := ParseCall(b)
		switch {
		case err != nil:
			if need != 0 {
				t.Fatalf("error %v and need %d", err, need)
			}
			return
		case need != 0:
			if need <= len(b) || need > maxCallHeader {
				t.Fatalf("need %d of %d", need, len(b))
			}
			return
		}
		auth := appendAuth(appendAuth(nil, c.Cred), c.Verf)
		if again := appendCallHeader(nil, &c, auth); !bytes.Equal(again, b[:c.Len]) {
			t.Fatalf("% x becomes % x", b[:c.Len], again)
		}
	})
}

func FuzzParseAuthSys(f *testing.F) {
	f.Add((&AuthSysCred{Machine: "abcde", UID: 1, GID: 2, Groups: []uint32{3}}).append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAuthSys(b)
		if err == nil && !bytes.Equal(a.append(nil), b) {
			t.Fatalf("% x becomes % x", b, a.append(nil))
		}
	})
}
