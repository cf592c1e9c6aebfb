//go:build linux

package smb_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/smb"
	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// flipper is a backend connection on which one octet of one direction is
// changed, or none (at < 0); it keeps what has passed.
type flipper struct {
	net.Conn
	up bool // which direction
	at int

	mu       sync.Mutex
	upSeen   []byte
	downSeen []byte
}

func (f *flipper) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b)
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := f.at - len(f.downSeen); !f.up && f.at >= 0 && i >= 0 && i < n {
		b[i] ^= 0x01
	}
	f.downSeen = append(f.downSeen, b[:n]...)
	return n, err
}

func (f *flipper) Write(b []byte) (int, error) {
	f.mu.Lock()
	sent := append([]byte(nil), b...)
	if i := f.at - len(f.upSeen); f.up && f.at >= 0 && i >= 0 && i < len(b) {
		sent[i] ^= 0x01
	}
	f.upSeen = append(f.upSeen, sent...)
	f.mu.Unlock()
	return f.Conn.Write(sent)
}

// setupEnd returns the position after the messages of NEGOTIATE and
// SESSION_SETUP in a recorded direction, and where the last of them begins.
func setupEnd(b []byte) (last, end int) {
	for end+4 <= len(b) {
		size := int(binary.BigEndian.Uint32(b[end:]))
		if end+4+size > len(b) || binary.LittleEndian.Uint16(b[end+4+12:]) > 1 {
			break
		}
		last, end = end, end+4+size
	}
	return last, end
}

// flippedSession runs client on the address of a relay whose backend connection
// is f, and returns its error.
func flippedSession(t *testing.T, addr string, f *flipper, client func(ctx context.Context, addr net.Addr) error) error {
	t.Helper()
	backend, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	f.Conn = backend
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var relay sync.WaitGroup
	relay.Go(func() {
		stream, err := l.Accept()
		l.Close()
		if err != nil {
			t.Error(err)
			return
		}
		smb.Serve(ctx, stream, f, smb.Options{})
	})
	err = client(ctx, l.Addr())
	cancel()
	relay.Wait()
	return err
}

// goSession logs on, mounts and lists with our own client.
func goSession(ctx context.Context, addr net.Addr) error {
	conn, err := net.Dial("tcp", addr.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	c, err := smb.NewClient(ctx, conn, smb.ClientConfig{
		Host: sambatest.Host, User: sambatest.User, Password: sambatest.Password, RequireSigning: true, MinDialect: smb.Dialect311,
	})
	if err != nil {
		return err
	}
	share, err := c.Mount(ctx, sambatest.Share)
	if err != nil {
		return err
	}
	_, err = share.WithContext(ctx).ReadDir("")
	return err
}

// HOSTILE 51: whatever octet of NEGOTIATE or SESSION_SETUP is changed on the
// way, in either direction, no session comes of it. The server's last message is
// protected by its signature instead of the hash; our client's library does not
// check that one, so smbclient does.
func TestRelayPreauthIntegrity(t *testing.T) {
	server := sambatest.Start(t, sambatest.Options{})
	work := t.TempDir()
	smbclient := func(ctx context.Context, addr net.Addr) error {
		g := sambatest.TCP(addr.(*net.TCPAddr).Port)
		g.Work, g.Options = work, []string{"client signing = required", "client min protocol = SMB3_11"}
		if out := sambatest.SMBClient(t, g, "ls"); out.Code != 0 {
			return fmt.Errorf("exit status %d", out.Code)
		}
		return nil
	}
	type flip struct {
		up     bool
		at     int
		client func(context.Context, net.Addr) error
	}
	var flips []flip
	for i, client := range []func(context.Context, net.Addr) error{goSession, smbclient} {
		good := &flipper{at: -1}
		if err := flippedSession(t, server.Addr, good, client); err != nil {
			t.Fatalf("client %d, without a change: %v", i, err)
		}
		_, upEnd := setupEnd(good.upSeen)
		last, downEnd := setupEnd(good.downSeen)
		if upEnd < 500 || last < 300 || downEnd <= last {
			t.Fatalf("client %d: the recorded exchange is too short: %d up, %d and %d down", i, upEnd, last, downEnd)
		}
		if i == 1 {
			for at := last; at < downEnd; at++ {
				flips = append(flips, flip{false, at, client})
			}
			break
		}
		for at := range upEnd {
			flips = append(flips, flip{true, at, client})
		}
		for at := range last {
			flips = append(flips, flip{false, at, client})
		}
	}
	queue := make(chan flip)
	var wg sync.WaitGroup
	for range 12 { // most of the time of a run is waiting
		wg.Go(func() {
			for f := range queue {
				if err := flippedSession(t, server.Addr, &flipper{up: f.up, at: f.at}, f.client); err == nil {
					t.Errorf("a session came about with octet %d changed (up: %t)", f.at, f.up)
				}
			}
		})
	}
	for _, f := range flips {
		queue <- f
	}
	close(queue)
	wg.Wait()
	t.Logf("%d octets changed, one at a time", len(flips))
}
