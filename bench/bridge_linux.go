package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/client"
	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
	"github.com/quic-fsgw/quic-fsgw/nfs/nfs3"
	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/smb"
	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// A bridged is one protocol's server and the ways to it.
type bridged struct {
	name string
	ways []way
}

// A way is a connection on which one operation after the other is done.
type way struct {
	name    string
	once    func() error
	gateway *daemon // nil: it is not on this way
}

// bridgeOps is how many operations a round of a way has.
const bridgeOps = 1000

// bridge is what a small operation costs more through the gateway.
func (r *runner) bridge(ctx context.Context, rep *report) (err error) {
	b, err := r.startBridge(ctx)
	if b != nil {
		defer b.close()
	}
	if err != nil {
		return err
	}
	rep.section("What the bridge adds to a small operation", fmt.Sprintf(
		"One operation in flight, our own client, %d operations a round: microseconds of an operation, what the way adds to direct TCP, and "+
			"CPU microseconds of the gateway's processes for each.", bridgeOps))
	t := rep.table("", "way", "p50 us", "p99 us", "added to p50, us", "gateway CPU us")
	for _, p := range b.protocols {
		all := make(map[string][]operation)
		for range pick(r.quick, 3, 7) {
			for _, w := range p.ways {
				m, err := w.measure()
				if err != nil {
					return fmt.Errorf("%s, %s: %w", p.name, w.name, err)
				}
				all[w.name] = append(all[w.name], m)
			}
		}
		base := middle(all[direct], operation.median)
		for _, w := range p.ways {
			m := all[w.name]
			cpu := ""
			if w.gateway != nil {
				cpu = spread("%.1f", m, operation.gatewayCPU)
			}
			t.row(p.name, w.name, spread("%.0f", m, operation.median), spread("%.0f", m, operation.tail), fmt.Sprintf("%.0f", middle(m, operation.median)-base), cpu)
		}
	}
	return nil
}

// operation is a round's result, in microseconds.
type operation struct{ p50, p99, cpu float64 }

func (o operation) median() float64     { return o.p50 }
func (o operation) tail() float64       { return o.p99 }
func (o operation) gatewayCPU() float64 { return o.cpu }

func (w *way) measure() (operation, error) {
	took := make([]time.Duration, bridgeOps)
	cpu := 0.0
	if w.gateway != nil {
		cpu = w.gateway.cpu()
	}
	for i := range took {
		start := time.Now()
		if err := w.once(); err != nil {
			return operation{}, err
		}
		took[i] = time.Since(start)
	}
	if w.gateway != nil {
		cpu = w.gateway.cpu() - cpu
	}
	slices.Sort(took)
	micros := func(d time.Duration) float64 { return float64(d) / 1e3 }
	return operation{micros(took[len(took)/2]), micros(took[len(took)*99/100]), cpu * 1e6 / bridgeOps}, nil
}

// bridgeSite is a gateway before both kinds of servers.
type bridgeSite struct {
	protocols []bridged
	undo      []func()
}

func (b *bridgeSite) close() {
	for _, f := range slices.Backward(b.undo) {
		f()
	}
}

