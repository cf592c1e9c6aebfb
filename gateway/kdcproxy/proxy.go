// Package kdcproxy is a KDC proxy (MS-KKDCP): it takes Kerberos messages by HTTPS
// from clients that reach no key distribution centre, such as laptops outside,
// and passes them to the KDCs of the realms it is told of. It reads no more of a
// message than its kind; what a client proves, it proves to the KDC.
//
// The server around it ends TLS; it never runs in the packet process.
package kdcproxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"strings"
	"time"
)

// Path is where clients post (MS-KKDCP 2.1).
const Path = "/KdcProxy"

// ContentType of requests and answers.
const ContentType = "application/kerberos"

// Realm is a Kerberos realm and who serves it.
type Realm struct {
	Name      string
	KDCs      []string // host:port, TCP; tried in order
	Passwords []string // host:port of the password service, TCP; none: changes of passwords are refused
}

// Config of a Proxy.
type Config struct {
	Realms  []Realm
	Timeout time.Duration // for the exchange with one server, 1 s to 1 min: default 10 s
	Limit   int           // requests at a time, further ones are answered 503: default 64
	Logger  *slog.Logger  // nil: none
}

// Proxy is an http.Handler.
type Proxy struct {
	realms  map[string]Realm
	only    string // the realm of clients that name none; "" where there are several
	timeout time.Duration
	slots   chan struct{}
	log     *slog.Logger
}

// New checks cfg.
func New(cfg Config) (*Proxy, error) {
	p := &Proxy{realms: make(map[string]Realm), timeout: cfg.Timeout, log: cfg.Logger}
	if p.timeout == 0 {
		p.timeout = 10 * time.Second
	}
	if p.timeout < time.Second || p.timeout > time.Minute {
		return nil, fmt.Errorf("kdcproxy: a timeout of %s is not from 1s to 1m", p.timeout)
	}
	if cfg.Limit == 0 {
		cfg.Limit = 64
	}
	if cfg.Limit < 0 || cfg.Limit > 1<<16 {
		return nil, fmt.Errorf("kdcproxy: a limit of %d requests is not from 1 to 65536", cfg.Limit)
	}
	p.slots = make(chan struct{}, cfg.Limit)
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	for _, r := range cfg.Realms {
		name := strings.ToUpper(r.Name)
		if _, twice := p.realms[name]; twice || name == "" || len(r.KDCs) == 0 {
			return nil, fmt.Errorf("kdcproxy: realm %q has no name, no KDC, or stands there twice", r.Name)
		}
		p.realms[name] = r
		p.only = name
	}
	if len(p.realms) == 0 {
		return nil, errors.New("kdcproxy: no realm")
	}
	if len(p.realms) > 1 {
		p.only = ""
	}
	return p, nil
}

// A refusal is an error with the HTTP status it is answered by.
type refusal struct {
	status int
	why    string
}

func (r *refusal) Error() string { return r.why }

// ServeHTTP answers one request. Why it refuses one is in the log alone.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, h *http.Request) {
	start := time.Now()
	reply, realm, err := p.serve(w, h)
	attrs := []any{"remote", h.RemoteAddr, "realm", realm, "duration", time.Since(start)}
	if err != nil {
		status := http.StatusServiceUnavailable
		var r *refusal
		if errors.As(err, &r) {
			status = r.status
		}
		p.log.Warn("KDC proxy refused a request", append(attrs, "status", status, "err", err)...)
		http.Error(w, http.StatusText(status), status)
		return
	}
	p.log.Info("KDC proxy answered", append(attrs, "bytes", len(reply))...)
	w.Header().Set("Content-Type", ContentType)
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(reply) // the client is gone: nobody to tell
}

func (p *Proxy) serve(w http.ResponseWriter, h *http.Request) (reply []byte, realm string, err error) {
	if h.URL.Path != Path {
		return nil, "", &refusal{http.StatusNotFound, "no such path"}
	}
	if h.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return nil, "", &refusal{http.StatusMethodNotAllowed, "not a POST"}
	}
	if t := h.Header.Get("Content-Type"); t != "" {
		if kind, _, err := mime.ParseMediaType(t); err != nil || kind != ContentType {
			return nil, "", &refusal{http.StatusUnsupportedMediaType, "not " + ContentType}
		}
	}
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	default:
		return nil, "", errors.New("as many requests are under way as may be")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, h.Body, maxMessage))
	if err != nil {
		return nil, "", &refusal{http.StatusBadRequest, "reading the request: " + err.Error()}
	}
	r, err := parseRequest(body)
	if err != nil {
		return nil, r.realm, &refusal{http.StatusBadRequest, err.Error()}
	}
	if r.realm == "" {
		r.realm = p.only
	}
	known, ok := p.realms[r.realm]
	if !ok {
		return nil, r.realm, &refusal{http.StatusForbidden, "no such realm here"}
	}
	servers := known.KDCs
	if r.kind == kindPassword {
		servers = known.Passwords
	}
	if len(servers) == 0 {
		return nil, r.realm, &refusal{http.StatusForbidden, "the realm's passwords are not changed through here"}
	}
	reply, err = p.ask(h.Context(), servers, &r)
	return reply, r.realm, err
}

// ask tries the servers in order and returns the first answer, wrapped.
func (p *Proxy) ask(ctx context.Context, servers []string, r *request) ([]byte, error) {
	var errs []error
	for _, addr := range servers {
		answer, err := exchange(ctx, addr, p.timeout, r)
		if err == nil {
			return marshalReply(answer)
		}
		if errs = append(errs, fmt.Errorf("KDC %s: %w", addr, err)); ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// exchange sends a message to one server and reads its answer.
func exchange(ctx context.Context, addr string, limit time.Duration, r *request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(r.message); err != nil {
		return nil, err
	}
	var head [4]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxMessage {
		return nil, fmt.Errorf("an answer of %d octets, at most %d are taken", n, maxMessage)
	}
	answer := append(head[:], make([]byte, n)...)
	if _, err := io.ReadFull(conn, answer[4:]); err != nil {
		return nil, err
	}
	return answer, checkReply(r.kind, answer)
}
