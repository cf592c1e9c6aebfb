package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// The admin socket speaks JSON, one object a line: a Request, then one
// Response. A connection may send several requests, one after the other. Who
// may use it is the file system's decision: the socket has mode 0660.

// Commands of a Request.
const (
	CommandStatus = "status"
	CommandReload = "reload"
	CommandDrain  = "drain"
)

// Request is one line to the socket.
type Request struct {
	Command string `json:"command"`
	// TimeoutMS bounds drain, in milliseconds; 0: as long as it takes.
	TimeoutMS int64 `json:"timeout_ms,omitempty"`
}

// Response is one line back.
type Response struct {
	OK       bool            `json:"ok"`
	Error    string          `json:"error,omitempty"`
	Warnings []string        `json:"warnings,omitempty"`
	Status   json.RawMessage `json:"status,omitempty"`
}

const (
	maxRequest    = 4 << 10
	maxResponse   = 16 << 20
	maxAdminConns = 16
	requestIdle   = 30 * time.Second
	reloadTime    = time.Minute
	writeTime     = 10 * time.Second
)

// ListenUnix makes the socket file, with mode 0660, and its folder if that is not
// there. A file left over by a process that no longer answers is replaced; a live
// one is an error.
func ListenUnix(path string) (*net.UnixListener, error) {
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	addr := &net.UnixAddr{Name: path, Net: "unix"}
	l, err := net.ListenUnix("unix", addr)
	if err != nil {
		if c, dialErr := net.DialUnix("unix", nil, addr); dialErr == nil {
			_ = c.Close()
			return nil, fmt.Errorf("admin socket %s: another gateway answers there", path)
		}
		info, statErr := os.Lstat(path)
		if statErr != nil || info.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("admin socket: %w", err)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("admin socket left over by another process: %w", err)
		}
		if l, err = net.ListenUnix("unix", addr); err != nil {
			return nil, fmt.Errorf("admin socket: %w", err)
		}
	}
	if err := os.Chmod(path, 0o660); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	return l, nil
}

// ServeUnix answers commands on l until ctx ends, closes l, and returns when
// every command has ended.
func (s *Server) ServeUnix(ctx context.Context, l *net.UnixListener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	slots := make(chan struct{}, maxAdminConns)
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("admin socket %s: %w", l.Addr(), err)
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = s.reply(conn, Response{Error: fmt.Sprintf("%d clients are connected already", maxAdminConns)})
			_ = conn.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			s.serveConn(ctx, conn)
		})
	}
}

func (s *Server) serveConn(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	lines := bufio.NewScanner(conn)
	lines.Buffer(make([]byte, 0, 1024), maxRequest)
	for ctx.Err() == nil {
		if err := conn.SetReadDeadline(time.Now().Add(requestIdle)); err != nil || ctx.Err() != nil {
			return
		}
		if !lines.Scan() {
			if errors.Is(lines.Err(), bufio.ErrTooLong) {
				_ = s.reply(conn, Response{Error: fmt.Sprintf("a request has at most %d bytes", maxRequest)})
			}
			return
		}
		var req Request
		if err := json.Unmarshal(lines.Bytes(), &req); err != nil {
			_ = s.reply(conn, Response{Error: "not a JSON request: " + err.Error()})
			return
		}
		if err := s.reply(conn, s.run(ctx, req)); err != nil {
			s.log.Debug("admin socket: reply not sent", "err", err)
			return
		}
	}
}

// run carries a command out.
func (s *Server) run(ctx context.Context, req Request) Response {
	switch req.Command {
	case CommandStatus:
		b, err := json.Marshal(s.src.Status())
		if err != nil {
			return Response{Error: "status: " + err.Error()}
		}
		return Response{OK: true, Status: b}
	case CommandReload:
		ctx, cancel := context.WithTimeout(ctx, reloadTime)
		defer cancel()
		warnings, err := s.src.Reload(ctx)
		return outcome(warnings, err)
	case CommandDrain:
		if req.TimeoutMS < 0 || req.TimeoutMS > int64(24*time.Hour/time.Millisecond) {
			return Response{Error: "timeout_ms is not from 0 to one day"}
		}
		if req.TimeoutMS > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, time.Duration(req.TimeoutMS)*time.Millisecond)
			defer cancel()
		}
		return outcome(nil, s.src.Drain(ctx))
	}
	known := []string{CommandStatus, CommandReload, CommandDrain}
	slices.Sort(known)
	return Response{Error: fmt.Sprintf("unknown command %q; known: %q", req.Command, known)}
}

func outcome(warnings []string, err error) Response {
	if err != nil {
		return Response{Error: err.Error(), Warnings: warnings}
	}
	return Response{OK: true, Warnings: warnings}
}

func (s *Server) reply(conn net.Conn, r Response) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write response: %w", err)
	}
	if err := conn.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return err
	}
	_, err = conn.Write(append(b, '\n'))
	return err
}

// Call sends one request to the socket at path and waits for its response, no
// longer than ctx allows.
func Call(ctx context.Context, path string, req Request) (*Response, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	b, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("write request: %w", err)
	}
	if _, err := conn.Write(append(b, '\n')); err != nil {
		return nil, fmt.Errorf("admin socket %s: %w", path, err)
	}
	lines := bufio.NewScanner(conn)
	lines.Buffer(make([]byte, 0, 64<<10), maxResponse)
	if !lines.Scan() {
		switch {
		case ctx.Err() != nil:
			return nil, fmt.Errorf("admin socket %s: %w", path, context.Cause(ctx))
		case lines.Err() != nil:
			return nil, fmt.Errorf("admin socket %s: %w", path, lines.Err())
		}
		return nil, fmt.Errorf("admin socket %s: closed without an answer", path)
	}
	var r Response
	if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
		return nil, fmt.Errorf("admin socket %s: %w", path, err)
	}
	return &r, nil
}
