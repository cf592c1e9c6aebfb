package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The manual pages of docs/man are written from the table of commands and
// their --help. UPDATE=1 writes them; otherwise they must be current.
func TestManualDocuments(t *testing.T) {
	pages := map[string]string{"quic-fsgw.1": overviewPage()}
	for _, c := range commands() {
		pages["quic-fsgw-"+c.name+".1"] = commandPage(t, c)
	}
	dir := filepath.Join("..", "..", "docs", "man")
	old, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range old {
		if _, ok := pages[filepath.Base(file)]; !ok {
			t.Errorf("%s belongs to no command", file)
		}
	}
	for name, want := range pages {
		file := filepath.Join(dir, name)
		if have, err := os.ReadFile(file); err == nil && string(have) == want {
			continue
		}
		if os.Getenv("UPDATE") == "" {
			t.Errorf("%s is not current: run UPDATE=1 go test ./cmd/quic-fsgw", file)
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// roff writes text so that no character of it is a request.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "\n.", "\n\\&.", "\n'", "\n\\&'").Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}

type page struct{ bytes.Buffer }

func newPage(name, summary string) *page {
	p := &page{}
	fmt.Fprintf(p, ".\\\" Written from the program's help by cmd/quic-fsgw/manual_linux_test.go.\n.TH %s 1\n.SH NAME\n%s \\- %s\n",
		roff(strings.ToUpper(name)), roff(name), roff(summary))
	return p
}

func (p *page) section(title string) { fmt.Fprintf(p, ".SH %s\n", title) }
func (p *page) text(s string)        { fmt.Fprintf(p, "%s\n", roff(s)) }
func (p *page) item(term, s string)  { fmt.Fprintf(p, ".TP\n.B %s\n%s\n", roff(term), roff(s)) }

// exits are the statuses of every command.
func (p *page) exits() {
	p.section("EXIT STATUS")
	for _, e := range []struct {
		code int
		text string
	}{
		{exitOK, "Done."}, {exitFailed, "Failed."}, {exitUsage, "Wrong usage or configuration."},
		{exitRemote, "The other side could not be reached, or is not trusted."},
	} {
		p.item(fmt.Sprint(e.code), e.text)
	}
	fmt.Fprint(p, ".PP\n")
	p.text("Errors are written to standard error, as \"quic-fsgw: what: why (hint)\".")
}

func overviewPage() string {
	p := newPage("quic-fsgw", "QUIC and device certificates in front of SMB and NFS servers")
	p.section("SYNOPSIS")
	p.text("quic-fsgw COMMAND [ARGUMENTS]\n.br\nquic-fsgw COMMAND --help")
	p.section("DESCRIPTION")
	p.text("quic-fsgw is a gateway that clients reach over QUIC (UDP), by SMB over QUIC or RPC over QUIC, and that reaches\n" +
		"ordinary SMB and NFS servers over TCP. Commands for files and for local TCP ports are clients of such gateways.")
	p.section("COMMANDS")
	for _, c := range commands() {
		p.item("quic-fsgw-"+c.name+"(1)", strings.ToUpper(c.summary[:1])+c.summary[1:]+".")
	}
	p.section("URLS")
	p.item("smb://[USER[:PASSWORD]@]HOST[:PORT]/SHARE/PATH", "A place on an SMB server.")
	p.item("nfs://HOST[:PORT]/EXPORT/PATH", "A place on an NFS server.")
	fmt.Fprint(p, ".PP\n")
	p.text("The port is 443 where none is given. Both are reached over QUIC, always.")
	p.section("ENVIRONMENT")
	p.item("QUIC_FSGW_PASSWORD", "Password of the user in an smb:// URL, where the URL has none and no --password-file is given.")
	p.section("FILES")
	p.item(defaultConfig, "Configuration of the gateway.")
	p.exits()
	return p.String()
}

func commandPage(t *testing.T, c command) string {
	t.Helper()
	code, help, errOut := do(t, c.name, "--help")
	if code != 0 || errOut != "" {
		t.Fatalf("%s --help: exit %d, %s", c.name, code, errOut)
	}
	p := newPage("quic-fsgw-"+c.name, c.summary)
	p.section("SYNOPSIS")
	p.text("quic-fsgw " + c.name + " " + c.args)
	p.section("DESCRIPTION")
	about := manual[c.name]
	if about == "" {
		t.Fatalf("the manual says nothing about %s", c.name)
	}
	p.text(about)
	if c.name == benchCommand.name {
		for _, end := range []string{"server", "client"} {
			_, help, _ := do(t, c.name, end, "--help")
			p.options(t, "OPTIONS OF "+end, help)
		}
	} else {
		p.options(t, "OPTIONS", help)
	}
	p.exits()
	p.section("SEE ALSO")
	p.text("quic-fsgw(1)")
	return p.String()
}

// options lists the flags that a help ends with.
func (p *page) options(t *testing.T, title, help string) {
	t.Helper()
	_, flags, ok := strings.Cut(help, "\n\n")
	if !ok || flags == "" {
		return
	}
	p.section(title)
	for entry := range strings.SplitSeq("\n"+strings.TrimSuffix(flags, "\n"), "\n  -") {
		if entry == "" {
			continue // before the first
		}
		term, usage, ok := strings.Cut(entry, "\n")
		if !ok {
			t.Fatalf("the help has an odd entry: %q", entry)
		}
		p.item("-"+term, strings.TrimSpace(usage)+".")
	}
}

// manual is what the pages say beyond the help.
var manual = map[string]string{
	"serve": "Serves a configuration: opens the UDP sockets, starts the packet process and the handshake helper, and\n" +
		"starts each again when it ends. SIGHUP applies a changed configuration, whole or not at all. SIGTERM refuses\n" +
		"new connections, lets the present ones end for up to 30 seconds, and ends.\n" +
		"With --dev it serves a folder over NFS, and over SMB where smbd is installed, with throwaway certificates, and\n" +
		"prints what to type next.",
	"tlshd": "Runs the handshake helper, which alone reads private keys, for gateways whose configuration says\n" +
		"tlshd.mode: socket. SIGHUP reads the configuration again.",
	"init": "Writes config.yaml, a CA, a server certificate and one client certificate, and prints what to type on the\n" +
		"clients. Nothing that exists is replaced.",
	"check": "Checks a configuration and the certificates, keys and lists it names. Every problem is reported, with line\n" +
		"and column.",
	"connect": "Listens on a local TCP port and carries what comes there to a gateway over QUIC, with this machine's\n" +
		"certificate. mount.cifs, mount.nfs and other clients without QUIC use that port.",
	"ls":     "Lists folders, or names files.",
	"cat":    "Writes files to standard output.",
	"cp":     "Copies between this machine and file servers, or between two of those. On a terminal it shows its progress.",
	"rm":     "Removes files, and with -r folders and everything below them. Symbolic links are removed, not followed.",
	"mkdir":  "Makes folders.",
	"df":     "Shows size, use and free space.",
	"status": "Asks a running gateway for its routes, backends and connections, through its admin socket.",
	"reload": "Makes a running gateway read its configuration again. It is applied whole or not at all; the error says why.",
	"doctor": "Looks at this host (clock, UDP offloads and buffers, open files, ports), the configuration, the certificates,\n" +
		"keys and lists that it names, their permissions and when they end, and asks every backend. Each line is ok, warn\n" +
		"or fail, with a fix. It ends with status 1 where something fails, 2 where the configuration can't be used.",
	"probe": "Asks a service for an answer of its protocol, through the gateway: NULL and, with an export, MOUNT for nfs\n" +
		"URLs; NEGOTIATE and, with a user, logon and share for smb URLs. It prints one line and measured values behind\n" +
		"a bar, as monitoring plugins do, and ends with their statuses: 0 OK, 1 WARNING (the certificate ends soon, or\n" +
		"is not verified), 2 CRITICAL (no answer, or refused, or the certificate all but ended), 3 UNKNOWN (wrong usage).",
	"drain": "Makes a running gateway refuse new connections, and waits for the present ones to end.",
	"cert": "Makes certificates with a small CA of its own, in a folder: ca.crt and ca.key, NAME.crt and NAME.key.\n" +
		"Nothing that exists is replaced. Keys are ECDSA on P-256, readable by their owner alone.",
	"bench": "Measures QUIC alone, between two of these: a server, and a client that downloads, uploads, or sends small\n" +
		"requests, by the protocol of draft-banks-quic-performance. Both ends print what they have measured; with --json\n" +
		"one object a run. The server's certificate is made at the start, and the client verifies none.",
	"version": "Prints the version of the program, of Go, and the platform.",
}
