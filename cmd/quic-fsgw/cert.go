package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/access"
	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/gateway/pki"
)

var certCommand = command{
	name:    "cert",
	args:    "init | server NAME... | client NAME [--dir DIR] [--pfx] | rules [FILE]",
	summary: "make certificates with a small CA, for tests and small sites",
}

func init() { certCommand.run = runCert }

// Lifetimes: a CA outlives the machines it was made for, a certificate should
// be renewed every year.
const (
	caDays   = 3650
	certDays = 397
)

func runCert(_ context.Context, io stdio, args []string) error {
	fs := certCommand.flags()
	dir := fs.String("dir", ".", "`folder` of ca.crt and ca.key, where the new files go too")
	days := fs.Int("days", 0, "days until the certificate ends (default 397, for the CA 3650)")
	rpc := fs.Bool("rpc", false, "add the usages of RFC 9289 (rpcTLSServer, rpcTLSClient)")
	name := fs.String("ca-name", "quic-fsgw CA", "init: common name of the CA")
	email := fs.String("email", "", "client: e-mail `address` to put in, for identity maps")
	upn := fs.String("upn", "", "client: user principal `name` to put in, for Windows")
	authSys := fs.String("auth-sys", "", "client: `OID=UID:GID[,GID...]` to put in, for NFS routes with this auth_sys_oid")
	uri := fs.String("uri", "", "client: `URI` to put in")
	pfx := fs.Bool("pfx", false, "server, client: also a PKCS #12 file for Windows, with its password in a file beside it")
	rest, err := certCommand.parse(io, fs, args)
	if err != nil {
		return err
	}
	if len(rest) == 0 {
		return usagef("cert: what kind? (init, server, client or rules)")
	}
	if *days < 0 || *days > 36500 {
		return usagef("cert: --days %d is not from 1 to 36500", *days)
	}
	kind, names := rest[0], rest[1:]
	if *days == 0 {
		*days = certDays
		if kind == "init" {
			*days = caDays
		}
	}
	life := time.Duration(*days) * 24 * time.Hour
	switch kind {
	case "init":
		if len(names) > 0 {
			return usagef("cert init: unexpected %q", names[0])
		}
		_, err := makeCA(io, *dir, *name, life)
		return err
	case "server":
		return certServer(io, *dir, names, life, *rpc, *pfx)
	case "client":
		if len(names) != 1 {
			return usagef("cert client: needs one name, such as laptop7.corp.example.com")
		}
		r := pki.Request{Name: names[0], Client: true, RPC: *rpc, UPN: *upn, Life: life}
		r.Emails, r.URIs = some(*email), some(*uri)
		if *authSys != "" {
			der, err := parseAuthSys(*authSys)
			if err != nil {
				return usagef("cert client: --auth-sys %w", err)
			}
			r.Others = [][]byte{der}
		}
		if n, err := config.NormalizeServerName(names[0]); err == nil {
			r.DNS = []string{n}
		}
		ca, err := loadCA(*dir)
		if err != nil {
			return err
		}
		return issueAs(io, ca, *dir, r, *pfx)
	case "rules":
		return certRules(io, names, os.Stdin)
	}
	return usagef("cert: unknown kind %q (init, server, client or rules)", kind)
}

// parseAuthSys reads OID=UID:GID[,GID...] into a name for a certificate.
func parseAuthSys(s string) ([]byte, error) {
	oid, ids, _ := strings.Cut(s, "=")
	uid, gids, ok := strings.Cut(ids, ":")
	if !ok {
		return nil, fmt.Errorf("%q: needs OID=UID:GID", s)
	}
	id, err := access.ParseOID(oid)
	if err != nil {
		return nil, err
	}
	var u access.Unix
	for i, text := range append([]string{uid}, strings.Split(gids, ",")...) {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil || n == 0 || n == 1<<32-1 {
			return nil, fmt.Errorf("%q: %q is not a number from 1 to 4294967294", s, text)
		}
		switch i {
		case 0:
			u.UID = uint32(n)
		case 1:
			u.GID = uint32(n)
		default:
			u.Groups = append(u.Groups, uint32(n))
		}
	}
	if len(u.Groups) > 16 {
		return nil, fmt.Errorf("%q: more than 17 gids", s)
	}
	return access.MarshalAuthSys(id, u)
}

