package tlshd

import (
	"fmt"
	"log/slog"
	"os"
	"sync"
)

// keyLogFD is where a spawned helper finds its key log, if it has one: it can open
// no file for writing itself.
const keyLogFD = 4

// openKeyLog opens Config.UnsafeKeyLog to append to. The file is its owner's alone.
func openKeyLog(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("tlshd: unsafe_key_log: %w", err)
	}
	st, err := f.Stat()
	switch {
	case err != nil:
	case !st.Mode().IsRegular():
		err = fmt.Errorf("%s is no regular file", path)
	case st.Mode().Perm()&0o077 != 0 && os.Geteuid() >= 0: // not on Windows
		err = fmt.Errorf("%s has mode %v: others can read or write it (chmod 600)", path, st.Mode().Perm())
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("tlshd: unsafe_key_log: %w", err)
	}
	return f, nil
}

// keyLog writes TLS secrets in the format of SSLKEYLOGFILE, for programs that take
// captured packets apart. Who has the file can read all that is sent.
type keyLog struct {
	path string
	log  *slog.Logger

	mu     sync.Mutex
	f      *os.File
	failed bool
}

// newKeyLog says aloud what is going to happen.
func newKeyLog(path string, f *os.File, log *slog.Logger) *keyLog {
	log.Warn("UNSAFE: the TLS secrets of every connection are written to a file: whoever reads it can read all traffic (remove unsafe_key_log)",
		"unsafe_key_log", path)
	return &keyLog{path: path, log: log, f: f}
}

// Write appends one line of one handshake. It never fails: a full disk must not
// keep clients out.
func (k *keyLog) Write(line []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.f == nil {
		return len(line), nil
	}
	if _, err := k.f.Write(line); err != nil && !k.failed {
		k.failed = true
		k.log.Error("key log: secrets are missing from now on", "unsafe_key_log", k.path, "error", err.Error())
	}
	return len(line), nil
}

func (k *keyLog) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.f != nil {
		_ = k.f.Close()
		k.f = nil
	}
}
