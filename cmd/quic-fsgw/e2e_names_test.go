//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/gateway/reason"
	"github.com/quic-fsgw/quic-fsgw/quic"
)

// Server names and ClientHellos as no client of good will sends them, against a
// route that wants a certificate and stands beside weaker ones.

const (
	strictName = "secret.corp.test"
	openName   = "open.corp.test"
)

// nameSite has a strict route, a wildcard over it that anybody may use, and one
// more strict route for all of another suffix.
type nameSite struct {
	*gatewayProcess
	strict, open *countingBackend
	audit        string // file
	client       peer   // without a certificate
	allowed      peer
}

func startNames(t *testing.T) *nameSite {
	s := &nameSite{strict: startCounting(t), open: startCounting(t), audit: filepath.Join(t.TempDir(), "audit")}
	a := newAuthority(t)
	a.client("laptop")
	smbRoute := func(name, match, access, backend string) string {
		return fmt.Sprintf("  - {name: %s, match: {alpn: smb, server_name: %q}, access: %s, smb: {backends: [%q], min_dialect: \"2.1\", probe: {interval: 0s}}}\n",
			name, match, access, backend)
	}
	s.gatewayProcess = startGateway(t, gatewaySetup{
		Authority: a, Names: []string{strictName, `"*.corp.test"`, `"*.vault.test"`}, CertNames: []string{strictName, "*.corp.test", "*.vault.test"},
		Tlshd: fmt.Sprintf("  client_ca: [%s]\n", a.CA),
		Log:   fmt.Sprintf(", audit: %q", s.audit),
		Rest: "access: {staff: {client_certificate: required, allow: [{any: true}]}}\nlimits: {failure_delay: 0s}\nroutes:\n" +
			smbRoute("strict", strictName, "staff", s.strict.Addr) +
			smbRoute("vault", "*.vault.test", "staff", s.strict.Addr) +
			smbRoute("open", "*.corp.test", "public", s.open.Addr),
	})
	s.client = peer{ServerName: strictName}
	s.allowed = s.client.with(a, "laptop")
	return s
}

// refusedWith dials and returns the code and the log line of the refusal.
func (s *nameSite) refusedWith(t *testing.T, p peer) (code uint64, l logLine) {
	t.Helper()
	mark := s.Log.mark()
	conn, err := p.dial(t, s.Addr)
	if err == nil {
		err = ended(t, conn)
	}
	code, app, remote := remoteCode(err)
	if !remote || app {
		t.Errorf("the client got %v, want a refusal", err)
	}
	l = s.Log.wait(t, mark, "the refusal", func(l logLine) bool { return l.Msg == "handshake failed" || l.Msg == "connection refused" })
	return code, l
}

// mangled is a client whose ClientHello is another than its TLS believes.
type mangled struct {
	quic.Handshaker
	edit func(hello []byte) []byte
}

func (m mangled) Handshake(req *quic.HandshakeRequest, sink func(quic.HandshakeEvent)) quic.Handshake {
	first := true
	return m.Handshaker.Handshake(req, func(e quic.HandshakeEvent) {
		if e.Kind == quic.EventCrypto && e.Level == quic.LevelInitial && first {
			first, e.Data = false, m.edit(e.Data)
		}
		sink(e)
	})
}

func (p peer) mangle(edit func([]byte) []byte) peer {
	p.QUIC = func(c *quic.Config) { c.Handshaker = mangled{c.Handshaker, edit} }
	return p
}

