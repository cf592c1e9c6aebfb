package smb

import (
	"encoding/binary"
	"testing"
)

// negotiateResponse builds the framed answer of a server.
func negotiateResponse(d Dialect, status uint32, contexts map[uint16][]byte) []byte {
	le := binary.LittleEndian
	body := make([]byte, 64)
	le.PutUint16(body, 65)
	le.PutUint16(body[2:], 1)
	le.PutUint16(body[4:], uint16(d))
	le.PutUint32(body[28:], 8<<20)
	if d == Dialect311 {
		le.PutUint16(body[6:], uint16(len(contexts)))
		le.PutUint32(body[60:], headerLen+64)
	}
	for kind, data := range contexts {
		for len(body)%8 != 0 {
			body = append(body, 0)
		}
		body = le.AppendUint16(body, kind)
		body = le.AppendUint16(body, uint16(len(data)))
		body = append(body, 0, 0, 0, 0)
		body = append(body, data...)
	}
	return plain(element(header{command: cmdNegotiate, flags: flagResponse, status: status}, body...))
}

func TestNegotiateRequest(t *testing.T) {
	msg := negotiateRequest(ProbeConfig{Host: "files.example.com", OfferTransportSecurity: true})
	in := NewInspector(ToBackend, 0)
	if n, err := in.Inspect(msg); err != nil || n != len(msg) || in.Midway() {
		t.Fatalf("our own request: %d of %d, %v", n, len(msg), err)
	}
	r, err := ParseNegotiateRequest(msg[frameHeaderLen:])
	if err != nil || r.Highest() != Dialect311 || len(r.Dialects) != 5 || r.NetName != "files.example.com" || !r.TransportSecurity || r.SigningRequired {
		t.Errorf("%+v, %v", r, err)
	}
	// Each truncation fails or, where only contexts are gone, is noticed.
	for n := range msg[frameHeaderLen:] {
		if r, err := ParseNegotiateRequest(msg[frameHeaderLen : frameHeaderLen+n]); err == nil {
			t.Errorf("%d octets were taken for a request: %+v", n, r)
		}
	}
}

func TestNegotiateResponse(t *testing.T) {
	msg := negotiateResponse(Dialect311, 0, map[uint16][]byte{ctxEncryption: {1, 0, 2, 0}, ctxTransport: {1, 0, 0, 0}})
	r, err := ParseNegotiateResponse(msg[frameHeaderLen:])
	if err != nil || r.Dialect != Dialect311 || r.Cipher != 2 || !r.TransportSecurity || r.MaxTransact != 8<<20 {
		t.Errorf("%+v, %v", r, err)
	}
	for n := range msg[frameHeaderLen:] {
		if r, err := ParseNegotiateResponse(msg[frameHeaderLen : frameHeaderLen+n]); err == nil {
			t.Errorf("%d octets were taken for a response: %+v", n, r)
		}
	}
	if r, err := ParseNegotiateResponse(negotiateResponse(0, 0xC00000BB, nil)[frameHeaderLen:]); err != nil || r.Status != 0xC00000BB {
		t.Errorf("a refusal: %+v, %v", r, err)
	}
}

func TestDialects(t *testing.T) {
	for d, s := range dialectNames {
		if got, err := ParseDialect(s); err != nil || got != d || d.String() != s {
			t.Errorf("%s: %s, %v", s, got, err)
		}
	}
	if d, err := ParseDialect("1.0"); err == nil {
		t.Errorf("1.0 is %s", d)
	}
}

func FuzzNegotiate(f *testing.F) {
	f.Add(negotiateRequest(ProbeConfig{Host: "a", OfferTransportSecurity: true})[frameHeaderLen:])
	f.Add(negotiateResponse(Dialect311, 0, map[uint16][]byte{ctxTransport: {1, 0, 0, 0}, ctxSigning: {1, 0, 2, 0}})[frameHeaderLen:])
	f.Add(negotiateResponse(Dialect210, 0, nil)[frameHeaderLen:])
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseNegotiateRequest(b); err == nil && len(r.Dialects) == 0 {
			t.Error("a request without dialects")
		}
		ParseNegotiateResponse(b)
	})
}
