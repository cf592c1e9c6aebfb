//go:build linux

package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/quic-fsgw/quic-fsgw/gateway/config"
)

// The control channel between supervisor and packet process: a SOCK_SEQPACKET
// socketpair, a JSON object a message, with at most one descriptor.

// Operations. The supervisor sends start, helper, reload and drain; the packet
// process sends ready, request_reload, and result for what it was asked. The
// configuration itself comes as a descriptor: what is served is then what the
// supervisor has checked, whatever became of the file since.
const (
	opStart         = "start"          // Config, Shards, Files, ResetKey, with a descriptor: serve this
	opHelper        = "helper"         // with a descriptor: a new connection to the helper
	opReload        = "reload"         // ID, with a descriptor: serve this instead
	opDrain         = "drain"          // ID, Timeout
	opReady         = "ready"          // serving
	opHelperLost    = "helper_lost"    // the connection to the helper broke
	opRequestReload = "request_reload" // ID: somebody asked the admin socket
	opResult        = "result"         // ID, Error
)

type message struct {
	Op       string        `json:"op"`
	ID       uint64        `json:"id,omitempty"`
	Config   string        `json:"config,omitempty"`
	Shards   []int         `json:"shards,omitempty"`
	Files    []string      `json:"files,omitempty"` // what the descriptors after the UDP sockets are
	ResetKey *[32]byte     `json:"reset_key,omitempty"`
	Timeout  time.Duration `json:"timeout,omitempty"`
	Error    string        `json:"error,omitempty"`
	Warnings []string      `json:"warnings,omitempty"`
}

// maxMessage bounds a control message in bytes.
const maxMessage = 64 << 10

// sendTimeout bounds the wait for a peer that does not read.
const sendTimeout = 10 * time.Second

// channel is one end of the control channel.
type channel struct {
	conn *net.UnixConn

	mu      sync.Mutex
	nextID  uint64
	waiting map[uint64]chan message
	closed  bool
}

// newPair makes both ends; the second as a file to be inherited.
func newPair() (*channel, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("supervise: socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "control")
	ours, err := newChannel(os.NewFile(uintptr(fds[0]), "control"))
	if err != nil {
		_ = theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// newChannel wraps a descriptor, which it takes over.
func newChannel(f *os.File) (*channel, error) {
	c, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		return nil, fmt.Errorf("supervise: control channel: %w", err)
	}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("supervise: control channel is a %T", c)
	}
	return &channel{conn: uc, waiting: make(map[uint64]chan message)}, nil
}

// send sends a message and, if f is not nil, its descriptor.
func (c *channel) send(m message, f *os.File) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("supervise: message of %d bytes", len(b))
	}
	var oob []byte
	if f != nil {
		oob = unix.UnixRights(int(f.Fd()))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(sendTimeout))
	_, _, err = c.conn.WriteMsgUnix(b, oob, nil)
	return err
}

// receive waits for the next message. The file is the caller's to close.
func (c *channel) receive() (message, *os.File, error) {
	b := make([]byte, maxMessage)
	oob := make([]byte, unix.CmsgSpace(4*4))
	n, oobn, flags, _, err := c.conn.ReadMsgUnix(b, oob)
	if err == nil && n == 0 {
		err = errors.New("supervise: the other end is gone")
	}
	if err != nil {
		return message{}, nil, err
	}
	f, err := takeFile(oob[:oobn])
	if err != nil {
		return message{}, nil, err
	}
	var m message
	if flags&unix.MSG_TRUNC != 0 {
		err = errors.New("supervise: message too long")
	} else {
		err = json.Unmarshal(b[:n], &m)
	}
	if err != nil && f != nil {
		_ = f.Close()
		f = nil
	}
	return m, f, err
}

