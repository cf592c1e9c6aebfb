package supervise

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// controlPair returns both ends of a control channel.
func controlPair(t *testing.T) (a, b *channel) {
	t.Helper()
	a, f, err := newPair()
	if err != nil {
		t.Fatal(err)
	}
	if b, err = newChannel(f); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.close(); b.close() })
	return a, b
}

// serve answers what comes by f until the other end is gone.
func serve(c *channel, f func(message, *os.File) error) <-chan error {
	done := make(chan error, 1)
	go func() {
		for {
			m, file, err := c.receive()
			if err != nil {
				done <- err
				return
			}
			if m.Op == opResult {
				c.answered(m)
				continue
			}
			_ = c.send(result(m.ID, []string{"careful"}, f(m, file)), nil)
		}
	}()
	return done
}

func TestControlCall(t *testing.T) {
	a, b := controlPair(t)
	text := bytes.Repeat([]byte("configuration\n"), 100_000) // more than a message holds
	serve(a, nil)
	serve(b, func(m message, f *os.File) error {
		got, err := unseal(f)
		if err == nil && (m.Op != opReload || !bytes.Equal(got.Text, text)) {
			err = errors.New("not what was sent")
		}
		return err
	})
	f, err := (&content{Text: text}).seal()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := a.call(ctx, message{Op: opReload}, f)
	if err != nil || len(r.Warnings) != 1 || r.Warnings[0] != "careful" {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := a.call(ctx, message{Op: opReload}, nil); err == nil || !strings.Contains(err.Error(), "no configuration came") {
		t.Errorf("without a descriptor: %v", err)
	}
}

// However long an error is, its answer fits into a message.
func TestControlLongResult(t *testing.T) {
	a, b := controlPair(t)
	serve(a, nil)
	long := strings.Repeat("\x01<&>\u2028", 100_000) // each escaped as six bytes
	serve(b, func(message, *os.File) error { return errors.New("file:1:2: " + long) })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := a.call(ctx, message{Op: opDrain}, nil); err == nil || !strings.HasPrefix(err.Error(), "file:1:2: ") {
		t.Errorf("%.80v", err)
	}
}

// A call whose other end goes away, or never answers, ends.
func TestControlCallEnds(t *testing.T) {
	a, b := controlPair(t)
	lost := serve(a, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if _, err := a.call(ctx, message{Op: opDrain}, nil); err == nil || err.Error() != "enough" {
		t.Errorf("cancelled: %v", err)
	}
	b.close()
	select {
	case <-lost:
	case <-time.After(10 * time.Second):
		t.Fatal("the end of the other process goes unnoticed")
	}
	a.close()
	if _, err := a.call(t.Context(), message{Op: opDrain}, nil); err == nil {
		t.Error("a call to a process that is gone")
	}
}

// Of several descriptors one is kept; what is no message leaves none open.
func TestControlRefusesRubbish(t *testing.T) {
	a, b := controlPair(t)
	if _, err := a.conn.Write([]byte("{rubbish")); err != nil {
		t.Fatal(err)
	}
	if m, f, err := b.receive(); err == nil || f != nil {
		t.Errorf("%+v %v", m, f)
	}
	if _, err := unseal(nil); err == nil {
		t.Error("a configuration out of nothing")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := a.send(message{Op: opHelper}, r); err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	m, f, err := b.receive()
	if err != nil || m.Op != opHelper || f == nil {
		t.Fatalf("%+v %v %v", m, f, err)
	}
	_ = w.Close()
	if rest, err := io.ReadAll(f); err != nil || len(rest) != 0 {
		t.Errorf("the descriptor that came is another: %q, %v", rest, err)
	}
	_ = f.Close()
}