func some(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// certServer issues a certificate for host names and addresses.
func certServer(io stdio, dir string, names []string, life time.Duration, rpc, pfx bool) error {
	if len(names) == 0 {
		return usagef("cert server: needs a name, such as files.example.com")
	}
	r := pki.Request{Name: names[0], Server: true, RPC: rpc, Life: life}
	for _, n := range names {
		if ip, err := netip.ParseAddr(n); err == nil {
			r.IPs = append(r.IPs, ip)
			continue
		}
		host, err := config.NormalizeServerName(strings.TrimPrefix(n, "*."))
		if err != nil {
			return usagef("cert server: %w", err)
		}
		if strings.HasPrefix(n, "*.") {
			host = "*." + host
		}
		r.DNS = append(r.DNS, host)
	}
	ca, err := loadCA(dir)
	if err != nil {
		return err
	}
	return issueAs(io, ca, dir, r, pfx)
}

func loadCA(dir string) (*pki.CA, error) {
	ca, err := pki.LoadCA(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w (quic-fsgw cert init --dir %s makes a CA)", err, dir)
	}
	return ca, err
}

// makeCA makes ca.crt and ca.key in dir.
func makeCA(io stdio, dir, name string, life time.Duration) (*pki.CA, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	ca, pair, err := pki.NewCA(time.Now(), name, life)
	if err != nil {
		return nil, err
	}
	return ca, writePair(io, pair, dir, "ca")
}

// issue writes NAME.crt and NAME.key.
func issue(io stdio, ca *pki.CA, dir string, r pki.Request) error {
	pair, err := ca.Issue(time.Now(), r)
	if err != nil {
		return err
	}
	return writePair(io, pair, dir, fileName(r.Name))
}

// issueAs is issue, and a PFX if that is asked for.
func issueAs(io stdio, ca *pki.CA, dir string, r pki.Request, pfx bool) error {
	if !pfx {
		return issue(io, ca, dir, r)
	}
	pair, err := ca.Issue(time.Now(), r)
	if err != nil {
		return err
	}
	base := fileName(r.Name)
	if err := writePair(io, pair, dir, base); err != nil {
		return err
	}
	if err := writePFX(io, ca, pair, dir, base); err != nil {
		return err
	}
	use := "New-SmbClientCertificateMapping -Namespace SERVER_NAME"
	if r.Server {
		use = "New-SmbServerCertificateMapping -Name " + r.Name
	}
	_, err = fmt.Fprintf(io.out, "\non Windows, in PowerShell as administrator, with the password above:\n%s", importLines(base, use))
	return err
}

// importLines are what imports base.pfx on Windows and maps it with use.
func importLines(base, use string) string {
	return fmt.Sprintf("  $c = Import-PfxCertificate -FilePath %s.pfx -CertStoreLocation Cert:\\LocalMachine\\My -Password (Read-Host -AsSecureString)\n"+
		"  %s -Thumbprint $c[0].Thumbprint -StoreName My\n", base, use)
}

// writePFX writes a pair for Windows, and the password beside it: whoever has the
// one by accident can't use it without the other.
func writePFX(io stdio, ca *pki.CA, pair *pki.Pair, dir, base string) error {
	password := rand.Text()
	b, err := pair.PFX(ca, password)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{base + ".pfx", b}, {base + ".pfx.password", []byte(password + "\n")}} {
		name := filepath.Join(dir, f.name)
		if err := pki.WriteNew(name, f.data, 0o600); err != nil {
			return fmt.Errorf("%w (existing files are never replaced)", err)
		}
		if _, err := fmt.Fprintln(io.out, name); err != nil {
			return err
		}
	}
	return nil
}

func writePair(io stdio, pair *pki.Pair, dir, base string) error {
	crt, key := filepath.Join(dir, base+".crt"), filepath.Join(dir, base+".key")
	if err := pair.Write(crt, key); err != nil {
		return fmt.Errorf("%w (existing files are never replaced)", err)
	}
	_, err := fmt.Fprintf(io.out, "%s\n%s\n", crt, key)
	return err
}

// fileName is a name that can't leave the folder or hide in it.
func fileName(name string) string {
	safe := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.@", r) {
			return r
		}
		return '_'
	}, name)
	return strings.TrimLeft(safe, ".")
}
