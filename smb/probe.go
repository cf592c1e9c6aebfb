package smb

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// ProbeConfig says how far a probe goes.
type ProbeConfig struct {
	Host     string        // the server's name for the logon and the UNC path
	User     string        // "": no logon, NEGOTIATE only
	Password string        // never logged
	Domain   string        // may be empty
	Share    string        // to connect after the logon; "": none
	Timeout  time.Duration // for the whole probe: default 10 s

	// OfferTransportSecurity adds the offer to do without encryption because the
	// transport is secure, to find a backend that would take it on plain TCP.
	OfferTransportSecurity bool
}

// ProbeResult is what a probe found.
type ProbeResult struct {
	Response      NegotiateResponse
	NegotiateTime time.Duration // from the request to the whole answer
	LogonTime     time.Duration // 0 without a logon
}

// Probe asks whether an SMB server is there: it sends a NEGOTIATE of its own on
// a connection from dial and reads the answer, then, if cfg has a user, logs on
// over a second connection. dial is called once for each.
func Probe(ctx context.Context, dial func(context.Context) (net.Conn, error), cfg ProbeConfig) (ProbeResult, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	res, err := probeNegotiate(ctx, dial, cfg)
	if err != nil || cfg.User == "" {
		return res, err
	}
	start := time.Now()
	conn, err := dial(ctx)
	if err != nil {
		return res, fmt.Errorf("smb: probe: %w", err)
	}
	c, err := NewClient(ctx, conn, ClientConfig{Host: cfg.Host, User: cfg.User, Password: cfg.Password, Domain: cfg.Domain})
	if err != nil {
		return res, fmt.Errorf("smb: probe: %w", err)
	}
	defer c.Close(ctx)
	if cfg.Share != "" {
		share, err := c.Mount(ctx, cfg.Share)
		if err != nil {
			return res, fmt.Errorf("smb: probe: %w", err)
		}
		if err := share.Close(); err != nil {
			return res, fmt.Errorf("smb: probe: %w", err)
		}
	}
	res.LogonTime = time.Since(start)
	return res, nil
}

func probeNegotiate(ctx context.Context, dial func(context.Context) (net.Conn, error), cfg ProbeConfig) (ProbeResult, error) {
	var res ProbeResult
	conn, err := dial(ctx)
	if err != nil {
		return res, fmt.Errorf("smb: probe: %w", err)
	}
	defer conn.Close()
	start := time.Now()
	err = withDeadline(ctx, conn, cfg.Timeout, func() error {
		if _, err := conn.Write(negotiateRequest(cfg)); err != nil {
			return err
		}
		res.Response, err = readNegotiateResponse(conn)
		return err
	})
	if err != nil {
		return res, fmt.Errorf("smb: probe: no answer to NEGOTIATE: %w", err)
	}
	res.NegotiateTime = time.Since(start)
	if s := res.Response.Status; s != 0 {
		return res, fmt.Errorf("smb: probe: the server refuses NEGOTIATE with status 0x%08x", s)
	}
	return res, nil
}

func readNegotiateResponse(r io.Reader) (NegotiateResponse, error) {
	in := NewInspector(ToClient, maxNegotiate)
	var head [preambleLen]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return NegotiateResponse{}, err
	}
	if _, err := in.Inspect(head[:]); err != nil {
		return NegotiateResponse{}, err
	}
	msg := make([]byte, protocolIDLen+in.Left())
	copy(msg, head[frameHeaderLen:])
	if _, err := io.ReadFull(r, msg[protocolIDLen:]); err != nil {
		return NegotiateResponse{}, err
	}
	return ParseNegotiateResponse(msg)
}

// negotiateRequest builds a framed NEGOTIATE that offers every dialect, as
// MS-SMB2 2.2.3 has it.
func negotiateRequest(cfg ProbeConfig) []byte {
	le := binary.LittleEndian
	dialects := []Dialect{Dialect202, Dialect210, Dialect300, Dialect302, Dialect311}
	msg := make([]byte, headerLen+36)
	copy(msg, "\xfeSMB")
	le.PutUint16(msg[4:], headerLen) // StructureSize
	le.PutUint16(msg[14:], 1)        // CreditRequest
	body := msg[headerLen:]
	le.PutUint16(body, 36) // StructureSize
	le.PutUint16(body[2:], uint16(len(dialects)))
	le.PutUint16(body[4:], 1)    // signing enabled
	le.PutUint32(body[8:], 0x44) // encryption, large MTU
	rand.Read(body[12:28])       // ClientGuid
	for _, d := range dialects {
		msg = le.AppendUint16(msg, uint16(d))
	}
	count := uint16(0)
	context := func(kind uint16, data []byte) {
		for len(msg)%8 != 0 {
			msg = append(msg, 0)
		}
		if count == 0 {
			le.PutUint32(msg[headerLen+28:], uint32(len(msg)))
		}
		msg = le.AppendUint16(msg, kind)
		msg = le.AppendUint16(msg, uint16(len(data)))
		msg = append(msg, 0, 0, 0, 0)
		msg = append(msg, data...)
		count++
	}
	preauth := []byte{1, 0, 32, 0, 1, 0} // one algorithm, 32 octets of salt, SHA-512
	var salt [32]byte
	rand.Read(salt[:])
	context(ctxPreauthIntegrity, append(preauth, salt[:]...))
	context(ctxEncryption, []byte{4, 0, 2, 0, 1, 0, 4, 0, 3, 0}) // AES-128-GCM, -CCM, AES-256-GCM, -CCM
	context(ctxSigning, []byte{3, 0, 2, 0, 1, 0, 0, 0})          // AES-GMAC, AES-CMAC, HMAC-SHA256
	if cfg.Host != "" && net.ParseIP(cfg.Host) == nil {
		context(ctxNetname, encodeUTF16(cfg.Host))
	}
	if cfg.OfferTransportSecurity {
		context(ctxTransport, []byte{transportSecurity, 0, 0, 0})
	}
	le.PutUint16(msg[headerLen+32:], count)
	framed := binary.BigEndian.AppendUint32(make([]byte, 0, frameHeaderLen+len(msg)), uint32(len(msg)))
	return append(framed, msg...)
}

// ErrTransportSecurity is returned by CheckBackend for a server that takes
// plain TCP for a secure transport.
var ErrTransportSecurity = errors.New("smb: the server accepts transport-level security on TCP: traffic behind the gateway would not be encrypted")

// CheckBackend probes the backend at addr and also makes the offer that no
// server may accept on TCP.
func (b *Backends) CheckBackend(ctx context.Context, addr string, cfg ProbeConfig) (ProbeResult, error) {
	if !b.Has(addr) {
		return ProbeResult{}, fmt.Errorf("smb: %q is not one of the backends", addr)
	}
	cfg.OfferTransportSecurity = true
	res, err := Probe(ctx, func(ctx context.Context) (net.Conn, error) { return b.dial(ctx, addr, b.localHeader()) }, cfg)
	if err == nil && res.Response.TransportSecurity {
		err = ErrTransportSecurity
	}
	return res, err
}
