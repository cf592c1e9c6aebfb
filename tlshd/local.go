package tlshd

import (
	"context"
	"log/slog"
)

// Local is a helper and its client in one process, over a real socket pair. It
// protects no key from anything and is for tests and benchmarks.
type Local struct {
	Server *Server
	Client *Client
	ended  chan error
	cancel context.CancelFunc
}

// NewLocal starts both.
func NewLocal(cfg Config, log *slog.Logger) (*Local, error) {
	s, err := NewServer(cfg, log)
	if err != nil {
		return nil, err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	l := &Local{Server: s, Client: NewClient(ClientOptions{Logger: log}), ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	go func() { l.ended <- s.Serve(ctx, theirs) }()
	if err := l.Client.Attach(ours); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// Close ends both and returns the error that the helper's side ended with.
func (l *Local) Close() error {
	_ = l.Client.Close()
	l.cancel()
	err := <-l.ended
	_ = l.Server.Close()
	return err
}
