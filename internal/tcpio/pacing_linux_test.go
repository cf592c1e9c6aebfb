package tcpio

import (
	"bytes"
	"net"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// congestion is the congestion control of a connection or a listener.
func congestion(t *testing.T, c any) (name string) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) { name, err = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return name
}

// What stays on this host is not paced, whatever the system does otherwise.
func TestUnpaced(t *testing.T) {
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var d Dialer
	c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for end, conn := range map[string]net.Conn{"dialled": c, "accepted": a} {
		if name := congestion(t, conn); name != "reno" {
			t.Errorf("%s: %s", end, name)
		}
	}
}

// Everything else has what the system has.
func TestPacedElsewhere(t *testing.T) {
	system, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(t.Context(), "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if name := congestion(t, l); name != string(bytes.TrimSpace(system)) {
		t.Errorf("%s, the system has %s", name, system)
	}
}
