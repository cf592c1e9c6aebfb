package interop

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
)

// payload is n bytes that no stack can guess.
func payload(n int, seed uint64) []byte {
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

// send writes all of b and FIN.
func send(s stream, b []byte) error {
	if _, err := s.Write(b); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return s.CloseWrite()
}

// readAll reads to the FIN and compares sums.
func readAll(s stream, want []byte) error {
	h := sha256.New()
	n, err := io.Copy(h, readerOnly{s})
	if err != nil {
		return fmt.Errorf("read after %d of %d bytes: %w", n, len(want), err)
	}
	if sum := sha256.Sum256(want); !bytes.Equal(h.Sum(nil), sum[:]) || n != int64(len(want)) {
		return fmt.Errorf("got %d bytes that are not the %d sent", n, len(want))
	}
	return nil
}

type readerOnly struct{ s stream }

func (r readerOnly) Read(p []byte) (int, error) { return r.s.Read(p) }

// all runs functions at once and reports their errors.
func all(t *testing.T, fs ...func() error) {
	t.Helper()
	errs := make([]error, len(fs))
	var wg sync.WaitGroup
	for i, f := range fs {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[i] = f()
		}()
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// exchange sends n bytes both ways at once on one stream that c opens.
func exchange(t *testing.T, c, d conn, n int) {
	t.Helper()
	ctx := testCtx(t)
	there, back := payload(n, 1), payload(n, 2)
	var s stream
	all(t,
		func() (err error) {
			if s, err = c.Open(ctx); err != nil {
				return err
			}
			errc := make(chan error, 1)
			go func() { errc <- send(s, there) }()
			return errors.Join(guard(ctx, c, func() error { return readAll(s, back) }), guard(ctx, c, func() error { return <-errc }))
		},
		func() error {
			s, err := d.Accept(ctx)
			if err != nil {
				return fmt.Errorf("accept stream: %w", err)
			}
			errc := make(chan error, 1)
			go func() { errc <- send(s, back) }()
			return errors.Join(guard(ctx, d, func() error { return readAll(s, there) }), guard(ctx, d, func() error { return <-errc }))
		})
}

// guard closes the connection when ctx ends before f does, so that f cannot hang.
func guard(ctx context.Context, c conn, f func() error) error {
	stop := context.AfterFunc(ctx, func() { c.Close(0xdead, "test deadline") })
	defer stop()
	return f()
}

func TestHandshake(t *testing.T) {
	onPairs(t, func(t *testing.T, client, server stack) {
		c, d, _ := connect(t, client, server, &settings{})
		for end, f := range map[string]tlsFacts{"client": c.TLS(), "server": d.TLS()} {
			if f.alpn != alpn {
				t.Errorf("%s: ALPN %q", end, f.alpn)
			}
			if f.resumed {
				t.Errorf("%s: resumed a first session", end)
			}
		}
		if f := c.TLS(); f.chain == 0 || f.leaf != string(pki().server.Certificate[0]) {
			t.Errorf("client saw another certificate than the server's")
		}
		if f := d.TLS(); f.chain != 0 {
			t.Errorf("server saw %d client certificates, none was sent", f.chain)
		}
		exchange(t, c, d, 10)
	})
}

func TestTransfer10MB(t *testing.T) {
	onPairs(t, func(t *testing.T, client, server stack) {
		c, d, _ := connect(t, client, server, &settings{})
		exchange(t, c, d, 10<<20)
		exchange(t, d, c, 1<<20) // a stream the server opens
	})
}

// echo answers every stream that c accepts with its own bytes.
func echo(ctx context.Context, c conn, n int) error {
	errc := make(chan error, n)
	for range n {
		s, err := c.Accept(ctx)
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		go func() {
			b, err := io.ReadAll(readerOnly{s})
			if err == nil {
				err = send(s, b)
			}
			errc <- err
		}()
	}
	for range n {
		select {
		case err := <-errc:
			if err != nil {
				return fmt.Errorf("echo: %w", err)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// echoStreams sends total streams of size bytes, workers at a time, to be echoed.
func echoStreams(ctx context.Context, c conn, total, workers, size int) error {
	jobs := make(chan int, total)
	for i := range total {
		jobs <- i
	}
	close(jobs)
	errc := make(chan error, workers)
	for range workers {
		go func() {
			for i := range jobs {
				if err := echoOne(ctx, c, payload(size, uint64(i))); err != nil {
					errc <- fmt.Errorf("stream %d: %w", i, err)
					return
				}
			}
			errc <- nil
		}()
	}
	var errs []error
	for range workers {
		errs = append(errs, <-errc)
	}
	return errors.Join(errs...)
}

func echoOne(ctx context.Context, c conn, b []byte) error {
	s, err := c.Open(ctx)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	sent := make(chan error, 1)
	go func() { sent <- send(s, b) }()
	err = readAll(s, b)
	return errors.Join(err, <-sent)
}

func TestConcurrentStreams(t *testing.T) {
	onPairs(t, func(t *testing.T, client, server stack) {
		c, d, _ := connect(t, client, server, &settings{})
		ctx := testCtx(t)
		all(t,
			func() error { return guard(ctx, d, func() error { return echo(ctx, d, 100) }) },
			func() error { return guard(ctx, c, func() error { return echoStreams(ctx, c, 100, 100, 50<<10) }) })
	})
}

func TestManySmallStreams(t *testing.T) {
	onPairs(t, func(t *testing.T, client, server stack) {
		c, d, _ := connect(t, client, server, &settings{})
		ctx := testCtx(t)
		all(t,
			func() error { return guard(ctx, d, func() error { return echo(ctx, d, 2000) }) },
			func() error { return guard(ctx, c, func() error { return echoStreams(ctx, c, 2000, 50, 100) }) })
	})
}

func TestUniStreams(t *testing.T) {
	onPairs(t, func(t *testing.T, client, server stack) {
		c, d, _ := connect(t, client, server, &settings{})
		for i, ends := range [][2]conn{{c, d}, {d, c}} {
			ctx := testCtx(t)
			const n = 150 // more than the limit of 100 at once
			all(t,
				func() error {
					return guard(ctx, ends[0], func() error {
						for k := range n {
							s, err := ends[0].OpenUni(ctx)
							if err != nil {
								return fmt.Errorf("direction %d: open %d: %w", i, k, err)
							}
							if err := send(s, payload(3000, 7)); err != nil {
								return err
							}
						}
						return nil
					})
				},
				func() error {
					return guard(ctx, ends[1], func() error {
						for k := range n {
							s, err := ends[1].AcceptUni(ctx)
							if err != nil {
								return fmt.Errorf("direction %d: accept %d: %w", i, k, err)
							}
							if err := readAll(s, payload(3000, 7)); err != nil {
								return err
							}
						}
						return nil
					})
				})
		}
	})
}
