package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// do runs the program as a shell would.
func do(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), stdio{&o, &e}, args)
	return code, o.String(), e.String()
}

func TestUsage(t *testing.T) {
	pair := t.TempDir()
	tests := []struct {
		args []string
		code int
		want string // in what is printed
	}{
		{nil, 2, "quic-fsgw COMMAND --help"},
		{[]string{"help"}, 0, "check"},
		{[]string{"--help"}, 0, "check"},
		{[]string{"chekc"}, 2, `quic-fsgw: unknown command "chekc"`},
		{[]string{"check", "--help"}, 0, "usage: quic-fsgw check"},
		{[]string{"check", "--nope"}, 2, "quic-fsgw: check: flag provided but not defined: -nope"},
		{[]string{"check", "file"}, 2, "goes behind -c"},
		{[]string{"check", "-c", filepath.Join(pair, "none.yaml")}, 2, "no such file"},
		{[]string{"check", "--print", "--json"}, 2, "exclude each other"},
		{[]string{"version", "x"}, 2, "unexpected"},
		{[]string{"cert"}, 2, "what kind"},
		{[]string{"cert", "sever", "a"}, 2, "unknown kind"},
		{[]string{"cert", "server", "--dir", pair, "a.test"}, 1, "quic-fsgw cert init --dir"},
		{[]string{"cert", "server"}, 2, "needs a name"},
		{[]string{"cert", "server", "a b"}, 2, "not a host name"},
		{[]string{"cert", "client", "--days", "-1", "a"}, 2, "--days"},
		{[]string{"init"}, 2, "--name is missing"},
		{[]string{"init", "--name", "a.test", "--backend", "http://x"}, 2, "is not smb://HOST"},
		{[]string{"init", "--name", "10.0.0.1", "--backend", "smb://x"}, 2, "is an IP address"},
	}
	for _, tt := range tests {
		code, out, errOut := do(t, tt.args...)
		if code != tt.code || !strings.Contains(out+errOut, tt.want) {
			t.Errorf("%q: exit %d, want %d; printed %q %q, want %q", tt.args, code, tt.code, out, errOut, tt.want)
		}
		if code != 0 && out != "" || code == 0 && errOut != "" {
			t.Errorf("%q: wrong stream: stdout %q, stderr %q", tt.args, out, errOut)
		}
	}
}

func TestVersion(t *testing.T) {
	_, out, _ := do(t, "version", "--json")
	var v versionInfo
	if err := json.Unmarshal([]byte(out), &v); err != nil || v.Version == "" || v.Go == "" {
		t.Errorf("%q: %v", out, err)
	}
	if _, out, _ = do(t, "version"); !strings.HasPrefix(out, "quic-fsgw ") {
		t.Errorf("%q", out)
	}
}

// Whatever init writes passes check, and a second init changes nothing.
func TestInit(t *testing.T) {
	for _, args := range [][]string{
		{"--backend", "smb://nas"},
		{"--backend", "smb://10.0.0.5:1445", "--self-signed"},
		{"--backend", "smb://nas", "--public"},
		{"--backend", "nfs://[2001:db8::1]"},
		{"--backend", "nfs://nas:20490", "--public"},
	} {
		dir := filepath.Join(t.TempDir(), "etc")
		all := append([]string{"init", "--name", "Files.Example.com", "--dir", dir}, args...)
		code, out, errOut := do(t, all...)
		if code != 0 || errOut != "" {
			t.Fatalf("%q: exit %d: %s", args, code, errOut)
		}
		file := filepath.Join(dir, "config.yaml")
		if !strings.Contains(out, file) {
			t.Errorf("%q: does not name %s:\n%s", args, file, out)
		}
		windows := strings.HasPrefix(args[1], "smb:") && !slices.Contains(args, "--public")
		if _, err := os.Stat(filepath.Join(dir, "client1.pfx")); (err == nil) != windows || windows != strings.Contains(out, "New-SmbClientCertificateMapping -Namespace files.example.com -Thumbprint $c[0]") {
			t.Errorf("%q: a PFX for Windows: %v, %v; and says\n%s", args, windows, err, out)
		}
		if code, out, errOut = do(t, "check", "-c", file); code != 0 || out != file+": ok\n" || errOut != "" {
			t.Errorf("%q: check: %d %q %q", args, code, out, errOut)
		}
		before, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if code, _, errOut = do(t, all...); code != 1 || !strings.Contains(errOut, "never replaced") {
			t.Errorf("%q: again: %d %q", args, code, errOut)
		}
		after, err := os.ReadFile(file)
		if err != nil || !bytes.Equal(before, after) {
			t.Errorf("%q: the second init changed the configuration", args)
		}
	}
}