// Hostile inputs, row 12: no spelling of a strict route's name, and no name
// that is missing or unknown, leads to a weaker route.
func TestHostile12ServerNames(t *testing.T) {
	s := startNames(t)
	named := func(name string) peer { p := s.client; p.ServerName = name; return p }
	// The name in the ClientHello becomes another of the same length.
	spelled := func(name string) peer {
		if len(name) != len(strictName) {
			t.Fatalf("%q has %d octets", name, len(name))
		}
		return s.client.mangle(func(b []byte) []byte { return bytes.Replace(b, []byte(strictName), []byte(name), 1) })
	}
	malformed := reason.Reason{Name: reason.TLSError.Name, Code: 0x132} // decode_error
	for _, tt := range []struct {
		name string
		peer peer
		want reason.Reason
	}{
		{"as it stands in the file", named(strictName), reason.NoClientCertificate},
		{"odd case", named("SeCrEt.CORP.tESt"), reason.NoClientCertificate},
		{"upper case", named(strings.ToUpper(strictName)), reason.NoClientCertificate},
		{"below a strict wildcard", named("X.Vault.Test"), reason.NoClientCertificate},
		{"trailing dot", spelled("secret.corp.tes."), malformed},
		{"leading dot", spelled(".ecret.corp.test"), reason.UnrecognizedName},
		{"two dots", spelled("secret..orp.test"), reason.UnrecognizedName},
		{"a wildcard as a name", named("*.corp.test"), reason.UnrecognizedName},
		{"a wildcard within", spelled("sec*et.corp.test"), reason.UnrecognizedName},
		{"NUL", spelled("secret\x00corp.test"), malformed},
		{"NUL before a suffix that is known", spelled("secret.cor\x00.test"), malformed},
		{"newline", spelled("secret.corp.tes\n"), malformed},
		{"space", spelled("secret.corp test"), malformed},
		{"not ASCII", spelled("secret.corp.te\xc5\xbf"), malformed},
		{"slash", spelled("secret/corp.test"), reason.UnrecognizedName},
		{"absent", named(""), reason.UnrecognizedName},
		{"an address", named("127.0.0.1"), reason.UnrecognizedName},
		{"unknown", named("nobody.test"), reason.UnrecognizedName},
		{"the suffix alone", named("corp.test"), reason.UnrecognizedName},
		{"a suffix without its dot", named("xcorp.test"), reason.UnrecognizedName},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, l := s.refusedWith(t, tt.peer)
			if l.str("reason") != tt.want.Name || code != tt.want.Code {
				t.Errorf("code 0x%x, %s; want %s, code 0x%x", code, l.Raw, tt.want.Name, tt.want.Code)
			}
		})
	}
	if n := s.strict.count.Load() + s.open.count.Load(); n != 0 {
		t.Fatalf("backends were dialed %d times", n)
	}
	// The control: the strict route takes its client under any spelling, and the
	// weaker one takes what is its own.
	s.allowed.ServerName = "SECRET.corp.TEST"
	for _, tt := range []struct {
		peer    peer
		backend *countingBackend
	}{{s.allowed, s.strict}, {named(openName), s.open}} {
		if _, err := stream(t, tt.peer.mustDial(t, s.Addr)).Write(negotiate()); err != nil {
			t.Fatal(err)
		}
		(<-tt.backend.conns).Close()
	}
}

// extension is one of a ClientHello, header included.
func extension(typ uint16, data ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, typ)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
}

func nameExtension(name string) []byte {
	n := len(name)
	return extension(0, append([]byte{0, byte(n + 3), 0, 0, byte(n)}, name...)...)
}

// withExtensions edits the list of extensions of a ClientHello; the lengths
// around it become right again.
func withExtensions(edit func(list []byte) []byte) func([]byte) []byte {
	return func(b []byte) []byte {
		at := 4 + 2 + 32
		at += 1 + int(b[at])                           // legacy session ID
		at += 2 + int(binary.BigEndian.Uint16(b[at:])) // cipher suites
		at += 1 + int(b[at])                           // compression
		list := edit(slices.Clone(b[at+2:]))           //
		out := append(slices.Clone(b[:at]), 0, 0)      //
		binary.BigEndian.PutUint16(out[at:], uint16(len(list)))
		out = append(out, list...)
		out[1], out[2], out[3] = byte((len(out)-4)>>16), byte((len(out)-4)>>8), byte(len(out)-4)
		return out
	}
}

