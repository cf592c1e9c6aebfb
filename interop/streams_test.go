package interop

import (
	"context"
	"fmt"
	"io"
	"testing"
)

// eachDirection runs f with either end as the one that opens the stream.
func eachDirection(t *testing.T, f func(t *testing.T, ctx context.Context, a, b stream)) {
	onPairs(t, func(t *testing.T, client, server stack) {
		c, d, _ := connect(t, client, server, &settings{})
		for name, ends := range map[string][2]conn{"client_opens": {c, d}, "server_opens": {d, c}} {
			t.Run(name, func(t *testing.T) {
				ctx := testCtx(t)
				for _, end := range ends {
					stop := context.AfterFunc(ctx, func() { end.Close(0xdead, "test deadline") })
					t.Cleanup(func() { stop() })
				}
				a, err := ends[0].Open(ctx)
				mustNot(t, err, "open")
				mustNot(t, write(a, []byte("hello")), "write")
				b, err := ends[1].Accept(ctx)
				mustNot(t, err, "accept")
				got := make([]byte, 5)
				_, err = io.ReadFull(readerOnly{b}, got)
				mustNot(t, err, "read")
				if string(got) != "hello" {
					t.Fatalf("got %q", got)
				}
				f(t, ctx, a, b)
			})
		}
	})
}

func write(s stream, b []byte) error {
	if _, err := s.Write(b); err != nil {
		return err
	}
	return s.Flush()
}

// wantReset reads until the peer's reset arrives.
func wantReset(s stream, code uint64) error {
	_, err := io.Copy(io.Discard, readerOnly{s})
	if got, ok := s.Code(err); !ok || got != code {
		return fmt.Errorf("read ended with %v, want a reset with code %#x", err, code)
	}
	return nil
}

// wantStop writes until the peer's STOP_SENDING arrives.
func wantStop(s stream, code uint64) error {
	chunk := make([]byte, 1000)
	for {
		err := write(s, chunk)
		if err == nil {
			continue
		}
		if got, ok := s.Code(err); !ok || got != code {
			return fmt.Errorf("write ended with %v, want STOP_SENDING with code %#x", err, code)
		}
		return nil
	}
}

func TestResetStream(t *testing.T) {
	eachDirection(t, func(t *testing.T, _ context.Context, a, b stream) {
		a.CancelWrite(0x1234)
		mustNot(t, wantReset(b, 0x1234), "opener resets")
		// The other direction goes on, and is reset in its turn.
		back := payload(100_000, 3)
		all(t, func() error { return write(b, back) }, func() error {
			_, err := io.CopyN(io.Discard, readerOnly{a}, int64(len(back)))
			return err
		})
		b.CancelWrite(1<<62 - 1)
		mustNot(t, wantReset(a, 1<<62-1), "accepter resets")
	})
}

func TestStopSending(t *testing.T) {
	eachDirection(t, func(t *testing.T, _ context.Context, a, b stream) {
		b.CancelRead(77)
		if _, ok := a.(xnetStream); !ok { // x/net does not tell its application the code
			mustNot(t, wantStop(a, 77), "accepter stops")
		}
		mustNot(t, send(b, []byte("still here")), "other direction")
		mustNot(t, readAll(a, []byte("still here")), "other direction")
	})
}

func TestStopSendingByOpener(t *testing.T) {
	eachDirection(t, func(t *testing.T, _ context.Context, a, b stream) {
		a.CancelRead(1 << 40)
		if _, ok := b.(xnetStream); !ok {
			mustNot(t, wantStop(b, 1<<40), "opener stops")
		}
		mustNot(t, send(a, []byte("still here")), "other direction")
		mustNot(t, readAll(b, []byte("still here")), "other direction")
	})
}

func TestHalfClose(t *testing.T) {
	eachDirection(t, func(t *testing.T, _ context.Context, a, b stream) {
		mustNot(t, a.CloseWrite(), "close")
		mustNot(t, readAll(b, nil), "FIN alone")
		back := payload(1<<20, 4)
		all(t, func() error { return send(b, back) }, func() error { return readAll(a, back) })
	})
}

// TestManyResets: streams that end by reset must give their place back.
func TestManyResets(t *testing.T) {
	onPairs(t, func(t *testing.T, client, server stack) {
		c, d, _ := connect(t, client, server, &settings{})
		ctx := testCtx(t)
		const n = 350
		all(t,
			func() error {
				return guard(ctx, c, func() error {
					for i := range n {
						s, err := c.Open(ctx)
						if err != nil {
							return fmt.Errorf("open %d: %w", i, err)
						}
						if err := write(s, []byte("x")); err != nil {
							return err
						}
						s.CancelWrite(uint64(i))
						s.CancelRead(uint64(i))
					}
					return nil
				})
			},
			func() error {
				return guard(ctx, d, func() error {
					for i := range n {
						s, err := d.Accept(ctx)
						if err != nil {
							return fmt.Errorf("accept %d: %w", i, err)
						}
						if _, err := io.Copy(io.Discard, readerOnly{s}); err == nil {
							return fmt.Errorf("stream %d ended without a reset", i)
						}
						s.CancelRead(0)
						s.CancelWrite(0)
					}
					return nil
				})
			})
		exchange(t, c, d, 1000)
	})
}
