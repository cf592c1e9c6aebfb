package kdcproxy

import (
	"bytes"
	"context"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// serve runs a proxy behind TLS; its certificate is in the file ca.
func serve(t *testing.T, cfg Config) (url, ca string, client *http.Client) {
	t.Helper()
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewTLSServer(p)
	t.Cleanup(s.Close)
	ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return s.URL, ca, s.Client()
}

// closedPort is an address that nobody listens on.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// MIT's own client logs on and gets a service's ticket with no KDC in reach but
// through the proxy, which gets over a KDC that is down.
func TestRealClient(t *testing.T) {
	kdc := sambatest.StartKDC(t)
	url, ca, _ := serve(t, Config{Realms: []Realm{{Name: "quic.test", KDCs: []string{closedPort(t), kdc.Addr}}}})
	dir := t.TempDir()
	conf := kdc.ClientConfig(url + Path + "\n  http_anchors = FILE:" + ca)
	if err := os.WriteFile(filepath.Join(dir, "krb5.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(stdin string, args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "KRB5_CONFIG=" + dir + "/krb5.conf", "KRB5CCNAME=FILE:" + dir + "/tickets"}
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run(sambatest.Password+"\n", "kinit", sambatest.User); err != nil {
		t.Fatalf("kinit: %v\n%s", err, out)
	}
	if out, err := run("", "kvno", "cifs/"+sambatest.Host); err != nil {
		t.Fatalf("kvno: %v\n%s", err, out)
	}
	if out, err := run("wrong\n", "kinit", sambatest.User); err == nil || !strings.Contains(out, "incorrect") && !strings.Contains(out, "Preauthentication") {
		t.Errorf("kinit with a wrong password: %v\n%s", err, out)
	}
}

// framed puts the length before a message.
func framed(body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// message is a KDC-PROXY-MESSAGE, realm "" for none.
func message(t testing.TB, kerb []byte, realm string) []byte {
	t.Helper()
	b, err := asn1.Marshal(kdcProxyMessage{Message: kerb, Realm: realm})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var (
	asReq    = framed(append([]byte{tagASReq, 20}, make([]byte, 20)...))
	password = framed([]byte{0, 12, 0, 1, 0, 0, 1, 2, 3, 4, 5, 6})
)

// answering is a KDC that answers every connection with b, and counts them.
func answering(t *testing.T, b []byte) (addr string, dials chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	dials = make(chan struct{}, 100)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			dials <- struct{}{}
			conn.Write(b)
			io.Copy(io.Discard, conn)
			conn.Close()
		}
	}()
	return l.Addr().String(), dials
}

// What is not a Kerberos request, or for a realm that is not served, reaches no KDC.
func TestRefused(t *testing.T) {
	kdc, dials := answering(t, framed(append([]byte{tagKrbError, 10}, make([]byte, 10)...)))
	url, _, client := serve(t, Config{Realms: []Realm{{Name: "A.TEST", KDCs: []string{kdc}}, {Name: "B.TEST", KDCs: []string{kdc}}}})
	for _, c := range []struct {
		name, method, path, kind string
		body                     []byte
		want                     int
	}{
		{"another path", "POST", "/", ContentType, message(t, asReq, "A.TEST"), 404},
		{"GET", "GET", Path, ContentType, nil, 405},
		{"another kind of content", "POST", Path, "text/html", message(t, asReq, "A.TEST"), 415},
		{"nothing", "POST", Path, ContentType, nil, 400},
		{"rubbish", "POST", Path, ContentType, []byte("POST /"), 400},
		{"octets after it", "POST", Path, ContentType, append(message(t, asReq, "A.TEST"), 0), 400},
		{"an answer as a request", "POST", Path, ContentType, message(t, framed(append([]byte{tagASRep, 20}, make([]byte, 20)...)), "A.TEST"), 400},
		{"a length that lies", "POST", Path, ContentType, message(t, append([]byte{0, 1, 0, 0}, asReq[4:]...), "A.TEST"), 400},
		{"too short", "POST", Path, ContentType, message(t, framed([]byte{tagASReq, 0}), "A.TEST"), 400},
		{"another realm", "POST", Path, ContentType, message(t, asReq, "C.TEST"), 403},
		{"no realm, and there are two", "POST", Path, ContentType, message(t, asReq, ""), 403},
		{"a realm with a line break", "POST", Path, ContentType, message(t, asReq, "A.TEST\n"), 400},
		{"a password, and none may be changed", "POST", Path, ContentType, message(t, password, "A.TEST"), 403},
		{"more than may be", "POST", Path, ContentType, message(t, framed(append([]byte{tagASReq}, make([]byte, maxMessage)...)), "A.TEST"), 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, _ := post(t, client, c.method, url+c.path, c.kind, c.body); got != c.want {
				t.Errorf("status %d, want %d", got, c.want)
			}
		})
	}
	if len(dials) > 0 {
		t.Errorf("the KDC was dialed %d times", len(dials))
	}
	if got, _ := post(t, client, "POST", url+Path, "", message(t, asReq, "b.test")); got != 200 || len(dials) != 1 {
		t.Errorf("a request that is right: status %d, %d dials", got, len(dials))
	}
}

func post(t *testing.T, client *http.Client, method, url, kind string, body []byte) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b
}

// What a KDC answers wrongly is not passed on, and the next one is asked.
func TestHostileKDC(t *testing.T) {
	good := framed(append([]byte{tagASRep, 10}, make([]byte, 10)...))
	right, _ := answering(t, good)
	for name, answer := range map[string][]byte{
		"a length above all bounds": {0xff, 0xff, 0xff, 0xff},
		"a request":                 asReq,
		"too short":                 framed([]byte{tagASRep}),
		"another protocol":          []byte("HTTP/1.1 400 Bad Request\r\n\r\n" + strings.Repeat("x", 100)),
	} {
		t.Run(name, func(t *testing.T) {
			wrong, _ := answering(t, answer)
			for _, c := range []struct {
				kdcs []string
				want int
			}{{[]string{wrong}, 503}, {[]string{wrong, right}, 200}} {
				url, _, client := serve(t, Config{Realms: []Realm{{Name: "A.TEST", KDCs: c.kdcs}}})
				got, body := post(t, client, "POST", url+Path, ContentType, message(t, asReq, ""))
				if got != c.want {
					t.Errorf("%d KDCs: status %d, want %d", len(c.kdcs), got, c.want)
				}
				var m kdcProxyMessage
				if rest, err := asn1.Unmarshal(body, &m); got == 200 && (err != nil || len(rest) > 0 || !bytes.Equal(m.Message, good)) {
					t.Errorf("%x: %v", body, err)
				}
			}
		})
	}
}

// No more requests are under way than may be, and one that a KDC does not answer
// ends with its time.
func TestLimits(t *testing.T) {
	silent, dials := answering(t, nil)
	url, _, client := serve(t, Config{Realms: []Realm{{Name: "A.TEST", KDCs: []string{silent}, Passwords: []string{silent}}}, Limit: 1, Timeout: time.Second})
	first := make(chan int)
	go func() {
		got, _ := post(t, client, "POST", url+Path, ContentType, message(t, password, ""))
		first <- got
	}()
	<-dials
	if got, _ := post(t, client, "POST", url+Path, ContentType, message(t, asReq, "")); got != 503 {
		t.Errorf("a second request: status %d", got)
	}
	if got := <-first; got != 503 || len(dials) > 0 {
		t.Errorf("the first: status %d, %d dials for the second", got, len(dials))
	}
}

func TestConfig(t *testing.T) {
	kdcs := []string{"127.0.0.1:88"}
	for name, cfg := range map[string]Config{
		"no realm":    {},
		"no KDC":      {Realms: []Realm{{Name: "A"}}},
		"no name":     {Realms: []Realm{{KDCs: kdcs}}},
		"twice":       {Realms: []Realm{{Name: "A", KDCs: kdcs}, {Name: "a", KDCs: kdcs}}},
		"no time":     {Realms: []Realm{{Name: "A", KDCs: kdcs}}, Timeout: 1},
		"no requests": {Realms: []Realm{{Name: "A", KDCs: kdcs}}, Limit: -1},
		"without end": {Realms: []Realm{{Name: "A", KDCs: kdcs}}, Timeout: time.Hour},
		"too many":    {Realms: []Realm{{Name: "A", KDCs: kdcs}}, Limit: 1 << 20},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add(message(f, asReq, "A.TEST"))
	f.Add(message(f, password, ""))
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRequest(b)
		if err != nil {
			return
		}
		if r.kind == 0 || len(r.message) < 12 || len(r.message) > len(b) || strings.ToUpper(r.realm) != r.realm {
			t.Errorf("%+v", r)
		}
		_ = fmt.Sprint(checkReply(r.kind, r.message))
	})
}
