package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"
)

// Source is what the gateway lets its inside view see and do. Every function
// may be called from several goroutines at once and must honour its context.
type Source struct {
	// Healthy is nil while the process does its work; its error is shown by /healthz.
	Healthy func() error
	// Ready is nil while new connections are welcome; its error is shown by /readyz.
	// A gateway that drains is healthy and not ready.
	Ready func() error
	// Status is a JSON-able snapshot.
	Status func() any
	// Reload applies the changed configuration whole or not at all. warnings
	// are for the person who asked.
	Reload func(ctx context.Context) (warnings []string, err error)
	// Drain stops taking connections and returns when the last one has ended,
	// or with the context's error.
	Drain func(ctx context.Context) error
}

// Server answers on an HTTP address and on a Unix socket.
type Server struct {
	reg *Registry
	src Source
	log *slog.Logger
}

// NewServer returns a server that shows reg and src.
func NewServer(reg *Registry, src Source, log *slog.Logger) *Server {
	return &Server{reg: reg, src: src, log: log}
}

// Handler serves /metrics, /healthz, /readyz, /status and a page at /. It
// changes nothing and asks for no password: listen on loopback only.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		// The client is gone when this fails; there is nobody to tell.
		_, _ = s.reg.WriteTo(w)
	})
	mux.HandleFunc("GET /healthz", probe(s.src.Healthy))
	mux.HandleFunc("GET /readyz", probe(s.src.Ready))
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		b, err := json.MarshalIndent(s.src.Status(), "", "  ")
		if err != nil {
			http.Error(w, "status: "+err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(append(b, '\n'))
	})
	mux.HandleFunc("GET /{$}", s.page)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rebound(r) {
			http.Error(w, "use the address, or localhost", http.StatusMisdirectedRequest)
			return
		}
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		mux.ServeHTTP(w, r)
	})
}

// rebound reports a request to a loopback address under somebody's host name:
// a page of another site must not read this one through a name that it points
// at 127.0.0.1 (DNS rebinding).
func rebound(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if !ok || !local.IP.IsLoopback() {
		return false
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return host != "localhost" && net.ParseIP(strings.Trim(host, "[]")) == nil
}

func probe(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := check(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}

var pageTemplate = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>quic-fsgw</title><meta http-equiv="refresh" content="5">
<style>body{font:16px/1.5 system-ui,sans-serif;margin:2rem;max-width:70rem}pre{background:#f4f4f4;padding:1rem;overflow:auto}
.bad{color:#a00}@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}pre{background:#222}.bad{color:#f66}}</style></head>
<body><h1>quic-fsgw</h1>
<p>Health: {{if .Health}}<strong class="bad">{{.Health}}</strong>{{else}}ok{{end}}.
New connections: {{if .Ready}}<strong class="bad">{{.Ready}}</strong>{{else}}welcome{{end}}.
<a href="/metrics">metrics</a> <a href="/status">status</a></p>
<pre>{{.Status}}</pre></body></html>
`))

func (s *Server) page(w http.ResponseWriter, _ *http.Request) {
	var view struct{ Health, Ready, Status string }
	if err := s.src.Healthy(); err != nil {
		view.Health = err.Error()
	}
	if err := s.src.Ready(); err != nil {
		view.Ready = err.Error()
	}
	b, err := json.MarshalIndent(s.src.Status(), "", "  ")
	if err != nil {
		b = []byte(err.Error())
	}
	view.Status = string(b)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = pageTemplate.Execute(w, view)
}

// ServeHTTP answers HTTP on l until ctx ends, and closes l.
func (s *Server) ServeHTTP(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	err := srv.Serve(l)
	if ctx.Err() != nil && errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("admin http on %s: %w", l.Addr(), err)
}
