// Package devserver is the NFSv3 server of `quic-fsgw serve --dev DIR`: one
// directory, for development and demonstrations. It identifies nobody and
// acts as the user it runs as, so it belongs on loopback or behind a gateway
// that admits its clients.
//
// The procedures are those of github.com/willscott/go-nfs, over a file system
// of our own that cannot be left (rootfs.go). Between the network and the
// library stands a front (front.go, procs.go) that bounds and reassembles
// records and answers itself what the library does not do right: the MOUNT
// program, WRITE and COMMIT (which have to mean what they say about stable
// storage), exclusive CREATE, REMOVE, RMDIR, RENAME, LINK, FSSTAT
// and FSINFO.
package devserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"

	billy "github.com/go-git/go-billy/v5"
	nfs "github.com/willscott/go-nfs"
)

// Config says what to serve.
type Config struct {
	Dir      string // the directory; nothing outside of it can be reached
	Export   string // the path clients mount; "": "/"
	ReadOnly bool
	Logger   *slog.Logger // nil: slog.Default
}

const (
	maxConns = 256
	// maxIO is the most octets of one READ or WRITE.
	maxIO = 1 << 20
	// maxRecord bounds one call: a WRITE with its header.
	maxRecord = maxIO + 4<<10
	// stallTime is how long a client may take over one record, or over taking
	// one reply.
	stallTime = time.Minute
)

// Server serves one directory.
type Server struct {
	cfg  Config
	root *os.Root
	fs   *rootFS
	tab  *handles
	verf [8]byte // of WRITE and COMMIT: new in each process

	mu     sync.Mutex
	conns  map[*front]struct{}
	closed bool
	lis    []net.Listener
	wg     sync.WaitGroup
	excl   map[string][8]byte // verifiers of exclusive creates, by path
}

var quietLibrary sync.Once

// New opens the directory. Serve makes it available.
func New(cfg Config) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	cfg.Export = path.Clean("/" + cfg.Export)
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("dev server: %w", err)
	}
	// The library logs peers' bytes unescaped to standard error.
	quietLibrary.Do(func() { nfs.Log.SetLevel(nfs.PanicLevel) })
	s := &Server{cfg: cfg, root: root, tab: newHandles(), conns: map[*front]struct{}{}, excl: map[string][8]byte{}}
	s.fs = &rootFS{root: root, dir: dir, readOnly: cfg.ReadOnly}
	rand.Read(s.verf[:])
	return s, nil
}

// Serve answers calls on the connections of l until Close, which makes it
// return nil. It may run on several listeners at once.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		l.Close()
		return net.ErrClosed
	}
	s.lis = append(s.lis, l)
	s.mu.Unlock()
	lib := nfs.Server{Handler: (*handler)(s), Context: context.Background()}
	err := lib.Serve(&frontListener{Listener: l, s: s})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed && errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Close ends all listeners and connections and waits for them.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	for _, l := range s.lis {
		l.Close()
	}
	var open []*front
	for f := range s.conns {
		open = append(open, f)
	}
	s.mu.Unlock()
	for _, f := range open {
		f.Close()
	}
	s.wg.Wait()
	return s.root.Close()
}

// admit counts a connection in, false: there are too many.
func (s *Server) admit(f *front) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.conns) >= maxConns {
		return false
	}
	s.conns[f] = struct{}{}
	return true
}

func (s *Server) leave(f *front) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, f)
}

// handler is the Server as the library's nfs.Handler.
type handler Server

// Mount is never called: the front answers the MOUNT program.
func (h *handler) Mount(context.Context, net.Conn, nfs.MountRequest) (nfs.MountStatus, billy.Filesystem, []nfs.AuthFlavor) {
	return nfs.MountStatusErrNotSupp, h.fs, nil
}

func (h *handler) Change(billy.Filesystem) billy.Change {
	if h.cfg.ReadOnly {
		return nil
	}
	return h.fs
}

// FSStat is never called either.
func (h *handler) FSStat(context.Context, billy.Filesystem, *nfs.FSStat) error {
	return billy.ErrNotSupported
}

func (h *handler) ToHandle(_ billy.Filesystem, p []string) []byte { return h.tab.handle(p) }

func (h *handler) FromHandle(b []byte) (billy.Filesystem, []string, error) {
	p, ok := h.tab.path(b)
	if !ok {
		return nil, nil, &nfs.NFSStatusError{NFSStatus: nfs.NFSStatusStale}
	}
	return h.fs, p, nil
}

func (h *handler) InvalidateHandle(_ billy.Filesystem, b []byte) error {
	if p, ok := h.tab.path(b); ok {
		h.tab.forget(p)
	}
	return nil
}

func (h *handler) HandleLimit() int { return maxHandles }
