package tlshd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
)

// controlFD is where a spawned helper finds its control socket.
const controlFD = 3

// RunHelper is the main function of a spawned helper: it takes the control
// socket from descriptor 3, reads its configuration from there, the files that
// names, goes into its sandbox and serves packet processes until the supervisor
// is gone, which is not an error, or ctx ends.
func RunHelper(ctx context.Context, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	f := os.NewFile(controlFD, "control")
	if f == nil {
		return errors.New("tlshd: no control socket (this command is for the supervisor only)")
	}
	conn, err := connFromFile(f)
	if err != nil {
		return fmt.Errorf("tlshd: control socket on descriptor %d: %w (this command is for the supervisor only)", controlFD, err)
	}
	if err := checkPeer(conn, nil); err != nil {
		_ = conn.Close()
		return err
	}
	h := &helper{log: log, sock: newSocket(conn)}
	h.sock.takeFD = true
	defer context.AfterFunc(ctx, func() { _ = h.sock.close() })()
	err = h.run(ctx)
	_ = h.sock.close()
	closeFDs(h.sock.takeFDs())
	if h.server != nil {
		_ = h.server.Close()
	}
	h.wg.Wait()
	if ctx.Err() != nil || peerGone(err) {
		return nil
	}
	return err
}

type helper struct {
	log    *slog.Logger
	sock   *socket
	server *Server // nil before the first configuration
	wg     sync.WaitGroup
}

func (h *helper) run(ctx context.Context) error {
	if err := greet(h.sock, roleControl, nil); err != nil {
		return err
	}
	for {
		m, err := h.sock.read()
		if err != nil {
			return err
		}
		as, err := parseAttributes(m.typ, m.body)
		if err != nil {
			return err
		}
		if err := h.receive(ctx, m, as); err != nil {
			return err
		}
	}
}

func (h *helper) receive(ctx context.Context, m message, as attributes) error {
	fds := h.sock.takeFDs()
	if m.typ != msgAttach {
		closeFDs(fds)
	}
	if h.server == nil && m.typ != msgReload {
		closeFDs(fds)
		return protocolError("%v before the first configuration", m.typ)
	}
	switch m.typ {
	case msgReload:
		detail, err := h.reload(as.bytes(attrJSON))
		return h.reply(m, detail, err)
	case msgStats:
		return h.server.sendStats(h.sock, m.request)
	case msgAttach:
		return h.reply(m, "", h.attach(ctx, fds))
	}
	closeFDs(fds)
	return protocolError("%v from a supervisor", m.typ)
}

func (h *helper) reply(m message, detail string, err error) error {
	var b body
	status := StatusOK
	if err != nil {
		status, detail = StatusEINVAL, printable(err.Error())
	}
	b.u32(attrStatus, uint32(status))
	b.str(attrDetail, detail[:min(len(detail), maxDetail)])
	return h.sock.write(m.typ, m.request, true, b)
}

// reload takes a configuration. With the first one come the sandbox, and what
// of it is in force as the answer.
func (h *helper) reload(j []byte) (string, error) {
	var cfg Config
	dec := json.NewDecoder(strings.NewReader(string(j)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&cfg); err != nil {
		return "", fmt.Errorf("configuration: %w", err)
	}
	if h.server != nil {
		return "", h.server.Reload(cfg)
	}
	s, err := newServer(cfg, h.log, inheritedKeyLog)
	if err != nil {
		return "", err
	}
	steps, err := harden(cfg, true)
	if err != nil {
		_ = s.Close()
		return "", err
	}
	h.server = s
	return strings.Join(steps, " "), nil
}

// inheritedKeyLog is the file that the supervisor has opened.
func inheritedKeyLog(path string) (*os.File, error) {
	f := os.NewFile(keyLogFD, path)
	if f == nil {
		return nil, errors.New("tlshd: unsafe_key_log: it can only be given at the start of the helper (restart)")
	}
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return nil, fmt.Errorf("tlshd: unsafe_key_log: descriptor %d is not the file (%v)", keyLogFD, err)
	}
	return f, nil
}

// attach serves the one connection that came with a message.
func (h *helper) attach(ctx context.Context, fds []int) error {
	if len(fds) != 1 {
		closeFDs(fds)
		return fmt.Errorf("%d descriptors came, want 1", len(fds))
	}
	conn, err := connFromFD(fds[0])
	if err != nil {
		return err
	}
	if err := checkPeer(conn, nil); err != nil {
		_ = conn.Close()
		return err
	}
	h.wg.Add(1)
	go h.serve(ctx, conn)
	return nil
}

func (h *helper) serve(ctx context.Context, conn *net.UnixConn) {
	defer h.wg.Done()
	if err := h.server.Serve(ctx, conn); err != nil && !errors.Is(err, ErrClosed) {
		h.log.Error("connection of a packet process ended", "error", printable(err.Error()))
	}
}

// ourUID is who we were at the start, before root was dropped.
var ourUID = os.Geteuid()

// checkPeer lets root, the user we were started as and the users named use the
// helper.
func checkPeer(conn *net.UnixConn, uids []int) error {
	uid, err := peerUID(conn)
	if err != nil {
		return fmt.Errorf("tlshd: credentials of the peer: %w", err)
	}
	if uid == 0 || uid == ourUID {
		return nil
	}
	for _, u := range uids {
		if uid == u {
			return nil
		}
	}
	return fmt.Errorf("tlshd: user %d may not use this helper", uid)
}
