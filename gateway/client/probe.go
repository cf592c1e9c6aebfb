package client

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/quic-fsgw/quic-fsgw/nfs/nfs3"
	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/smb"
)

// Probe is what a probe of a service found, as far as it came.
type Probe struct {
	Handshake time.Duration // from the first packet to the end of TLS
	Answer    time.Duration // from the first request to the protocol's answer
	Logon     time.Duration // SMB with a user, NFS with an export: for the logon, the mount; else 0
	Detail    string        // what answered, such as "SMB 3.1.1"
	Address   string        // that was reached
	Version   string        // of QUIC
	Resumed   bool
	// Certificate is the server's; nil where none was verified.
	Certificate *x509.Certificate
}

// ProbeService asks whether the service of a URL is there: handshake,
// certificate, and an answer of its protocol from the server behind the
// gateway. With a user an SMB server is logged on to and the share opened; an
// NFS export is mounted, unless the URL has none.
func ProbeService(ctx context.Context, d *Dialer, u *RemoteURL) (*Probe, error) {
	p := &Probe{}
	alpn := "sunrpc"
	if u.Scheme == "smb" {
		alpn = "smb"
	}
	start := time.Now()
	c, err := d.DialConn(ctx, alpn, u.Host, u.Port)
	if err != nil {
		return p, err
	}
	defer c.CloseWithError(0, "")
	p.Handshake, p.Address, p.Version = time.Since(start), c.RemoteAddrPort().String(), c.Version().String()
	if t := c.TLS(); t != nil {
		p.Resumed = t.Resumed
		if len(t.Chain) > 0 {
			if p.Certificate, err = x509.ParseCertificate(t.Chain[0]); err != nil {
				return p, fmt.Errorf("the server's certificate: %w", err)
			}
		}
	}
	if u.Scheme == "smb" {
		err = p.smb(ctx, d, u, c)
	} else {
		err = p.nfs(ctx, u, c)
	}
	return p, connectError(u, err)
}

func (p *Probe) nfs(ctx context.Context, u *RemoteURL, c *quic.Conn) error {
	stream, err := c.OpenStream(ctx)
	if err != nil {
		return &ConnectError{u.String(), err}
	}
	n, err := nfs3.NewConn(stream, nfs3.Config{Auth: localCredential()})
	if err != nil {
		return err
	}
	defer n.Close()
	start := time.Now()
	if err := n.Null(ctx); err != nil {
		return fmt.Errorf("NFS: %w", refusedBy(c, err))
	}
	p.Answer, p.Detail = time.Since(start), "NFS 3"
	if u.Path == "/" {
		return nil
	}
	start = time.Now()
	if _, _, err := n.Mnt(ctx, u.Path); err != nil {
		return fmt.Errorf("export %q: %w", u.Path, refusedBy(c, err))
	}
	p.Logon = time.Since(start)
	return nil
}

// smb asks on the connection that is there; a logon takes one of its own, as
// SMB over QUIC has one stream to a connection.
func (p *Probe) smb(ctx context.Context, d *Dialer, u *RemoteURL, first *quic.Conn) error {
	domain, user := u.Account()
	conf := smb.ProbeConfig{Host: u.Host, User: user, Domain: domain, Password: u.Password}
	if user != "" && u.Path != "/" {
		conf.Share, _, _ = u.Share()
	}
	conn := first
	res, err := smb.Probe(ctx, func(ctx context.Context) (net.Conn, error) {
		if conn == nil {
			s, err := d.DialConn(ctx, "smb", u.Host, u.Port)
			if err != nil {
				return nil, err
			}
			context.AfterFunc(ctx, func() { _ = s.CloseWithError(0, "") })
			conn = s
		}
		s, err := conn.OpenStream(ctx)
		conn = nil
		if err != nil {
			return nil, err // not a nil *Stream in an interface
		}
		return s, nil
	}, conf)
	p.Answer, p.Logon = res.NegotiateTime, res.LogonTime
	if res.NegotiateTime > 0 {
		p.Detail = "SMB " + res.Response.Dialect.String()
	}
	return refusedBy(first, err)
}

// refusedBy is err, with the reason that the gateway gave for ending the
// connection: a refusal may come while the first request waits for its answer.
func refusedBy(c *quic.Conn, err error) error {
	if why := c.Err(); err != nil && why != nil && !errors.Is(err, why) {
		return fmt.Errorf("%w (%w)", err, why)
	}
	return err
}