func takeFile(oob []byte) (*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	scms, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var f *os.File
	for i := range scms {
		fds, err := unix.ParseUnixRights(&scms[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			if f == nil {
				f = os.NewFile(uintptr(fd), "received")
			} else {
				_ = unix.Close(fd)
			}
		}
	}
	return f, nil
}

// call sends a message and waits for its result.
func (c *channel) call(ctx context.Context, m message, f *os.File) (message, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return message{}, errors.New("supervise: the other process is gone")
	}
	c.nextID++
	m.ID = c.nextID
	ch := make(chan message, 1)
	c.waiting[m.ID] = ch
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, m.ID)
		c.mu.Unlock()
	}()
	if err := c.send(m, f); err != nil {
		return message{}, err
	}
	select {
	case r, ok := <-ch:
		if !ok {
			return r, errors.New("supervise: the other process is gone")
		}
		if r.Error != "" {
			return r, errors.New(r.Error)
		}
		return r, nil
	case <-ctx.Done():
		return message{}, context.Cause(ctx)
	}
}

// answered hands a result to whoever called.
func (c *channel) answered(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch := c.waiting[m.ID]; ch != nil {
		ch <- m // buffered, and only one result is looked at
		delete(c.waiting, m.ID)
	}
}

func (c *channel) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for id, ch := range c.waiting {
		close(ch)
		delete(c.waiting, id)
	}
	_ = c.conn.Close()
}

// maxText bounds the texts of a result in bytes: escaped as JSON they still
// have to fit into a message.
const maxText = maxMessage / 16

// result answers message id.
func result(id uint64, warnings []string, err error) message {
	m := message{Op: opResult, ID: id}
	if err != nil {
		m.Error = clip(err.Error(), maxText)
	}
	room := maxText
	for _, w := range warnings {
		w = clip(w, room)
		m.Warnings = append(m.Warnings, w)
		if room -= len(w); room <= 0 {
			break
		}
	}
	return m
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + " ..."
}

// content is a configuration as it travels: its text, and the content of the
// files it names that the packet process may not open itself.
type content struct {
	Text  []byte           `json:"text"`
	Files map[string]named `json:"files,omitempty"`

	seen map[string]os.FileInfo // what Files looked like; nil: not there
}

// named is a file, or why it could not be read.
type named struct {
	Data  []byte `json:"data,omitempty"`
	Error string `json:"error,omitempty"`
}

// gather reads what belongs to a configuration.
func gather(cfg *config.Config, text []byte) *content {
	c := &content{Text: text, Files: make(map[string]named), seen: look(cfg.NamedFiles())}
	for _, path := range cfg.NamedFiles() {
		b, err := config.ReadNamed(path)
		if err != nil {
			c.Files[path] = named{Error: err.Error()}
			continue
		}
		c.Files[path] = named{Data: b}
	}
	return c
}

func look(paths []string) map[string]os.FileInfo {
	out := make(map[string]os.FileInfo)
	for _, p := range paths {
		out[p], _ = os.Stat(p)
	}
	return out
}

// sameFiles reports whether two looks at the same paths saw the same.
func sameFiles(a, b map[string]os.FileInfo) bool {
	return maps.EqualFunc(a, b, func(x, y os.FileInfo) bool {
		if x == nil || y == nil {
			return x == nil && y == nil
		}
		return os.SameFile(x, y) && x.ModTime().Equal(y.ModTime()) && x.Size() == y.Size()
	})
}

// load reads the configuration without opening a file.
func (c *content) load(name string) (*config.Config, error) {
	return config.LoadWith(name, c.Text, func(path string) ([]byte, error) {
		n, ok := c.Files[path]
		switch {
		case !ok:
			return nil, fmt.Errorf("%s did not come with the configuration", path)
		case n.Error != "":
			return nil, errors.New(n.Error)
		}
		return n.Data, nil
	})
}

// seal puts the content into memory that a descriptor leads to.
func (c *content) seal() (*os.File, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("config", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("supervise: memory for the configuration: %w", err)
	}
	f := os.NewFile(uintptr(fd), "config")
	if _, err := f.Write(b); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("supervise: memory for the configuration: %w", err)
	}
	return f, nil
}

// maxContent bounds a configuration with its files in bytes.
const maxContent = 128 << 20

// unseal reads what seal has written, and closes f.
func unseal(f *os.File) (*content, error) {
	if f == nil {
		return nil, errors.New("supervise: no configuration came with the message")
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxContent+1))
	if err == nil && len(b) > maxContent {
		err = fmt.Errorf("supervise: a configuration of more than %d bytes", maxContent)
	}
	if err != nil {
		return nil, err
	}
	c := &content{}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("supervise: configuration: %w", err)
	}
	return c, nil
}
