package wire

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

// clientHello returns what crypto/tls sends first with config.
func clientHello(tb testing.TB, config *tls.Config, params []byte) []byte {
	tb.Helper()
	config.MinVersion = tls.VersionTLS13
	c := tls.QUICClient(&tls.QUICConfig{TLSConfig: config})
	defer c.Close()
	c.SetTransportParameters(params)
	if err := c.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	var hello []byte
	for {
		switch e := c.NextEvent(); e.Kind {
		case tls.QUICNoEvent:
			return hello
		case tls.QUICWriteData:
			hello = append(hello, e.Data...)
		}
	}
}

// helloSamples are ClientHellos of crypto/tls.
func helloSamples(tb testing.TB) map[string][]byte {
	params := fullParams(false)
	block := params.Append(nil, false)
	return map[string][]byte{
		"default": clientHello(tb, &tls.Config{ServerName: "files.example.com", NextProtos: []string{"smb"}}, block),
		"two protocols": clientHello(tb, &tls.Config{ServerName: "Files.Example.com", NextProtos: []string{"sunrpc", "h3"},
			CurvePreferences: []tls.CurveID{tls.X25519}}, block),
		"no name":   clientHello(tb, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"smb"}, CurvePreferences: []tls.CurveID{tls.CurveP256}}, block),
		"no params": clientHello(tb, &tls.Config{ServerName: "a.b", NextProtos: []string{"smb"}}, []byte{}),
		"address":   clientHello(tb, &tls.Config{ServerName: "192.0.2.1", NextProtos: []string{"smb"}}, block),
	}
}

func TestParseClientHello(t *testing.T) {
	params := fullParams(false)
	block := params.Append(nil, false)
	for name, b := range helloSamples(t) {
		ch, complete, err := ParseClientHello(b)
		if err != nil || !complete {
			t.Fatalf("%s: complete %v, %v", name, complete, err)
		}
		want := ClientHello{ALPN: []string{"smb"}, TransportParams: block}
		switch name {
		case "default":
			want.ServerName, want.HasSNI = "files.example.com", true
			if len(b) < 1500 {
				t.Errorf("%s: %d bytes, expected one that needs two datagrams", name, len(b))
			}
		case "two protocols":
			want.ServerName, want.HasSNI, want.ALPN = "Files.Example.com", true, []string{"sunrpc", "h3"}
			if ch.NormalizedServerName() != "files.example.com" || !ch.HasALPN("h3") || ch.HasALPN("smb") {
				t.Errorf("%s: %q, %q", name, ch.NormalizedServerName(), ch.ALPN)
			}
		case "no params":
			want.ServerName, want.HasSNI, want.TransportParams = "a.b", true, []byte{}
		}
		if ch.ServerName != want.ServerName || ch.HasSNI != want.HasSNI || !slices.Equal(ch.ALPN, want.ALPN) ||
			!bytes.Equal(ch.TransportParams, want.TransportParams) || ch.TransportParams == nil {
			t.Errorf("%s:\n got %+v\nwant %+v", name, ch, want)
		}
		if ch.PreSharedKey || ch.EarlyData || !slices.Equal(ch.SupportedVersions, []uint16{tls.VersionTLS13}) || !slices.Contains(ch.CipherSuites, tls.TLS_AES_128_GCM_SHA256) {
			t.Errorf("%s: %+v", name, ch)
		}
	}
}

// As long as bytes are missing, the parser waits for them and is of no
// opinion, so the order in which packets arrive makes no difference.
func TestParseClientHelloTruncated(t *testing.T) {
	for name, b := range helloSamples(t) {
		for n := range b {
			if _, complete, err := ParseClientHello(b[:n:n]); complete || err != nil {
				t.Fatalf("%s: %d of %d bytes: complete %v, %v", name, n, len(b), complete, err)
			}
		}
		if _, _, err := ParseClientHello(append(b[:len(b):len(b)], 0)); err == nil {
			t.Errorf("%s: a byte behind it is taken", name)
		}
		// With the length adjusted every truncation is malformed.
		for n := 4; n < len(b); n++ {
			short := setHelloLength(bytes.Clone(b[:n]))
			if _, complete, err := ParseClientHello(short); complete || err == nil {
				t.Fatalf("%s: cut to %d of %d bytes: complete %v, %v", name, n, len(b), complete, err)
			}
		}
	}
}