// init leaves nothing behind when it fails half-way.
func TestInitFails(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "client1.key"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, errOut := do(t, "init", "--name", "a.test", "--backend", "smb://nas", "--dir", dir)
	if code != 1 || !strings.Contains(errOut, "client1.key") {
		t.Errorf("exit %d: %s", code, errOut)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %q", left)
	}
	code, _, errOut = do(t, "init", "--name", "a.test", "--backend", "smb://nas", "--dir", filepath.Join(dir, "x"), "--pfx", filepath.Join(dir, "none.pfx"))
	if code != 2 || !strings.Contains(errOut, "none.pfx") {
		t.Errorf("missing pfx: %d %s", code, errOut)
	}
}

func TestCertAndCheck(t *testing.T) {
	dir := t.TempDir()
	must := func(args ...string) {
		t.Helper()
		if code, _, errOut := do(t, append(args, "--dir", dir)...); code != 0 {
			t.Fatalf("%q: %s", args, errOut)
		}
	}
	must("cert", "init", "--ca-name", "Test CA")
	must("cert", "server", "files.test", "127.0.0.1", "*.files.test", "--rpc")
	must("cert", "client", "laptop7", "--email", "alice@files.test", "--upn", "alice@files.test")
	if code, _, errOut := do(t, "cert", "server", "files.test", "--dir", dir); code != 1 || !strings.Contains(errOut, "never replaced") {
		t.Errorf("replaced: %d %s", code, errOut)
	}
	file := filepath.Join(dir, "c.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	conf := `tlshd: {certificates: [{names: [files.test], cert: files.test.crt, key: files.test.key}], client_ca: [ca.crt]}
access: {staff: {client_certificate: required, allow: [{issuer: "CN=Test CA"}]}}
routes: [{name: r, match: {server_name: files.test}, access: staff, smb: {backends: [nas]}}]
`
	write(conf)
	if code, _, errOut := do(t, "check", "-c", file); code != 0 || errOut != "" {
		t.Errorf("check: %d %s", code, errOut)
	}
	for _, tt := range []struct{ old, new, want string }{
		{"files.test.key", "laptop7.key", "is not the key of"},
		{"files.test.crt", "none.crt", "c.yaml:1:"},
		{"files.test.crt", "c.yaml", "holds no certificate"},
		{"names: [files.test]", "names: [files.test, other.test]", "is not for other.test"},
		{"[ca.crt]", "[laptop7.crt]", "is no CA's"},
		{"client_ca", "clientca", "did you mean client_ca?"},
	} {
		write(strings.Replace(conf, tt.old, tt.new, 1))
		if code, _, errOut := do(t, "check", "-c", file); code != 2 || !strings.Contains(errOut, tt.want) {
			t.Errorf("%s: %d %q", tt.want, code, errOut)
		}
	}
	// As AD CS exports it, the CA first.
	var chain []byte
	for _, name := range []string{"ca.crt", "files.test.crt"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, b...)
	}
	if err := os.WriteFile(filepath.Join(dir, "chain.crt"), chain, 0o600); err != nil {
		t.Fatal(err)
	}
	write(strings.Replace(conf, "files.test.crt", "chain.crt", 1))
	if code, _, errOut := do(t, "check", "-c", file); code != 0 || errOut != "" {
		t.Errorf("the CA first: %d %s", code, errOut)
	}
	// Who has the ticket keys can make himself any client's session.
	keys := filepath.Join(dir, "tickets")
	if err := os.WriteFile(keys, []byte(strings.Repeat("ab", 32)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	write(strings.Replace(conf, "{certificates", "{ticket_keys: tickets, certificates", 1))
	if code, _, errOut := do(t, "check", "-c", file); runtime.GOOS != "windows" && (code != 0 || !strings.Contains(errOut, "everybody on this machine")) {
		t.Errorf("ticket keys for everybody: %d %s", code, errOut)
	}
	write(strings.Replace(conf, "files.test.crt", "none.crt", 1))
	if code, _, errOut := do(t, "check", "-c", file, "--no-files"); code != 0 {
		t.Errorf("check --no-files: %d %s", code, errOut)
	}
	code, out, _ := do(t, "check", "-c", file, "--print")
	if code != 2 || !strings.Contains(out, "max_message: 16777215") {
		t.Errorf("check --print: %d %s", code, out)
	}
	code, out, _ = do(t, "check", "-c", file, "--json", "--no-files")
	if code != 0 || !json.Valid([]byte(out)) {
		t.Errorf("check --json: %d %s", code, out)
	}
}

// cert --pfx makes a file that a configuration can use with the password beside
// it; cert rules turns Windows' lines into a rule that the configuration takes.
func TestCertForWindows(t *testing.T) {
	dir := t.TempDir()
	hash := strings.Repeat("ab", 32)
	lines := filepath.Join(dir, "rules.ps1")
	if err := os.WriteFile(lines, []byte("# exported\r\nGrant-SmbClientAccessToServer -Name files.test -IdentifierType ISSUER -Identifier \"CN=Device CA, O=Example\"\r\n"+
		"Block-SmbClientAccessToServer -Name files.test -IdentifierType SHA256 -Identifier "+hash+"\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"init"}, {"server", "files.test", "--pfx"}, {"client", "laptop7", "--upn", "alice@corp.test", "--pfx"}} {
		code, out, errOut := do(t, append(append([]string{"cert"}, args...), "--dir", dir)...)
		if code != exitOK {
			t.Fatalf("cert %q: %d %s", args, code, errOut)
		}
		want := map[string]string{"server": "New-SmbServerCertificateMapping -Name files.test", "client": "New-SmbClientCertificateMapping"}[args[0]]
		if !strings.Contains(out, want) || want != "" && strings.Count(out, ".pfx") < 3 {
			t.Errorf("cert %q says %s", args, out)
		}
	}
	code, rule, errOut := do(t, "cert", "rules", lines)
	if code != exitOK || !strings.Contains(rule, "CN=Device CA") || !strings.Contains(rule, hash) {
		t.Fatalf("cert rules: %d %s %s", code, rule, errOut)
	}
	file := filepath.Join(dir, "config.yaml")
	text := fmt.Sprintf("tlshd:\n  certificates: [{names: [files.test], pfx: files.test.pfx, pfx_password_file: files.test.pfx.password}]\n  client_ca: [ca.crt]\n%s"+
		"routes: [{name: r, match: {server_name: files.test}, access: windows, smb: {backends: [nas]}}]\n", rule)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errOut := do(t, "check", "-c", file); code != exitOK {
		t.Errorf("check: %d %s\n%s", code, errOut, text)
	}
	if err := os.WriteFile(lines, []byte("Grant-SmbClientAccessToServer -Name x -IdentifierType SHA256 -Identifier 12\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, errOut := do(t, "cert", "rules", lines); code != exitFailed || out != "" || !strings.Contains(errOut, lines+":1: ") {
		t.Errorf("a bad line: %d %q %q", code, out, errOut)
	}
}
