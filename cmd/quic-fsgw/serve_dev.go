//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/gateway/devserver"
	"github.com/quic-fsgw/quic-fsgw/gateway/pki"
)

// devName is the server name of --dev.
const devName = "localhost"

// devLife is how long throwaway certificates are valid.
const devLife = 7 * 24 * time.Hour

// serveDev serves a folder without any configuration: throwaway certificates
// in a temporary folder, an NFS server of our own behind the gateway and, where
// smbd is installed, Samba as well.
func serveDev(ctx context.Context, io stdio, dir string, addr netip.AddrPort) (err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return err
	}
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		return usagef("serve: --dev %q is not a folder", dir)
	}
	state, err := os.MkdirTemp("", "quic-fsgw-dev-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(state)
	if err := devCertificates(state, addr.Addr()); err != nil {
		return fmt.Errorf("serve: --dev: certificates: %w", err)
	}
	nfsAddr, stopNFS, err := startDevNFS(dir)
	if err != nil {
		return fmt.Errorf("serve: --dev: NFS server: %w", err)
	}
	defer stopNFS()
	smbAddr, stopSMB, err := startDevSMB(ctx, state, dir)
	if err != nil {
		fmt.Fprintf(io.err, "quic-fsgw: serve: --dev: no SMB: %v\n", err)
	}
	if stopSMB != nil {
		defer stopSMB()
	}
	file := filepath.Join(state, "config.yaml")
	if err := os.WriteFile(file, devConfig(state, addr, nfsAddr, smbAddr), 0o600); err != nil {
		return err
	}
	log := newLogger(&config.Log{Level: "warn", Format: "text"}, os.Stderr)
	var once sync.Once
	return supervised(ctx, file, log, func() { once.Do(func() { devHint(io, state, dir, addr, smbAddr) }) })
}

// devCertificates makes a CA, a server and a client certificate.
func devCertificates(state string, ip netip.Addr) error {
	now := time.Now()
	ca, pair, err := pki.NewCA(now, "quic-fsgw throwaway CA", devLife)
	if err != nil {
		return err
	}
	// The CA's key is needed here and never again: it stays in memory.
	if err := pki.WriteNew(filepath.Join(state, "ca.crt"), pair.Cert, 0o644); err != nil {
		return err
	}
	reqs := map[string]pki.Request{
		"server": {Name: devName, Server: true, RPC: true, DNS: []string{devName}, IPs: []netip.Addr{ip}, Life: devLife},
		"client": {Name: "dev client", Client: true, RPC: true, DNS: []string{"dev-client"}, Life: devLife},
	}
	for name, r := range reqs {
		p, err := ca.Issue(now, r)
		if err != nil {
			return err
		}
		if err := p.Write(filepath.Join(state, name+".crt"), filepath.Join(state, name+".key")); err != nil {
			return err
		}
	}
	return nil
}

// startDevNFS starts the NFS server in a process of its own: it parses what
// clients send, which the supervisor must not.
func startDevNFS(dir string) (netip.AddrPort, func(), error) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return netip.AddrPort{}, nil, err
	}
	defer l.Close()
	f, err := l.File()
	if err != nil {
		return netip.AddrPort{}, nil, err
	}
	defer f.Close()
	exe, err := os.Executable()
	if err != nil {
		return netip.AddrPort{}, nil, err
	}
	cmd := exec.Command(exe, devNFSWord, dir)
	cmd.Stderr, cmd.ExtraFiles = os.Stderr, []*os.File{f}
	stop, err := startChild(cmd)
	return l.Addr().(*net.TCPAddr).AddrPort(), stop, err
}

// startChild starts a process that ends with this one.
func startChild(cmd *exec.Cmd) (stop func(), err error) {
	in, err := cmd.StdinPipe() // its end of file tells the child that we are gone
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait()
	}()
	return func() {
		_ = in.Close()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			_ = cmd.Process.Kill()
			<-done
		}
	}, nil
}

// runDevNFS is the NFS server process.
func runDevNFS(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("dev NFS process: no folder (this is run by serve --dev)")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		var b [1]byte
		_, _ = os.Stdin.Read(b[:]) // returns when the parent is gone
		cancel()
	}()
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return err
	}
	s, err := devserver.New(devserver.Config{Dir: args[0], Export: "/dev", Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	return s.Serve(l)
}

// devConfig is the configuration of --dev.
func devConfig(state string, addr, nfs, smb netip.AddrPort) []byte {
	in := func(name string) string { return filepath.Join(state, name) }
	b := fmt.Appendf(nil, `listen: [{udp: %q}]
tlshd:
  certificates: [{names: [%s], cert: %q, key: %q}]
  client_ca: [%q]
access:
  dev:
    client_certificate: required
    allow: [{any: true}]
routes:
  - name: nfs
    match: {alpn: sunrpc, server_name: %s}
    access: dev
    nfs:
      backends: [%q]
      ports: {mount: %d, portmap: 0}
      identity: {otherwise: squash, squash_uid: %d, squash_gid: %d}
`, addr, devName, in("server.crt"), in("server.key"), in("ca.crt"), devName, nfs, nfs.Port(), max(os.Getuid(), 1), max(os.Getgid(), 1))
	if smb.IsValid() {
		b = fmt.Appendf(b, `  - name: smb
    match: {alpn: smb, server_name: %s}
    access: public
    smb: {backends: [%q], min_dialect: "2.1"}
`, devName, smb)
	}
	return fmt.Appendf(b, `admin: {socket: %q}
log: {level: warn, format: text}
`, in("admin.sock"))
}

// devHint prints what to type next.
func devHint(io stdio, state, dir string, addr, smb netip.AddrPort) {
	exe, err := os.Executable()
	if err != nil {
		exe = "quic-fsgw"
	}
	trust := fmt.Sprintf("--ca %s --cert %s --key %s", filepath.Join(state, "ca.crt"), filepath.Join(state, "client.crt"), filepath.Join(state, "client.key"))
	host := fmt.Sprintf("%s:%d", devName, addr.Port())
	if !addr.Addr().IsLoopback() {
		host, trust = addr.String(), trust+" --server-name "+devName
	}
	url := "nfs://" + host + "/dev"
	fmt.Fprintf(io.out, `Serving %s over QUIC on %s. Certificates, until this ends: %s

In another terminal:

  %s ls %s %s
  %s cp %s FILE %s/

For clients that have no QUIC (mount.nfs, libnfs):

  %s connect %s --listen 127.0.0.1:12049 nfs://%s
  nfs-ls 'nfs://127.0.0.1/dev?version=3&nfsport=12049&mountport=12049'
`, dir, addr, state, exe, trust, url, exe, trust, url, exe, trust, host)
	if smb.IsValid() {
		fmt.Fprintf(io.out, `
SMB, share dev, user dev, password dev:

  QUIC_FSGW_PASSWORD=dev %s ls --ca %s smb://dev@%s/dev
`, exe, filepath.Join(state, "ca.crt"), host)
	}
	fmt.Fprint(io.out, "\nCtrl-C ends it.\n")
}