func setHelloLength(b []byte) []byte {
	n := len(b) - 4
	b[1], b[2], b[3] = byte(n>>16), byte(n>>8), byte(n)
	return b
}

// ext is an extension.
func ext(typ uint16, data ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, typ)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}

// hello makes a ClientHello out of extensions.
func hello(extensions ...[]byte) []byte {
	b := []byte{tlsClientHello, 0, 0, 0, 3, 3}
	b = append(b, make([]byte, 32)...)
	b = append(b, 0, 0, 2, 0x13, 0x01, 1, 0)
	all := bytes.Join(extensions, nil)
	b = binary.BigEndian.AppendUint16(b, uint16(len(all)))
	return setHelloLength(append(b, all...))
}

func sni(name string) []byte {
	n := byte(len(name))
	return ext(extServerName, append([]byte{0, n + 3, 0, 0, n}, name...)...)
}

func alpn(names ...string) []byte {
	var list []byte
	for _, n := range names {
		list = append(append(list, byte(len(n))), n...)
	}
	return ext(extALPN, append(binary.BigEndian.AppendUint16(nil, uint16(len(list))), list...)...)
}

// psk offers one identity of one byte with a binder of n bytes.
func psk(n int) []byte {
	b := []byte{0, 7, 0, 1, 'i', 0, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(n+1))
	return ext(extPreSharedKey, append(append(b, byte(n)), make([]byte, n)...)...)
}

func TestParseClientHelloExtensions(t *testing.T) {
	modes, ticket := ext(extPSKModes, 1, 1), ext(extSessionTicket)
	ch, complete, err := ParseClientHello(hello(ext(0x0a0a), sni("x"), ticket, alpn("a", "\x00\n"), ext(extTransportParams),
		ext(extSupportedVersions, 4, 0x1a, 0x1a, 3, 4), modes, ext(extEarlyData), psk(32)))
	if err != nil || !complete {
		t.Fatal(complete, err)
	}
	if ch.ServerName != "x" || !ch.SessionTicket || !ch.PSKModes || !ch.PreSharedKey || !ch.EarlyData || ch.TransportParams == nil ||
		!slices.Equal(ch.ALPN, []string{"a", "\x00\n"}) || !slices.Equal(ch.SupportedVersions, []uint16{0x1a1a, 0x0304}) {
		t.Errorf("%+v", ch)
	}
	ch, complete, err = ParseClientHello(hello())
	if err != nil || !complete || ch.HasSNI || ch.ALPN != nil || ch.TransportParams != nil || ch.PSKModes || ch.SessionTicket {
		t.Errorf("without extensions: %+v, %v, %v", ch, complete, err)
	}
}

