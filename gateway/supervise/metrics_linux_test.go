package supervise

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway"
	"github.com/quic-fsgw/quic-fsgw/gateway/admin"
	"github.com/quic-fsgw/quic-fsgw/gateway/client"
	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/gateway/pki"
	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/tlshd"
)

// docs/metrics.md lists what a packet process prints, no more and no less.
// UPDATE=1 writes it there.
func TestMetricsDocument(t *testing.T) {
	const begin, end = "<!-- table: begin -->\n", "<!-- table: end -->\n"
	file := filepath.Join("..", "..", "docs", "metrics.md")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(b), begin)
	have, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no marks around its table", file)
	}
	want := metricsTable(t, scrape(t))
	if have == want {
		return
	}
	if os.Getenv("UPDATE") == "" {
		t.Fatalf("docs/metrics.md is not current: run UPDATE=1 go test ./gateway/supervise\nwant:\n%s", want)
	}
	if err := os.WriteFile(file, []byte(head+begin+want+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}

// scrape runs a gateway in this process, with everything a packet process
// registers, sends one client through it and returns what /metrics says.
func scrape(t *testing.T) string {
	t.Helper()
	const name = "files.test"
	server, trust := pair(t, name)
	group, err := udp.ListenGroup(netip.MustParseAddrPort("127.0.0.1:0"), 1, udp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	addr := group.Sockets()[0].LocalAddr()
	cfg, err := config.Parse("test.yaml", fmt.Appendf(nil, `
listen: [{udp: %q}]
tlshd: {certificates: [{names: [%s], cert: /none.crt, key: /none.key}]}
routes:
  - {name: office, match: {alpn: smb, server_name: %[2]s}, access: public, smb: {backends: ["127.0.0.1:1"]}}
  - {name: home, match: {alpn: sunrpc, server_name: %[2]s}, access: public, nfs: {backends: ["127.0.0.1:1"]}}
`, addr, name))
	if err != nil {
		t.Fatal(err)
	}
	reg, log := admin.NewRegistry(), slog.New(slog.DiscardHandler)
	_, ca, err := pki.NewCA(time.Now(), "a CA of clients", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	if err := ca.Write(caFile, filepath.Join(t.TempDir(), "ca.key")); err != nil {
		t.Fatal(err)
	}
	helper, err := tlshd.NewLocal(tlshd.Config{ClientCA: []string{caFile}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer helper.Close()
	w := &packetProcess{client: helper.Client}
	w.registerHelper(reg)
	g, err := gateway.New(cfg, []gateway.Listener{{Addr: cfg.Listen[0].UDP, Group: group}}, gateway.Options{
		Handshaker: quic.TLS(server), Logger: log, Registry: reg,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	connectOnce(ctx, t, addr, name, trust)
	for len(g.Status().Connections) > 0 && ctx.Err() == nil {
		<-time.After(5 * time.Millisecond)
	}
	srv := httptest.NewServer(admin.NewServer(reg, admin.Source{}, log).Handler())
	defer srv.Close()
	resp, err := http.Get(srv.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Close(ctx); err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// connectOnce opens a connection to the NFS route and closes it.
func connectOnce(ctx context.Context, t *testing.T, addr netip.AddrPort, name string, trust *x509.CertPool) {
	t.Helper()
	d := &client.Dialer{Handshaker: quic.TLS(&tls.Config{RootCAs: trust}), ServerName: name}
	defer d.Close()
	c, err := d.DialConn(ctx, "sunrpc", addr.Addr().String(), addr.Port())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.OpenStream(ctx); err != nil { // possible once the gateway has admitted us
		t.Fatal(err)
	}
	if err := c.CloseWithError(0, ""); err != nil {
		t.Fatal(err)
	}
}

// pair makes a server's TLS configuration and what trusts it.
func pair(t *testing.T, name string) (*tls.Config, *x509.CertPool) {
	t.Helper()
	ca, _, err := pki.NewCA(time.Now(), "test CA", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ca.Issue(time.Now(), pki.Request{Name: name, Server: true, DNS: []string{name}, Life: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	c, err := tls.X509KeyPair(p.Cert, p.Key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.Cert)
	return &tls.Config{Certificates: []tls.Certificate{c}}, pool
}

var labelName = regexp.MustCompile(`([a-z_]+)="`)

// metricsTable is the document's table of what /metrics printed.
func metricsTable(t *testing.T, text string) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("| Name | Type | Labels | Meaning |\n|---|---|---|---|\n")
	var name, help, kind, labels string
	seen := false
	flush := func() {
		if name == "" {
			return
		}
		if !seen {
			t.Errorf("%s: no series, so its labels are not known", name)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, kind, labels, help)
	}
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		line := lines.Text()
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			flush()
			name, help, _ = strings.Cut(rest, " ")
			kind, labels, seen = "", "", false
			continue
		}
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			_, kind, _ = strings.Cut(rest, " ")
			continue
		}
		if seen {
			continue
		}
		seen = true
		var names []string
		for _, m := range labelName.FindAllStringSubmatch(line, -1) {
			if m[1] != "le" {
				names = append(names, "`"+m[1]+"`")
			}
		}
		labels = strings.Join(names, ", ")
	}
	flush()
	return b.String()
}
