package https

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
)

// keyPair is a certificate with its key in files, read again when one of them is
// another than it was. Until both fit together the old pair is shown.
type keyPair struct {
	cert, key string
	log       *slog.Logger

	mu      sync.Mutex
	current *tls.Certificate
	seen    [2]os.FileInfo // nil: not there
}

func newKeyPair(cert, key string, log *slog.Logger) (*keyPair, error) {
	p := &keyPair{cert: cert, key: key, log: log}
	p.look()
	c, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("https: certificate: %w", err)
	}
	p.current = &c
	return p, nil
}

// look reports whether a file has changed since the last call.
func (p *keyPair) look() (changed bool) {
	for n, name := range []string{p.cert, p.key} {
		info, err := os.Stat(name)
		if err != nil {
			info = nil
		}
		was := p.seen[n]
		p.seen[n] = info
		changed = changed || (was == nil) != (info == nil) ||
			was != nil && (!os.SameFile(was, info) || !was.ModTime().Equal(info.ModTime()) || was.Size() != info.Size())
	}
	return changed
}

// get is the pair to show now.
func (p *keyPair) get() *tls.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.look() {
		return p.current
	}
	c, err := tls.LoadX509KeyPair(p.cert, p.key)
	if err != nil {
		p.log.Warn("certificate has changed but can not be used, the old one stays", "file", p.cert, "error", err.Error())
		return p.current
	}
	p.current = &c
	p.log.Info("certificate was read again", "file", p.cert, "until", c.Leaf.NotAfter.UTC())
	return p.current
}