func TestParseClientHelloRefused(t *testing.T) {
	modes := ext(extPSKModes, 1, 1)
	edit := func(b []byte, at int, v byte) []byte { b[at] = v; return b }
	for _, c := range []struct {
		name  string
		b     []byte
		alert uint8
	}{
		{"ServerHello", edit(hello(), 0, 2), alertUnexpectedMessage},
		{"70,000 bytes", []byte{1, 1, 0x11, 0x70}, alertIllegalParameter},
		{"TLS 1.1", edit(hello(), 5, 2), alertProtocolVersion},
		{"session ID", setHelloLength(slices.Insert(edit(hello(), 38, 1), 39, 7)), alertIllegalParameter},
		{"odd cipher suites", setHelloLength(slices.Insert(edit(hello(), 40, 3), 41, 7)), alertDecodeError},
		{"compression", edit(hello(), 44, 1), alertIllegalParameter},
		{"no extensions field", setHelloLength(hello()[:45]), alertDecodeError},
		{"a byte behind the extensions", setHelloLength(append(hello(), 0)), alertDecodeError},
		{"extension longer than the list", hello([]byte{0, 0x77, 0, 1}), alertDecodeError},
		{"half an extension", hello([]byte{0, 0x77, 0}), alertDecodeError},
		{"unknown extension twice", hello(ext(0x77), ext(0x78), ext(0x77)), alertIllegalParameter},
		{"name twice", hello(sni("a"), sni("b")), alertIllegalParameter},
		{"same name twice", hello(sni("a"), sni("a")), alertIllegalParameter},
		{"transport parameters twice", hello(ext(extTransportParams), ext(extTransportParams)), alertIllegalParameter},
		{"two names in one list", hello(ext(extServerName, 0, 8, 0, 0, 1, 'a', 0, 0, 1, 'b')), alertDecodeError},
		{"no names", hello(ext(extServerName, 0, 0)), alertDecodeError},
		{"empty name extension", hello(ext(extServerName)), alertDecodeError},
		{"empty name", hello(sni("")), alertIllegalParameter},
		{"name of another type", hello(ext(extServerName, 0, 4, 1, 0, 1, 'a')), alertIllegalParameter},
		{"byte behind the name", hello(ext(extServerName, 0, 4, 0, 0, 1, 'a', 0)), alertDecodeError},
		{"name shorter than its list", hello(ext(extServerName, 0, 5, 0, 0, 1, 'a', 0)), alertDecodeError},
		{"name longer than its list", hello(ext(extServerName, 0, 4, 0, 0, 2, 'a')), alertDecodeError},
		{"name with trailing dot", hello(sni("files.example.com.")), alertIllegalParameter},
		{"name with NUL", hello(sni("files\x00.example")), alertIllegalParameter},
		{"name with newline", hello(sni("a\nb")), alertIllegalParameter},
		{"name with space", hello(sni("a b")), alertIllegalParameter},
		{"name not ASCII", hello(sni("fil\xc3\xa9")), alertIllegalParameter},
		{"name of 256 bytes", hello(ext(extServerName, append([]byte{1, 3, 0, 1, 0}, strings.Repeat("a", 256)...)...)), alertIllegalParameter},
		{"ALPN without names", hello(alpn()), alertDecodeError},
		{"ALPN with an empty name", hello(alpn("smb", "")), alertDecodeError},
		{"ALPN name longer than the list", hello(ext(extALPN, 0, 2, 2, 'a')), alertDecodeError},
		{"ALPN list longer than the extension", hello(ext(extALPN, 0, 3, 1, 'a')), alertDecodeError},
		{"ALPN byte behind the list", hello(ext(extALPN, 0, 2, 1, 'a', 0)), alertDecodeError},
		{"versions empty", hello(ext(extSupportedVersions, 0)), alertDecodeError},
		{"versions odd", hello(ext(extSupportedVersions, 3, 3, 4, 3)), alertDecodeError},
		{"PSK modes empty", hello(ext(extPSKModes, 0)), alertDecodeError},
		{"early data not empty", hello(modes, ext(extEarlyData, 1), psk(32)), alertDecodeError},
		{"early data alone", hello(modes, ext(extEarlyData)), alertIllegalParameter},
		{"PSK without modes", hello(psk(32)), alertMissingExtension},
		{"PSK not last", hello(modes, psk(32), ext(0x77)), alertIllegalParameter},
		{"PSK binder of 31 bytes", hello(modes, psk(31)), alertDecodeError},
		{"PSK empty", hello(modes, ext(extPreSharedKey)), alertDecodeError},
		{"PSK without identities", hello(modes, ext(extPreSharedKey, 0, 0, 0, 0)), alertDecodeError},
		{"PSK without binders", hello(modes, ext(extPreSharedKey, 0, 7, 0, 1, 'i', 0, 0, 0, 0, 0, 0)), alertDecodeError},
		{"PSK without age", hello(modes, ext(extPreSharedKey, 0, 3, 0, 1, 'i', 0, 0)), alertDecodeError},
	} {
		_, complete, err := ParseClientHello(c.b)
		var he *HelloError
		if !errors.As(err, &he) || he.Alert != c.alert || complete {
			t.Errorf("%s: complete %v, %v (%+v), want alert %d", c.name, complete, err, he, c.alert)
		}
	}
}

// testCertificate makes a throwaway certificate for name.
func testCertificate(tb testing.TB, name string) (tls.Certificate, *x509.CertPool) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// pump hands what each side writes to the other until both are silent.
func pump(tb testing.TB, client, server *tls.QUICConn) {
	tb.Helper()
	for busy := true; busy; {
		busy = false
		for _, side := range []struct{ from, to *tls.QUICConn }{{client, server}, {server, client}} {
			for e := side.from.NextEvent(); e.Kind != tls.QUICNoEvent; e = side.from.NextEvent() {
				busy = true
				var err error
				switch e.Kind {
				case tls.QUICWriteData:
					err = side.to.HandleData(e.Level, e.Data)
				case tls.QUICTransportParametersRequired:
					side.from.SetTransportParameters([]byte{})
				case tls.QUICHandshakeDone:
					if side.from == server {
						err = server.SendSessionTicket(tls.QUICSessionTicketOptions{EarlyData: true})
					}
				}
				if err != nil {
					tb.Fatal(err)
				}
			}
		}
	}
}

