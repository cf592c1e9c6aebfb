package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/gateway/access"
)

// Whatever is wrong with services on TCP is said, with a place.
func TestHTTPSErrors(t *testing.T) {
	const routes = `
access: {staff: {client_certificate: none}}
routes: [{name: a, match: {server_name: files.example.com}, access: staff, smb: {backends: [n]}}]
`
	for text, want := range map[string]string{
		"https: {}":                                           "has nothing to serve",
		"https: {acme: {accept_terms: true}}":                 "at least one name",
		"https: {acme: {names: [files.example.com]}}":         "have to be accepted",
		"https: {acme: {names: [files], accept_terms: true}}": "no authority certifies",
		"https: {acme: {names: [files.example.com, FILES.example.com.], accept_terms: true}}":         "given twice",
		"https: {acme: {names: ['*.example.com'], accept_terms: true}}":                               "is not a host name",
		"https: {acme: {names: [files.example.com], accept_terms: true, directory: 'http://x'}}":      "is no https URL",
		"https: {kdc_proxy: {realms: [{name: X, kdcs: [a]}]}}":                                        "needs a certificate",
		"https: {kdc_proxy: {cert: c, key: k}}":                                                       "at least one realm",
		"https: {kdc_proxy: {cert: c, realms: [{name: X, kdcs: [a]}]}}":                               "go together",
		"https: {kdc_proxy: {cert: c, key: k, realms: [{name: X}]}}":                                  "at least one KDC",
		"https: {kdc_proxy: {cert: c, key: k, realms: [{name: X, kdcs: [a]}, {name: x, kdcs: [a]}]}}": "given twice",
		"https: {kdc_proxy: {cert: c, key: k, realms: [{name: 'X Y', kdcs: ['a:b:c']}]}}":             "no realm",
	} {
		_, err := Parse("x.yaml", []byte(text+"\ntlshd: {certificates: [{names: [files.example.com], cert: c, key: k}]}\n"+routes))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "x.yaml:1:") {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	// A name that is fetched needs no other certificate.
	c := mustParse(t, "https: {acme: {names: [Files.Example.com], accept_terms: true}}\n"+routes)
	if len(c.Warnings()) != 0 || c.HTTPS.ACME.Names[0] != "files.example.com" || c.HTTPS.Listen != ":443" {
		t.Errorf("%v, %+v", c.Warnings(), c.HTTPS)
	}
	c = mustParse(t, "https: {kdc_proxy: {cert: c, key: k, realms: [{name: corp.test, kdcs: [DC], passwords: ['dc:1464']}]}}\ntlshd: {certificates: [{names: [files.example.com], cert: c, key: k}]}\n"+routes)
	if r := c.HTTPS.KDCProxy.Realms[0]; r.Name != "CORP.TEST" || r.KDCs[0] != "dc:88" || r.Passwords[0] != "dc:1464" {
		t.Errorf("%+v", r)
	}
}

// full uses every section the format has.
const full = `
listen:
  - udp: ":443"
    shards: auto
  - udp: "127.0.0.1:4433"
    shards: 2
tlshd:
  mode: spawn
  socket: /run/quic-fsgw/tlshd.sock
  certificates:
    - names: [Files.Example.com., "*.corp.example.com"]
      cert: /etc/quic-fsgw/files.crt
      key: /etc/quic-fsgw/files.key
  client_ca: [/etc/quic-fsgw/clients.pem]
  crl: [/etc/quic-fsgw/clients.crl]
  crl_expired: refuse
  ticket_keys: ""
access:
  staff:
    client_certificate: required
    allow: [{issuer: "CN=Device CA,O=Example"}, {sha256: "abababababababababababababababababababababababababababababababab"}, {san: "dns:*.corp.example.com"}]
    deny: [{sha256: "CD:CD:cd:cd:cd:cd:cd:cd:cd:cd:cd:cd:cd:cd:cd:cd:cd:cd:cd:cd:cd:cd:cd:cd:cd:cd:cd:cd:cd:cd:cd:cd"}]
    client_ca: []
  lab:
    client_certificate: required
    allow: [{tag: lab-laptops}]
tags:
  lab-laptops: [{field: subject.OU, match: "Lab*"}, {field: not_after, match: ">2020-01-01"}, {field: self_signed, match: "true", not: true}]
routes:
  - name: office
    match: {alpn: smb, server_name: files.example.com}
    access: staff
    smb:
      backends: ["10.0.0.5:445", "10.0.0.6"]
      policy: failover
      min_dialect: "3.1.1"
      named_pipes: deny
      shares: []
      max_message: 16777215
      probe: {user: "", password_file: ""}
  - name: home
    match: {alpn: sunrpc, server_name: FILES.example.com, listen: ":443"}
    access: staff
    nfs:
      backends: ["10.0.0.9:2049"]
      ports: {mount: 20048, portmap: 111}
      exports: [/srv/home]
      identity:
        map: [{san: "email:alice@example.com", uid: 1001, gid: 1001, groups: [100]}, {tag: lab-laptops, uid: 1002, gid: 1002}]
        map_file: ""
        auth_sys_oid: 1.3.6.1.4.1.55555.1
        otherwise: squash
  - name: web
    match: {alpn: h3}
    forward: {udp: "127.0.0.1:8443"}
quic:
  congestion: cubic
  versions: [v1, v2]
  idle_timeout: 30s
  keepalive: 10s
  retry: auto
  max_udp_payload: auto
  gso: auto
  gro: auto
  zerocopy: auto
  early_data: off
limits:
  connections: 10000
  connections_per_client: 64
  handshakes_per_second: 2000
  handshakes_per_second_per_address: 50
  memory: 1GiB
admin:
  socket: /run/quic-fsgw/admin.sock
  http: 127.0.0.1:9443
log: {level: info, format: auto, access: "", audit: "", qlog: ""}
client: {ca: ca.pem, cert: me.crt, key: me.key, server_name: Files.Example.COM}
`

func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFull(t *testing.T) {
	c := mustParse(t, full)
	if got := c.Tlshd.Certificates[0].Names[0]; got != "files.example.com" {
		t.Errorf("certificate name %q is not normalised", got)
	}
	if got := c.Routes[0].SMB.Backends[1]; got != "10.0.0.6:445" {
		t.Errorf("backend %q has no default port", got)
	}
	if c.Limits.Memory != 1<<30 || c.Listen[0].Shards != 0 || c.Listen[1].Shards != 2 {
		t.Errorf("memory %d, shards %d %d", c.Limits.Memory, c.Listen[0].Shards, c.Listen[1].Shards)
	}
	rule := c.Access["staff"].Rule
	if rule.Mode != access.Required || len(rule.Allow) != 3 || len(rule.Deny) != 1 {
		t.Errorf("rule %+v", rule)
	}
	if got := c.Routes[1].Match.Listen; len(got) != 1 || got[0] != ":443" {
		t.Errorf("listen %q", got)
	}
}

// What check --print writes must mean the same as what was read.
func TestPrintRoundTrip(t *testing.T) {
	c := mustParse(t, full)
	text, err := c.YAML()
	if err != nil {
		t.Fatal(err)
	}
	again := mustParse(t, string(text))
	c.warnings, again.warnings = nil, nil
	if !reflect.DeepEqual(normal(t, c), normal(t, again)) {
		t.Errorf("printed configuration reads differently:\n%s", text)
	}
	if _, err := c.JSON(); err != nil {
		t.Error(err)
	}
}

func normal(t *testing.T, c *Config) string {
	t.Helper()
	b, err := c.YAML()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// minimal is the shortest file with one route.
const minimal = `tlshd: {certificates: [{names: [a.test], cert: a.crt, key: a.key}]}
routes: [{name: r, match: {server_name: a.test}, access: public, smb: {backends: [nas]}}]
`

func TestDefaults(t *testing.T) {
	c := mustParse(t, minimal)
	if len(c.Listen) != 1 || c.Listen[0].UDP != ":443" {
		t.Errorf("listen %+v", c.Listen)
	}
	r := c.Routes[0]
	if r.Match.ALPN != "smb" || r.SMB.Backends[0] != "nas:445" || r.SMB.MaxMessage != 16777215 || r.SMB.NamedPipes != "deny" {
		t.Errorf("route %+v %+v", r, r.SMB)
	}
	if c.QUIC.IdleTimeout.String() != "30s" || c.QUIC.Congestion != "cubic" || c.Limits.Connections != 10000 || c.Log.Level != "info" {
		t.Errorf("%+v %+v", c.QUIC, c.Limits)
	}
	if len(c.Warnings()) != 0 {
		t.Errorf("warnings: %v", c.Warnings())
	}
}

// Every wrong file is refused with the place and a word that helps.
func TestErrors(t *testing.T) {
	smb := func(route string) string {
		return "tlshd: {certificates: [{names: [a.test], cert: c, key: k}], client_ca: [ca]}\naccess: {staff: {client_certificate: required, allow: [{any: true}]}}\nroutes:\n  - " + route + "\n"
	}
	tests := []struct{ name, text, want string }{
		{"empty", "", "test.yaml:1:1: the file is empty"},
		{"not yaml", "listen: [", "test.yaml:"},
		{"two documents", minimal + "---\nlisten: []\n", "a second document"},
		{"unknown key", minimal + "quick: {}\n", `test.yaml:3:1: unknown key "quick" (did you mean quic?)`},
		{"unknown nested key", minimal + "quic:\n  idle_timout: 3s\n", `test.yaml:4:3: quic: unknown key "idle_timout" (did you mean idle_timeout?)`},
		{"twice", minimal + "log: {}\nlog: {}\n", "key log is given twice"},
		{"null", minimal + "log:\n", "test.yaml:3:5: log: no value"},
		{"type", minimal + "limits: {connections: many}\n", `test.yaml:3:23: limits.connections: must be a whole number, is "many"`},
		{"list", minimal + "listen: {udp: ':443'}\n", "must be a list, is a mapping"},
		{"range", minimal + "limits: {connections: 0}\n", `"0": must be from 1 to 10000000`},
		{"duration", minimal + "quic: {idle_timeout: 30}\n", "not a duration"},
		{"keepalive", minimal + "quic: {keepalive: 30s}\n", "is not below idle_timeout"},
		{"size", minimal + "limits: {memory: 1Gb}\n", "not a size"},
		{"size overflow", minimal + "limits: {memory: 9223372036854775807TiB}\n", "too large"},
		{"enum", minimal + "quic: {congestion: cubik}\n", "did you mean cubic?"},
		{"early data", minimal + "quic: {early_data: on}\n", "use off"},
		{"address", minimal + "admin: {http: localhost:80}\n", "host names are not looked up here"},
		{"port", minimal + "listen: [{udp: ':70000'}]\n", "not a number from 0 to 65535"},
		{"same listen", minimal + "listen: [{udp: ':443'}, {udp: '*:443'}]\n", "is already entry 0"},
		{"no access", smb("{name: r, match: {server_name: a.test}, smb: {backends: [n]}}"), "a file route must name its access rule (access: public has to be written out)"},
		{"no server name", smb("{name: r, match: {alpn: smb}, access: staff, smb: {backends: [n]}}"), "a file route must name its server_name"},
		{"star", smb("{name: r, match: {server_name: '*'}, access: staff, smb: {backends: [n]}}"), "* alone would take unknown names too"},
		{"address as name", smb("{name: r, match: {server_name: 192.0.2.1}, access: staff, smb: {backends: [n]}}"), "is an IP address"},
		{"unknown rule", smb("{name: r, match: {server_name: a.test}, access: stuff, smb: {backends: [n]}}"), "did you mean staff?"},
		{"two targets", smb("{name: r, match: {server_name: a.test}, access: staff, smb: {backends: [n]}, nfs: {backends: [n]}}"), "needs exactly one of smb, nfs and forward, has 2"},
		{"no target", smb("{name: r, match: {server_name: a.test}, access: staff}"), "needs exactly one of smb, nfs and forward, has 0"},
		{"wrong alpn", smb("{name: r, match: {server_name: a.test, alpn: sunrpc}, access: staff, smb: {backends: [n]}}"), "spoken to with smb"},
		{"forward access", smb("{name: r, match: {alpn: h3}, access: staff, forward: {udp: '127.0.0.1:1'}}"), "the other process's matter"},
		{"no backend", smb("{name: r, match: {server_name: a.test}, access: staff, smb: {}}"), "needs at least one backend"},
		{"backend port", smb("{name: r, match: {server_name: a.test}, access: staff, smb: {backends: ['n:smb']}}"), "not a number from 1 to 65535"},
		{"public defined", minimal + "access: {public: {client_certificate: none}}\n", "public is built in"},
		{"nobody", minimal + "access: {x: {client_certificate: required}}\n", "nobody could pass"},
		{"mode missing", minimal + "access: {x: {allow: [{any: true}]}}\n", "access.x.client_certificate: is missing"},
		{"deny any", minimal + "access: {x: {client_certificate: optional, allow: [{any: true}], deny: [{any: true}]}}\n", "would refuse everybody"},
		{"two kinds", minimal + "access: {x: {client_certificate: optional, allow: [{any: true, san: 'dns:a'}]}}\n", "exactly one of"},
		{"bad dn", minimal + "access: {x: {client_certificate: optional, allow: [{issuer: Device CA}]}}\n", "not a distinguished name"},
		{"bad hash", minimal + "access: {x: {client_certificate: optional, allow: [{sha256: abcd}]}}\n", "64 hex digits"},
		{"no ca", strings.Replace(minimal, "public", "x", 1) + "access: {x: {client_certificate: optional, allow: [{any: true}]}}\n", "no client_ca says whose"},
		{"cert without key", "tlshd: {certificates: [{names: [a.test], cert: a.crt}]}\n" + strings.SplitN(minimal, "\n", 2)[1], "needs cert and key, or pfx"},
		{"alias bomb", "a: &a [x,x,x,x,x,x,x,x,x,x]\nlisten: *a\n", "unknown key"},
		{"groups", smb("{name: r, match: {server_name: a.test}, access: staff, nfs: {backends: [n], identity: {map: [{san: 'dns:a', uid: 1, gid: 1, groups: [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}]}}}"), "at most 16"},
		{"unknown tag", "access: {x: {client_certificate: required, allow: [{tag: nobody}]}}\n" + minimal, `there is no tag "nobody"`},
		{"no object identifier", smb("{name: r, match: {server_name: a.test}, access: staff, nfs: {backends: [n], identity: {auth_sys_oid: rpcAuthSys}}}"), "not an object identifier"},
		{"two ways to name a client", smb("{name: r, match: {server_name: a.test}, access: staff, nfs: {backends: [n], identity: {map: [{san: 'dns:a', tag: x, uid: 1, gid: 1}]}}}"), "exactly one of san, sha256 and tag"},
		{"empty tag", "tags: {x: []}\n" + minimal, "would be everybody's"},
		{"unknown field", "tags: {x: [{field: shoe_size, match: XL}]}\n" + minimal, `there is no field "shoe_size"`},
		{"backend of a row", smb("{name: r, match: {server_name: a.test}, access: staff, smb: {backends: [nas1, nas2], share_map: [{san: 'dns:a', backends: [nas3]}]}}"), "not among the route's backends"},
		{"backend of an NFS row", smb("{name: r, match: {server_name: a.test}, access: staff, nfs: {backends: [n], identity: {map: [{san: 'dns:a', uid: 1, gid: 1, backends: ['n:2050']}]}}}"), "not among the route's backends"},
		{"row of nothing", smb("{name: r, match: {server_name: a.test}, access: staff, smb: {backends: [n], share_map: [{san: 'dns:a'}]}}"), "needs at least one share or backend"},
		{"route twice", smb("{name: r, match: {server_name: a.test}, access: staff, smb: {backends: [n]}}\n  - {name: r, match: {server_name: b.test}, access: staff, smb: {backends: [n]}}"), "has the name r already"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("test.yaml", []byte(tt.text))
			var ps Problems
			if !errors.As(err, &ps) {
				t.Fatalf("error is %v, want Problems", err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got:\n%v\nwant: %s", err, tt.want)
			}
		})
	}
}

func TestAllErrorsAtOnce(t *testing.T) {
	_, err := Parse("x.yaml", []byte(minimal+"quic: {retry: maybe, gso: 7}\nlimits: {memory: x}\nextra: 1\n"))
	var ps Problems
	if !errors.As(err, &ps) || len(ps) != 4 {
		t.Fatalf("got %d problems, want 4:\n%v", len(ps), err)
	}
	for i := 1; i < len(ps); i++ {
		if ps[i].Line < ps[i-1].Line {
			t.Error("problems are not in the order of the file")
		}
	}
}

func TestWarnings(t *testing.T) {
	route := func(name, match string) string {
		return "  - {name: " + name + ", match: {" + match + "}, access: public, smb: {backends: [n]}}\n"
	}
	head := "tlshd: {certificates: [{names: ['*.test', a.b.test], cert: c, key: k}]}\nroutes:\n"
	tests := []struct{ name, text, want string }{
		{"same name", head + route("a", "server_name: a.test") + route("b", "server_name: A.TEST."), "route b is never reached: a takes its connections"},
		{"suffix", head + route("a", "server_name: '*.test'") + route("b", "server_name: [a.test, 'a.b.test']"), "route b is never reached"},
		{"partly", head + route("a", "server_name: a.test") + route("b", "server_name: [a.test, b.test]"), "route b never sees a.test"},
		{"catch-all", head + "  - {name: all, match: {}, forward: {udp: '127.0.0.1:1'}}\n" + route("b", "server_name: a.test"), "route b is never reached"},
		{"no certificate", head + route("a", "server_name: other.example"), "no certificate is for other.example"},
		{"issuer from the wrong end", "tlshd: {certificates: [{names: [a.test], cert: c, key: k}], client_ca: [ca]}\n" +
			"access: {x: {client_certificate: required, allow: [{any: true}], deny: [{issuer: 'O=E, CN=Old CA'}]}}\nroutes:\n" +
			strings.Replace(route("a", "server_name: a.test"), "public", "x", 1), `issuer: "CN=Old CA,O=E"`},
		{"admin", minimal + "admin: {http: ':9443'}\n", "asks for no password"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Problems(mustParse(t, tt.text).Warnings()).Error()
			if !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	ok := head + route("a", "server_name: a.test") + route("b", "server_name: '*.test'") + route("c", "server_name: '*.a.b.test'")
	if w := mustParse(t, ok).Warnings(); len(w) != 2 { // c: taken by *.test, and no certificate reaches that deep
		t.Errorf("warnings: %v", w)
	}
}

// Row 12 of the hostile inputs: no spelling of a name reaches a weaker route.
func TestHostile12RouteNeverFallsToWeaker(t *testing.T) {
	c := mustParse(t, `
listen: [{udp: ":443"}, {udp: "127.0.0.1:4433"}]
tlshd: {certificates: [{names: ["*.example.com", example.com], cert: c, key: k}], client_ca: [ca]}
access: {staff: {client_certificate: required, allow: [{any: true}]}}
routes:
  - {name: secret, match: {server_name: secret.example.com}, access: staff, smb: {backends: [n]}}
  - {name: nfs, match: {server_name: secret.example.com}, access: staff, nfs: {backends: [n]}}
  - {name: open, match: {server_name: "*.example.com"}, access: public, smb: {backends: [m]}}
  - {name: local, match: {server_name: local.test, listen: "127.0.0.1:4433"}, access: public, smb: {backends: [m]}}
  - {name: web, match: {alpn: h3}, forward: {udp: "127.0.0.1:1"}}
`)
	tests := []struct {
		listen Addr
		alpn   string
		sni    string
		want   string
	}{
		{":443", "smb", "secret.example.com", "secret"},
		{":443", "smb", "SECRET.Example.COM", "secret"},
		{":443", "smb", "secret.example.com.", "secret"},
		{":443", "sunrpc", "Secret.example.com.", "nfs"},
		{":443", "smb", "secret.example.com..", ""},
		{":443", "smb", "", ""},
		{":443", "smb", ".", ""},
		{":443", "smb", "*", ""},
		{":443", "smb", "*.example.com", ""},
		{":443", "smb", "secret.example.com\x00", ""},
		{":443", "smb", "secret.example.com\x00.example.com", ""},
		{":443", "smb", "ſecret.example.com", ""},
		{":443", "smb", "example.com", ""},
		{":443", "smb", ".example.com", ""},
		{":443", "smb", "other.example.com", "open"},
		{":443", "smb", "a.other.example.com", "open"},
		{":443", "smb", "xexample.com", ""},
		{":443", "smb", "10.0.0.1", ""},
		{":443", "sunrpc", "other.example.com", ""},
		{":443", "SMB", "secret.example.com", ""},
		{":443", "smb", "local.test", ""},
		{"127.0.0.1:4433", "smb", "local.test", "local"},
		{":443", "h3", "", "web"},
		{":443", "h3", "secret.example.com", "web"},
		{":443", "h3", "\xff", "web"},
	}
	for _, tt := range tests {
		got := ""
		if r := c.Route(tt.listen, []string{tt.alpn}, tt.sni); r != nil {
			got = r.Name
		}
		if got != tt.want {
			t.Errorf("%s %s %q: route %q, want %q", tt.listen, tt.alpn, tt.sni, got, tt.want)
		}
	}
}

// A CONTRACT of the tags: every default and bound reads in its own notation.
func TestTagsAreValid(t *testing.T) {
	var walk func(typ reflect.Type)
	walk = func(typ reflect.Type) {
		for _, f := range fields(typ) {
			ft := f.Type
			for ft.Kind() == reflect.Pointer || ft.Kind() == reflect.Slice || ft.Kind() == reflect.Map {
				ft = ft.Elem()
			}
			if f.Tag.Get("doc") == "" {
				t.Errorf("%s.%s has no doc", typ, f.Name)
			}
			if ft.Kind() == reflect.Struct {
				walk(ft)
				continue
			}
			for _, text := range []string{f.Tag.Get("default"), f.Tag.Get("min"), f.Tag.Get("max")} {
				if text == "" {
					continue
				}
				for _, one := range strings.Split(text, ",") { // a list
					if err := parseScalar(reflect.New(ft).Elem(), one, f.Tag); err != nil {
						t.Errorf("%s.%s: %q: %v", typ, f.Name, one, err)
					}
				}
			}
		}
	}
	walk(reflect.TypeFor[Config]())
}

// The generated documents are current; UPDATE=1 writes them.
func TestGeneratedDocs(t *testing.T) {
	schema, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{"config.schema.json": schema, "config.md": Reference()} {
		file := filepath.Join("..", "..", "docs", name)
		if os.Getenv("UPDATE") != "" {
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("docs/%s is not current: run UPDATE=1 go test ./gateway/config", name)
		}
	}
}

func TestLoadResolvesPaths(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "c.yaml")
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("c.yaml", full+"\n")
	c, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(c.Client.CA); got != filepath.Join(dir, "ca.pem") {
		t.Errorf("client.ca %s", got)
	}
	if got := string(c.Tlshd.Certificates[0].Cert); got != "/etc/quic-fsgw/files.crt" {
		t.Errorf("absolute name became %s", got)
	}
	write("c.yaml", strings.Replace(full, `map_file: ""`, "map_file: rows", 1))
	write("rows", "# staff\n\n{san: 'email:bob@example.com', uid: 7, gid: 8}\n{san: nobody, uid: 1, gid: 1}\n{uid: 1, gid: 1, gruops: []}\n{uid\n")
	_, err = Load(file)
	for _, want := range []string{"rows:4:", "rows:5:", "did you mean groups?", "rows:6:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("map file: %v, want %s", err, want)
		}
	}
}

func TestMapFile(t *testing.T) {
	rows, err := (&Config{}).ParseMapFile("rows", []byte("{san: 'email:bob@example.com', uid: 4294967294, gid: 8, groups: [9, 10]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&Config{}).ParseMapFile("rows", []byte("{tag: staff, uid: 7, gid: 8}\n")); err == nil || !strings.Contains(err.Error(), `there is no tag "staff"`) {
		t.Errorf("a tag that is not there: %v", err)
	}
	m := (&Identity{}).Compile(rows)
	if len(m) != 1 || m[0].Unix.UID != 4294967294 || m[0].Unix.Groups[1] != 10 {
		t.Errorf("%+v", m)
	}
	if _, ok := m.Lookup(nil); ok {
		t.Error("an anonymous client has an identity")
	}
}

func TestAliasesAreBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString("client: {ca: x}\nlisten:\n  - &a {udp: ':1'}\n")
	for range 2000 {
		b.WriteString("  - *a\n")
	}
	if _, err := Parse("t", []byte(b.String())); err == nil {
		t.Error("2000 times the same address was taken")
	}
	self := "routes: &r\n  - {name: a, match: {server_name: a}, access: public, smb: {backends: *r}}\n"
	if _, err := Parse("t", []byte(self)); err == nil {
		t.Error("a list that contains itself was taken")
	}
}

func TestSizeAndDurationText(t *testing.T) {
	for text, want := range map[string]string{"1GiB": "1GiB", "1024": "1KiB", "1000": "1000", "1MB": "1000000", "0": "0", "5 MiB": "5MiB"} {
		s, err := ParseSize(text)
		if err != nil || s.String() != want {
			t.Errorf("ParseSize(%q) = %s, %v, want %s", text, s, err, want)
		}
	}
	for text, want := range map[string]string{"90s": "1m30s", "60m": "1h", "1h30m": "1h30m", "0s": "0s", "500ms": "500ms", "3600s": "1h", "10m": "10m"} {
		d, err := ParseDuration(text)
		if err != nil || d.String() != want {
			t.Errorf("ParseDuration(%q) = %s, %v, want %s", text, d, err, want)
		}
	}
	if _, err := ParseDuration("-1s"); err == nil {
		t.Error("a negative duration was taken")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{full, minimal, "", "listen: [", "a: &a [*a]\n", "routes: &r\n  - *r\n", "log: {level: !!binary aGk=}\n", "? {a: b}\n: c\n",
		"client: {ca: \"\\0\"}\n", "client: {ca: ''}\nlisten: [{udp: ':0'}, {udp: ':0'}]\n", "client: {ca: \"\\x85\\u2028\"}\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f", data)
		if err != nil {
			var ps Problems
			if !errors.As(err, &ps) {
				t.Fatalf("error is %T", err)
			}
			return
		}
		text, err := c.YAML()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("f", text)
		if err != nil {
			t.Fatalf("printed configuration does not parse: %v\n%s", err, text)
		}
		if normal(t, again) != string(text) {
			t.Errorf("printed configuration reads differently:\n%s", text)
		}
		if _, err := c.JSON(); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzParseMapFile(f *testing.F) {
	f.Add([]byte("# x\n\n{san: 'email:a@b', uid: 1, gid: 2, groups: [3]}\n{sha256: x}\n"))
	f.Add([]byte("{uid\n&a [*a]\n- 1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		rows, err := (&Config{}).ParseMapFile("rows", data)
		if err == nil && len((&Identity{}).Compile(rows)) != len(rows) {
			t.Error("rows got lost")
		}
	})
}

func FuzzNormalizeServerName(f *testing.F) {
	for _, s := range []string{"a.test", "A.TEST.", "..", "*.x", "1.2.3.4", "[::1]", "\xff", "a..b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := NormalizeServerName(s)
		if err != nil {
			return
		}
		if again, err := NormalizeServerName(n); err != nil || again != n {
			t.Errorf("%q -> %q -> %q, %v", s, n, again, err)
		}
	})
}
