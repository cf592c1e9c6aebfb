package tlshd

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// Backoff between a helper's end and the next start: none after a long life.
const (
	firstBackoff = 10 * time.Millisecond
	maxBackoff   = 500 * time.Millisecond
	longLife     = 5 * time.Second
)

// Supervisor keeps a helper running.
type Supervisor struct {
	log    *slog.Logger
	up     func(*Process) error
	health time.Duration
	cancel context.CancelFunc
	ended  chan struct{}

	mu       sync.Mutex
	sc       SpawnConfig
	current  *Process // nil: between two
	restarts uint64
}

// Supervise spawns a helper and keeps one running until ctx ends or Close: when
// it dies, or does not answer for HealthInterval, the next one is started after
// at most 500 ms. up is called with every new helper, from one goroutine, to
// make connections and hand them out; if it fails the helper is replaced.
//
// The first start is waited for, and its error, as that of the first up,
// returned.
func Supervise(ctx context.Context, sc SpawnConfig, up func(*Process) error) (*Supervisor, error) {
	s := &Supervisor{log: sc.Logger, up: up, sc: sc, ended: make(chan struct{}), health: sc.HealthInterval}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.health == 0 {
		s.health = 2 * time.Second
	}
	ctx, s.cancel = context.WithCancel(ctx)
	p, err := s.start(ctx)
	if err != nil {
		s.cancel()
		return nil, err
	}
	go s.run(ctx, p)
	return s, nil
}

// start spawns a helper and introduces it.
func (s *Supervisor) start(ctx context.Context) (*Process, error) {
	s.mu.Lock()
	sc := s.sc
	s.mu.Unlock()
	p, err := Spawn(ctx, sc)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.current = p
	s.mu.Unlock()
	if err := s.up(p); err != nil {
		s.forget()
		_ = p.Stop(ctx)
		return nil, err
	}
	s.log.Info("handshake helper runs", "pid", p.Pid(), "sandbox", p.Hardening())
	return p, nil
}

func (s *Supervisor) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = nil
}

func (s *Supervisor) run(ctx context.Context, p *Process) {
	defer close(s.ended)
	wait := firstBackoff
	for {
		began := time.Now()
		if p != nil {
			s.watch(ctx, p)
			s.forget()
		}
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > longLife {
			wait = firstBackoff
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		wait = min(2*wait, maxBackoff)
		s.mu.Lock()
		s.restarts++
		s.mu.Unlock()
		var err error
		if p, err = s.start(ctx); err != nil {
			p = nil
			s.log.Error("handshake helper not started", "error", err.Error(), "again_in", wait)
		}
	}
}

// watch returns when the helper is gone: by itself, because it hung, or because
// ctx ended.
func (s *Supervisor) watch(ctx context.Context, p *Process) {
	tick := time.NewTicker(s.health)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			_ = p.Stop(context.Background())
			return
		case <-p.Done():
			s.log.Error("handshake helper ended", "pid", p.Pid(), "how", exitText(p.Err()))
			return
		case <-tick.C:
		}
		asking, cancel := context.WithTimeout(ctx, s.health)
		_, err := p.Stats(asking)
		cancel()
		if err != nil && ctx.Err() == nil && !errors.Is(err, ErrHelperGone) {
			s.log.Error("handshake helper hangs, killing it", "pid", p.Pid(), "error", err.Error())
			p.kill()
			<-p.Done()
			return
		}
	}
}

func exitText(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// Reload gives the running helper, and every later one, a new configuration.
// After an error the old one stays. Between two helpers it returns
// ErrHelperGone: try again.
func (s *Supervisor) Reload(ctx context.Context, cfg Config) error {
	s.mu.Lock()
	p := s.current
	s.mu.Unlock()
	if p == nil {
		return ErrHelperGone
	}
	if err := p.Reload(ctx, cfg); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sc.Config = cfg
	return nil
}

// Current returns the running helper, nil between two.
func (s *Supervisor) Current() *Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// Restarts counts the helpers after the first.
func (s *Supervisor) Restarts() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.restarts
}

// Close ends the helper and waits for it.
func (s *Supervisor) Close() error {
	s.cancel()
	<-s.ended
	return nil
}