// startBridge starts the servers, a gateway, `connect` for each protocol, and opens all ways.
func (r *runner) startBridge(ctx context.Context) (b *bridgeSite, err error) {
	b = &bridgeSite{}
	sh, err := startShare(ctx, 0)
	if err != nil {
		return b, err
	}
	b.undo = append(b.undo, sh.close)
	defer rescue(&err)
	ganesha := ganeshatest.Start(sh.s)
	dir, err := os.MkdirTemp("", "fsgw")
	if err != nil {
		return b, err
	}
	b.undo = append(b.undo, func() { _ = os.RemoveAll(dir) })
	_, mount, err := net.SplitHostPort(ganesha.Mount)
	if err != nil {
		return b, err
	}
	smbd := fmt.Sprintf("127.0.0.1:%d", sh.port())
	gateway, port, config, err := r.startServe(ctx, dir, 0, fmt.Sprintf(`  - name: office
    match: {alpn: smb, server_name: %[1]s}
    access: public
    smb: {backends: ["%[2]s"], min_dialect: "2.1"}
  - name: home
    match: {alpn: sunrpc, server_name: %[1]s}
    access: public
    nfs: {backends: ["%[3]s"], ports: {mount: %[4]s}}
`, siteName, smbd, ganesha.NFS, mount), nil)
	if err != nil {
		return b, err
	}
	b.undo = append(b.undo, gateway.stop)
	native, err := trusting(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return b, err
	}
	b.undo = append(b.undo, func() { _ = native.Close() })
	for _, p := range []bridgedServer{
		{"SMB create and close", "smb", "smb", smbd, openSMB}, {"NFS GETATTR", "nfs", "sunrpc", ganesha.NFS, openNFS(ganesha.Mount)},
	} {
		connect := &pair{}
		connect.client, err = startDaemon(ctx, nil, r.fsgw, "connect", "-c", config, "--listen", "127.0.0.1:0", "--ca", filepath.Join(dir, "ca.crt"),
			"--server-name", siteName, fmt.Sprintf("%s://127.0.0.1:%d", p.scheme, port))
		if err != nil {
			return b, err
		}
		b.undo = append(b.undo, connect.client.stop)
		if err := connect.listensAt(" carries to "); err != nil {
			return b, err
		}
		if err := b.open(ctx, p, gateway, native, port, connect.port); err != nil {
			return b, fmt.Errorf("%s, %w", p.name, err)
		}
	}
	return b, nil
}

// A bridgedServer is a server and how its operation is made ready on a connection.
type bridgedServer struct {
	name, scheme, alpn, addr string
	open                     func(context.Context, net.Conn) (func() error, error)
}

// open opens the ways to a server.
func (b *bridgeSite) open(ctx context.Context, p bridgedServer, gateway *daemon, native *client.Dialer, port, connect int) error {
	proto := bridged{name: p.name}
	for _, w := range []struct {
		name    string
		gateway *daemon
		dial    func() (net.Conn, error)
	}{
		{direct, nil, func() (net.Conn, error) { return net.Dial("tcp", p.addr) }},
		{"QUIC, `serve`", gateway, func() (net.Conn, error) {
			c, err := native.DialConn(ctx, p.alpn, "127.0.0.1", uint16(port))
			if err != nil {
				return nil, err
			}
			return c.OpenStream(ctx)
		}},
		{"TCP, `connect`, QUIC, `serve`", gateway, func() (net.Conn, error) { return net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(connect)) }},
	} {
		conn, err := w.dial()
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		b.undo = append(b.undo, func() { _ = conn.Close() })
		once, err := p.open(ctx, conn)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		proto.ways = append(proto.ways, way{w.name, once, w.gateway})
	}
	b.protocols = append(b.protocols, proto)
	return nil
}

// trusting is a dialer that believes the CA of a file.
func trusting(ca string) (*client.Dialer, error) {
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in " + ca)
	}
	return &client.Dialer{ServerName: siteName, Handshaker: quic.TLS(&tls.Config{RootCAs: roots})}, nil
}

// openSMB logs on; the operation is CREATE and CLOSE of one file.
func openSMB(ctx context.Context, conn net.Conn) (func() error, error) {
	c, err := smb.NewClient(ctx, conn, smb.ClientConfig{Host: siteName, User: sambatest.User, Password: sambatest.Password})
	if err != nil {
		return nil, err
	}
	share, err := c.Mount(ctx, sambatest.Share)
	if err != nil {
		return nil, err
	}
	return func() error {
		f, err := share.OpenFile("small", os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		return f.Close()
	}, nil
}

// openNFS asks mountd for the export's root, straight: the handle is the same on
// every way. The operation is GETATTR of it.
func openNFS(mountd string) func(context.Context, net.Conn) (func() error, error) {
	return func(ctx context.Context, conn net.Conn) (func() error, error) {
		m, err := net.Dial("tcp", mountd)
		if err != nil {
			return nil, err
		}
		mc, err := nfs3.NewConn(m, nfs3.Config{})
		if err != nil {
			return nil, err
		}
		defer mc.Close()
		root, _, err := mc.Mnt(ctx, ganeshatest.Pseudo)
		if err != nil {
			return nil, err
		}
		c, err := nfs3.NewConn(conn, nfs3.Config{Auth: &nfs3.AuthSys{}})
		if err != nil {
			return nil, err
		}
		return func() error {
			_, err := c.Getattr(ctx, root)
			return err
		}, nil
	}
}
