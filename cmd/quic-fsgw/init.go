package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"text/template"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/gateway/pki"
)

var initCommand = command{
	name:    "init",
	args:    "--name FQDN --backend smb://HOST | nfs://HOST [--pfx FILE | --self-signed]",
	summary: "write a configuration and certificates to start with",
}

func init() { initCommand.run = runInit }

// initView is what the template of the configuration sees.
type initView struct {
	Name, Kind, ALPN, Backend, PFX, Client string
	Public                                 bool
}

func runInit(_ context.Context, io stdio, args []string) error {
	fs := initCommand.flags()
	name := fs.String("name", "", "the gateway's DNS `name`, as clients will write it")
	backend := fs.String("backend", "", "`URL` of the file server: smb://HOST[:PORT] or nfs://HOST[:PORT]")
	pfx := fs.String("pfx", "", "server certificate and key, PKCS #12 `file`")
	selfSigned := fs.Bool("self-signed", false, "make a server certificate with a CA of its own (the default without --pfx)")
	public := fs.Bool("public", false, "ask for no client certificate: the file server's logon alone protects the files")
	client := fs.String("client", "client1", "`name` of the first client certificate")
	dir := fs.String("dir", filepath.Dir(defaultConfig), "`folder` to write to")
	rest, err := initCommand.parse(io, fs, args)
	if err != nil {
		return err
	}
	switch {
	case len(rest) > 0:
		return usagef("init: unexpected %q", rest[0])
	case *name == "":
		return usagef("init: --name is missing (the DNS name of the gateway)")
	case *backend == "":
		return usagef("init: --backend is missing (smb://HOST or nfs://HOST)")
	case *pfx != "" && *selfSigned:
		return usagef("init: --pfx and --self-signed exclude each other")
	}
	v, err := newInitView(*name, *backend)
	if err != nil {
		return err
	}
	v.Public, v.Client = *public, fileName(*client)
	if *pfx != "" {
		if v.PFX, err = filepath.Abs(*pfx); err != nil {
			return err
		}
	}
	if err := writeInit(io, *dir, v); err != nil {
		return err
	}
	return nextSteps(io, *dir, v)
}

func newInitView(name, backend string) (initView, error) {
	var v initView
	norm, err := config.NormalizeServerName(name)
	if err != nil {
		return v, usagef("init: --name: %w", err)
	}
	u, err := url.Parse(backend)
	if err != nil || u.Host == "" || (u.Scheme != "smb" && u.Scheme != "nfs") || u.User != nil {
		return v, usagef("init: --backend %q is not smb://HOST or nfs://HOST", backend)
	}
	v = initView{Name: norm, Kind: u.Scheme, ALPN: map[string]string{"smb": "smb", "nfs": "sunrpc"}[u.Scheme]}
	v.Backend = u.Host
	if u.Port() == "" {
		v.Backend += map[string]string{"smb": ":445", "nfs": ":2049"}[u.Scheme]
	}
	return v, nil
}

