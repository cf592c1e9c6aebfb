package interop

import (
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// crossTrafficCase downloads beside a TCP connection that sends all the time.
// The bottleneck is the loopback interface of a network namespace.
func crossTrafficCase(m *matchup) {
	for _, args := range [][]string{
		{"ip", "link", "set", "lo", "mtu", "1500", "up"},
		{"tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", "20mbit", "burst", "5kb", "limit", "75kb"},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			m.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	var other atomic.Int64
	st := m.play(wants{}, nil, 2*limit, one(25*mB), func(ctx context.Context, _ *stage) { cubicTCP(ctx, m.T, &other) })
	st.onConnections(1, st.connections()[0].Version())
	took := st.took.Seconds()
	note(m.T, fmt.Sprintf("%.2f Mbit/s beside %.2f of TCP", 8*25/took, 8*float64(other.Load())/1e6/took))
}

// cubicTCP sends on a TCP connection until ctx ends, and counts what arrives.
func cubicTCP(ctx context.Context, t *testing.T, arrived *atomic.Int64) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		_ = c.Control(func(fd uintptr) {
			err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic")
		})
		return err
	}}
	ln, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Errorf("TCP with CUBIC: %v", err)
		return
	}
	defer ln.Close()
	go func() { // the sender; what it accepts inherits CUBIC
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		for chunk := make([]byte, 64<<10); ctx.Err() == nil; {
			if _, err := c.Write(chunk); err != nil {
				return
			}
		}
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Errorf("TCP: %v", err)
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		arrived.Add(int64(n))
		if err != nil {
			if ctx.Err() == nil && err != io.EOF {
				t.Errorf("TCP: %v", err)
			}
			return
		}
	}
}