// Hostile inputs, row 67: ClientHellos that two parsers may read differently
// are refused before anything is routed by them. (That both read the same in
// all others is quic/wire's TestClientHelloAgreesWithTLS; that the route is
// checked again by what TLS says, TestHostile67RouteIsCheckedAgain.)
func TestHostile67ClientHellos(t *testing.T) {
	s := startNames(t)
	open := s.client
	open.ServerName = openName
	before := func(x ...byte) func([]byte) []byte { return func(list []byte) []byte { return append(x, list...) } }
	after := func(x ...byte) func([]byte) []byte { return func(list []byte) []byte { return append(list, x...) } }
	replaceName := func(x []byte) func([]byte) []byte {
		return func(list []byte) []byte { return bytes.Replace(list, nameExtension(openName), x, 1) }
	}
	psk := extension(41, slices.Concat([]byte{0, 7, 0, 1, 'i', 0, 0, 0, 0, 0, 33, 32}, make([]byte, 32))...)
	two := append([]byte{0, 0, byte(len(openName))}, openName...)
	two = append(append(two, 0, 0, byte(len(strictName))), strictName...)
	for _, tt := range []struct {
		name string
		edit func([]byte) []byte
	}{
		{"another name before", withExtensions(before(nameExtension(strictName)...))},
		{"another name behind", withExtensions(after(nameExtension(strictName)...))},
		{"two names in the list", withExtensions(replaceName(extension(0, append([]byte{0, byte(len(two))}, two...)...)))},
		{"ALPN twice", withExtensions(before(extension(16, 0, 7, 6, 's', 'u', 'n', 'r', 'p', 'c')...))},
		{"ALPN with an empty name", withExtensions(before(extension(16, 0, 1, 0)...))},
		{"GREASE twice", withExtensions(before(append(extension(0x0a0a), extension(0x0a0a)...)...))},
		{"padding longer than the list", withExtensions(after(0, 21, 1, 0, 0))},
		{"an extension cut short", withExtensions(after(0x77, 0x77, 0))},
		{"name longer than its extension", withExtensions(replaceName(extension(0, append([]byte{0, 40, 0, 0, 37}, openName...)...)))},
		{"name of another type", withExtensions(replaceName(extension(0, append([]byte{0, byte(len(openName) + 3), 1, 0, byte(len(openName))}, openName...)...)))},
		{"pre_shared_key not last", withExtensions(before(psk...))},
		{"octets behind the message", func(b []byte) []byte { return append(b, 0, 0, 0, 0) }},
		{"another message first", func(b []byte) []byte { return append([]byte{8, 0, 0, 0}, b...) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			changed := false
			_, l := s.refusedWith(t, open.mangle(func(b []byte) []byte {
				out := tt.edit(b)
				changed = !bytes.Equal(out, b)
				return out
			}))
			if !changed {
				t.Error("the ClientHello is as it was")
			}
			if l.Msg != "handshake failed" || l.str("route") != "none" {
				t.Errorf("%s, want no route", l.Raw)
			}
		})
	}
	if n := s.strict.count.Load() + s.open.count.Load(); n != 0 {
		t.Errorf("backends were dialed %d times", n)
	}
}

// Hostile inputs, row 11: what a client calls itself and its protocols reaches
// no log as it is, neither the program's nor the audit's.
func TestHostile11NamesAreEscaped(t *testing.T) {
	s := startNames(t)
	const forged = "\n{\"level\":\"ERROR\",\"msg\":\"forged\"}\x1b[31m\x00"
	bad := s.client
	bad.ALPN = []string{"smb" + forged}
	if _, l := s.refusedWith(t, bad); l.str("reason") != reason.NoApplicationProtocol.Name || strings.ContainsAny(l.str("alpn"), "\n\x1b\x00") {
		t.Errorf("%q", l.Raw)
	}
	bad = s.client
	bad.ALPN = []string{"h3" + forged, "smb"}
	if _, l := s.refusedWith(t, bad); l.str("reason") != reason.NoClientCertificate.Name {
		t.Errorf("%q", l.Raw)
	}
	bad = s.client
	bad.ServerName = "x<script>.corp.test"
	if _, l := s.refusedWith(t, bad); l.str("reason") != reason.UnrecognizedName.Name {
		t.Errorf("%q", l.Raw)
	}
	for _, l := range s.Log.since(0) {
		if l.Msg == "forged" || strings.ContainsAny(l.Raw, "\x1b\x00") || l.Fields == nil {
			t.Errorf("a line that a client has written: %q", l.Raw)
		}
	}
	b, err := os.ReadFile(s.audit)
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for text := range strings.Lines(string(b)) {
		var l map[string]any
		if err := json.Unmarshal([]byte(text), &l); err != nil || l["msg"] != "handshake" || strings.ContainsAny(text, "\x1b\x00") || strings.ContainsAny(fmt.Sprint(l["alpn"], l["server_name"]), "\n\x1b\x00") {
			t.Errorf("a line of the audit log that a client has written: %q, %v", text, err)
		}
		lines++
	}
	if lines != 3 {
		t.Errorf("%d lines in the audit log for three handshakes", lines)
	}
}
