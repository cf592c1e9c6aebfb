//go:build unix

package tlshd

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// fdSpace is room for the control data of a few descriptors. One is expected;
// what comes beyond the space the kernel closes.
var fdSpace = unix.CmsgSpace(4 * 8)

// parseFDs returns every descriptor in control data.
func parseFDs(oob []byte) (fds []int) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range msgs {
		if got, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

func closeFDs(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd) // nothing can be done about it
	}
}

// connFromFD makes a connection of a descriptor that another process gave us,
// after a check that it is what it should be. It takes the descriptor in any
// case.
func connFromFD(fd int) (*net.UnixConn, error) {
	unix.CloseOnExec(fd)
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("tlshd: the descriptor received is no socket: %w", err)
	}
	if typ != socketType {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("tlshd: the descriptor received is a socket of type %d, want %d", typ, socketType)
	}
	return connFromFile(os.NewFile(uintptr(fd), "tlshd"))
}

// connFromFile makes a connection of f and closes f.
func connFromFile(f *os.File) (*net.UnixConn, error) {
	c, err := net.FileConn(f)
	_ = f.Close() // FileConn has its own duplicate
	if err != nil {
		return nil, fmt.Errorf("tlshd: descriptor: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("tlshd: the descriptor is a %s socket, want a Unix one", c.LocalAddr().Network())
	}
	return u, nil
}

// socketPair returns two connected ends, closed on exec.
func socketPair() (a, b *net.UnixConn, err error) {
	fds, err := cloexecPair()
	if err != nil {
		return nil, nil, fmt.Errorf("tlshd: socketpair: %w", err)
	}
	if a, err = connFromFile(os.NewFile(uintptr(fds[0]), "tlshd")); err != nil {
		_ = unix.Close(fds[1])
		return nil, nil, err
	}
	if b, err = connFromFile(os.NewFile(uintptr(fds[1]), "tlshd")); err != nil {
		_ = a.Close()
		return nil, nil, err
	}
	return a, b, nil
}

// sendFD calls send with control data that carries c's descriptor, which stays
// c's.
func sendFD(c *net.UnixConn, send func(oob []byte) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("tlshd: descriptor of a connection: %w", err)
	}
	var sendErr error
	err = raw.Control(func(fd uintptr) { sendErr = send(unix.UnixRights(int(fd))) })
	if err != nil {
		return fmt.Errorf("tlshd: descriptor of a connection: %w", err)
	}
	return sendErr
}

// SendConn hands conn's descriptor to the process at the other end of ctrl,
// which takes it with RecvConn. conn stays open here: the caller closes it.
// ctrl is any Unix socket; on a stream the message is one byte.
func SendConn(ctrl, conn *net.UnixConn) error {
	err := sendFD(conn, func(oob []byte) error {
		_, _, err := ctrl.WriteMsgUnix([]byte{connMark}, oob, nil)
		return err
	})
	if err != nil {
		return fmt.Errorf("tlshd: send a connection: %w", err)
	}
	return nil
}

// RecvConn takes the next connection that SendConn put on ctrl. It returns
// io.EOF when the other process is gone, and refuses anything that is not
// exactly one socket of the helper's kind.
func RecvConn(ctrl *net.UnixConn) (*net.UnixConn, error) {
	buf, oob := make([]byte, 1), make([]byte, fdSpace)
	n, oobn, _, _, err := ctrl.ReadMsgUnix(buf, oob)
	fds := parseFDs(oob[:oobn])
	if err == nil && (n != 1 || buf[0] != connMark || len(fds) != 1) {
		err = fmt.Errorf("tlshd: receive a connection: %d bytes and %d descriptors came, want 1 and 1", n, len(fds))
	}
	if err != nil {
		closeFDs(fds)
		return nil, err
	}
	return connFromFD(fds[0])
}

// connMark is the byte a descriptor travels with.
const connMark = 'C'
