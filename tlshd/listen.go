package tlshd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// Listener is the helper as a service: a listening socket in the file system.
type Listener struct {
	l    *net.UnixListener
	path string
	uids []int
	wg   sync.WaitGroup

	mu     sync.Mutex
	closed bool
}

// maxPacketProcesses bounds the connections of one Listener.
const maxPacketProcesses = 64

// Listen makes the socket at path, mode 0660. Besides root and the user we run
// as, the users in uids may use it. A socket that a helper left behind is
// replaced; one that a helper listens on is an error.
func Listen(path string, uids []int) (*Listener, error) {
	if c, err := net.DialUnix(socketNetwork, nil, &net.UnixAddr{Name: path, Net: socketNetwork}); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("tlshd: listen on %s: another helper does", path)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("tlshd: listen on %s: there is something that is no socket", path)
	}
	// Under another name until its mode is right.
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+strconv.Itoa(os.Getpid()))
	_ = os.Remove(tmp) // of an earlier process with our number
	l, err := net.ListenUnix(socketNetwork, &net.UnixAddr{Name: tmp, Net: socketNetwork})
	if err != nil {
		return nil, fmt.Errorf("tlshd: listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(tmp, 0o660)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = l.Close()
		_ = os.Remove(tmp)
		return nil, fmt.Errorf("tlshd: listen on %s: %w", path, err)
	}
	return &Listener{l: l, path: path, uids: uids}, nil
}

// SetGroup makes the socket belong to a group, for packet processes of other
// users. Only root and members of the group can.
func (l *Listener) SetGroup(gid int) error {
	if err := os.Chown(l.path, -1, gid); err != nil {
		return fmt.Errorf("tlshd: %w", err)
	}
	return nil
}

// Serve accepts packet processes for s until ctx ends or Close, and waits for
// their connections to end.
func (l *Listener) Serve(ctx context.Context, s *Server) error {
	ctx, cancel := context.WithCancel(ctx)
	defer l.wg.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	slots := make(chan struct{}, maxPacketProcesses)
	for {
		conn, err := l.l.AcceptUnix()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			s.log.Error("accept a packet process", "error", err.Error())
			select { // out of descriptors, most likely
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		if err := checkPeer(conn, l.uids); err != nil {
			s.count.refusedPeers.Add(1)
			s.log.Warn("a packet process was refused", "error", err.Error())
			_ = conn.Close()
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			s.log.Error("too many packet processes", "most", maxPacketProcesses)
			_ = conn.Close()
			continue
		}
		l.wg.Add(1)
		go func() {
			defer l.wg.Done()
			defer func() { <-slots }()
			if err := s.Serve(ctx, conn); err != nil && !errors.Is(err, ErrClosed) {
				s.log.Error("connection of a packet process ended", "error", printable(err.Error()))
			}
		}()
	}
}

// Close stops listening and removes the socket, where that is still possible.
func (l *Listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	_ = os.Remove(l.path) // not after root was dropped: the next one replaces it
	return l.l.Close()
}

// Dial connects to a helper that listens at path.
func Dial(ctx context.Context, path string) (*net.UnixConn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, socketNetwork, path)
	if err != nil {
		return nil, fmt.Errorf("tlshd: handshake helper: %w (is the service running, is its socket readable for this user?)", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("tlshd: %s is no Unix socket", path)
	}
	return u, nil
}