// writeInit writes the configuration and certificates, and proves that the
// result passes check. On an error nothing stays behind that was not there.
func writeInit(io stdio, dir string, v initView) (err error) {
	var text bytes.Buffer
	if err := initTemplate.Execute(&text, v); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	file := filepath.Join(dir, "config.yaml")
	if _, err := config.Parse(file, text.Bytes()); err != nil {
		return reportConfig(io, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if err := pki.WriteNew(file, text.Bytes(), 0o644); err != nil {
		return fmt.Errorf("init: %w (existing files are never replaced; --dir chooses another folder)", err)
	}
	written := []string{file}
	defer func() {
		if err != nil {
			for _, f := range written {
				err = errors.Join(err, os.Remove(f))
			}
		}
	}()
	var made bytes.Buffer
	if v.PFX == "" || !v.Public {
		if err = initCertificates(&made, dir, v, &written); err != nil {
			return err
		}
	}
	c, err := config.Load(file)
	if err != nil {
		return reportConfig(io, err)
	}
	if problems, _ := c.CheckFiles(time.Now()); len(problems) > 0 {
		return reportConfig(io, problems)
	}
	_, err = fmt.Fprintf(io.out, "wrote\n%s\n%s", file, made.String())
	return err
}

// initCertificates makes the CA, the server's certificate unless there is a
// PFX, and the first client's unless everybody may come in.
func initCertificates(out *bytes.Buffer, dir string, v initView, written *[]string) error {
	quiet := stdio{out: out, err: out}
	note := func(base string) {
		*written = append(*written, filepath.Join(dir, base+".crt"), filepath.Join(dir, base+".key"))
	}
	ca, err := makeCA(quiet, dir, "quic-fsgw CA for "+v.Name, caDays*24*time.Hour)
	if err != nil {
		return err
	}
	note("ca")
	life := certDays * 24 * time.Hour
	rpc := v.Kind == "nfs"
	if v.PFX == "" {
		if err := issue(quiet, ca, dir, pki.Request{Name: v.Name, Server: true, RPC: rpc, DNS: []string{v.Name}, Life: life}); err != nil {
			return err
		}
		note(fileName(v.Name))
	}
	if v.Public {
		return nil
	}
	r := pki.Request{Name: v.Client, Client: true, RPC: rpc, Life: life, DNS: []string{v.Client + "." + v.Name}}
	pair, err := ca.Issue(time.Now(), r)
	if err != nil {
		return err
	}
	base := fileName(v.Client)
	if err := writePair(quiet, pair, dir, base); err != nil {
		return err
	}
	note(base)
	if v.Kind != "smb" {
		return nil
	}
	if err := writePFX(quiet, ca, pair, dir, base); err != nil { // for Windows
		return err
	}
	*written = append(*written, filepath.Join(dir, base+".pfx"), filepath.Join(dir, base+".pfx.password"))
	return nil
}

var initTemplate = template.Must(template.New("config").Parse(`# quic-fsgw configuration. docs/config.md has every key; after a change:
#   quic-fsgw check -c THIS_FILE

listen:
  - udp: ":443"            # UDP, all addresses; open it in the firewall

tlshd:                     # the process that holds the private keys
  certificates:
    - names: [{{.Name}}]
{{- if .PFX}}
      pfx: {{printf "%q" .PFX}}
{{- else}}
      cert: {{.Name}}.crt
      key: {{.Name}}.key
{{- end}}
{{- if not .Public}}
  client_ca: [ca.crt]      # whose client certificates count

access:
  devices:
    client_certificate: required
    allow:
      - any: true          # whoever has a certificate of client_ca; or, narrower:
      # - san: "dns:*.{{.Name}}"
      # - issuer: "CN=quic-fsgw CA for {{.Name}}"
    # deny:                # one deny anywhere in the chain wins over every allow
    #   - sha256: "the hash of a lost laptop's certificate"
{{- end}}

routes:
  - name: {{.Kind}}
    match: {alpn: {{.ALPN}}, server_name: {{.Name}}}
    access: {{if .Public}}public{{else}}devices{{end}}
{{- if eq .Kind "smb"}}
    smb:
      backends: ["{{.Backend}}"]
{{- else}}
    nfs:
      backends: ["{{.Backend}}"]
      exports: []          # paths that MOUNT lets through; empty: all
      identity:            # what users clients become on the file server
{{- if not .Public}}
        # map:
        #   - {san: "dns:{{.Client}}.{{.Name}}", uid: 1000, gid: 1000}
{{- end}}
        otherwise: squash  # everybody else is nobody (65534)
{{- end}}

admin:
  http: 127.0.0.1:9443     # /metrics /healthz /readyz /status
`))

// nextSteps prints what to type on the clients.
func nextSteps(io stdio, dir string, v initView) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "\nThe private keys are readable by this user alone.")
	if v.PFX == "" || !v.Public {
		fmt.Fprintf(&b, " ca.key is needed only to make more\ncertificates: keep it elsewhere.")
	}
	b.WriteString("\n")
	switch v.Kind {
	case "smb":
		fmt.Fprintf(&b, "\nWindows 11, after importing ca.crt into Trusted Root Certification Authorities:\n"+
			"  net use * \\\\%s\\SHARE /TRANSPORT:QUIC\n", v.Name)
		if !v.Public {
			base := fileName(v.Client)
			fmt.Fprintf(&b, "with %[1]s.pfx, in PowerShell as administrator; its password is in %[1]s.pfx.password:\n%[2]s",
				base, importLines(base, "New-SmbClientCertificateMapping -Namespace "+v.Name))
		}
		if v.Public {
			fmt.Fprintf(&b, "\nSamba 4.23 or later:\n  smbclient //%s/SHARE -U USER --option='client smb transports=quic' "+
				"--option='tls cafile=%s'\n", v.Name, filepath.Join(dir, "ca.crt"))
		} else {
			b.WriteString("\nSamba's client shows no client certificate: it can't use this route.\n")
		}
	case "nfs":
		fmt.Fprintf(&b, "\nThe file server must export to this gateway's address alone, with root_squash.\n"+
			"Clients become nobody until identity.map in config.yaml names them.\n")
	}
	_, err := io.out.Write(b.Bytes())
	return err
}