// A client that resumes says so.
func TestParseClientHelloResumption(t *testing.T) {
	cert, roots := testCertificate(t, "files.example.com")
	config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: "files.example.com",
		NextProtos: []string{"smb"}, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	client := tls.QUICClient(&tls.QUICConfig{TLSConfig: config})
	server := tls.QUICServer(&tls.QUICConfig{TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13,
		Certificates: []tls.Certificate{cert}, NextProtos: []string{"smb"}}})
	defer client.Close()
	defer server.Close()
	client.SetTransportParameters([]byte{})
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := client.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	pump(t, client, server)

	b := clientHello(t, config, []byte{1, 1, 5})
	ch, complete, err := ParseClientHello(b)
	if err != nil || !complete || !ch.PreSharedKey || !ch.PSKModes || !ch.EarlyData || ch.ServerName != "files.example.com" {
		t.Errorf("%+v, %v, %v; want a resumption with early data", ch, complete, err)
	}
	for n := 4; n < len(b); n++ {
		if _, _, err := ParseClientHello(setHelloLength(bytes.Clone(b[:n]))); err == nil {
			t.Fatalf("cut to %d of %d bytes it is taken", n, len(b))
		}
	}
}

var errSeen = errors.New("seen")

// asSeenByTLS returns what crypto/tls reads in a ClientHello, nil if it
// refuses it before asking for a configuration.
func asSeenByTLS(b []byte) (info *tls.ClientHelloInfo) {
	server := tls.QUICServer(&tls.QUICConfig{TLSConfig: &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(i *tls.ClientHelloInfo) (*tls.Config, error) {
			info = i
			return nil, errSeen
		},
	}})
	defer server.Close()
	if err := server.Start(context.Background()); err != nil {
		return nil
	}
	// It always fails: with errSeen at the latest.
	_ = server.HandleData(tls.QUICEncryptionLevelInitial, b)
	return info
}

// agree fails if the two parsers read different names.
func agree(t *testing.T, b []byte) {
	ch, complete, err := ParseClientHello(b)
	if err != nil || !complete {
		return
	}
	info := asSeenByTLS(b)
	if info == nil {
		return
	}
	// Without the extension crypto/tls makes up a list from the legacy version.
	if ch.SupportedVersions != nil && !slices.Equal(info.SupportedVersions, ch.SupportedVersions) {
		t.Fatalf("crypto/tls reads versions %x, ours %x", info.SupportedVersions, ch.SupportedVersions)
	}
	if info.ServerName != ch.ServerName || !slices.Equal(info.SupportedProtos, ch.ALPN) ||
		!slices.Equal(info.CipherSuites, ch.CipherSuites) {
		t.Fatalf("crypto/tls reads name %q, ALPN %q, suites %x\nours      name %q, ALPN %q, suites %x",
			info.ServerName, info.SupportedProtos, info.CipherSuites, ch.ServerName, ch.ALPN, ch.CipherSuites)
	}
}

func TestClientHelloAgreesWithTLS(t *testing.T) {
	for name, b := range helloSamples(t) {
		if asSeenByTLS(b) == nil {
			t.Errorf("%s: crypto/tls refuses it", name)
		}
		// Each byte changed in turn, as an attacker on the path would.
		for i := range b {
			if len(b) > 1000 && i > 150 && i < len(b)-150 {
				continue // key shares and random bytes
			}
			bad := bytes.Clone(b)
			bad[i] ^= 1
			agree(t, bad)
		}
		agree(t, b)
	}
}

// FuzzClientHello: no input makes the parser panic, and where crypto/tls gets
// as far as choosing a configuration, both have read the same.
func FuzzClientHello(f *testing.F) {
	for _, b := range helloSamples(f) {
		f.Add(b)
	}
	f.Add(hello(sni("x"), alpn("smb"), ext(extSupportedVersions, 2, 3, 4), ext(extTransportParams)))
	f.Add(hello(ext(extPSKModes, 1, 1), ext(extEarlyData), psk(32)))
	f.Fuzz(agree)
}

func BenchmarkParseClientHello(b *testing.B) {
	ch := helloSamples(b)["default"]
	b.ReportAllocs()
	for b.Loop() {
		if _, complete, err := ParseClientHello(ch); err != nil || !complete {
			b.Fatal(complete, err)
		}
	}
}
