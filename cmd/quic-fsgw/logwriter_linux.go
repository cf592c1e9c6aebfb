package main

import (
	"io"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// logWriter writes lines to a file without handing over the processor where the
// kernel takes them at once (RWF_NOWAIT). Each call that may block wakes the Go
// runtime's monitor, which looks around every 20 microseconds for a while: that
// costs a process that handles one message at a time more than the line.
// What does not go that way is written as ever.
type logWriter struct {
	f   *os.File
	raw syscall.RawConn

	mu    sync.Mutex
	try   func(fd uintptr) bool
	iov   unix.Iovec
	n     int
	never bool // no kernel or file for it
}

func newLogWriter(f *os.File) io.Writer {
	raw, err := f.SyscallConn()
	if err != nil {
		return f // it is closed, and will say so
	}
	w := &logWriter{f: f, raw: raw}
	w.try = w.call
	return w
}

// call writes once. At the position -1 pwritev2 is writev.
func (w *logWriter) call(fd uintptr) bool {
	const here = ^uintptr(0)
	n, _, errno := unix.RawSyscall6(unix.SYS_PWRITEV2, fd, uintptr(unsafe.Pointer(&w.iov)), 1, here, here, unix.RWF_NOWAIT)
	switch errno {
	case 0:
		w.n = int(n)
	case unix.EAGAIN, unix.EINTR:
	default:
		w.never = true
	}
	return true
}

// Write implements io.Writer.
func (w *logWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n = 0
	if len(b) > 0 && !w.never {
		w.iov.Base = &b[0]
		w.iov.SetLen(len(b))
		if err := w.raw.Write(w.try); err != nil {
			w.never = true // the file says it better
		}
		w.iov.Base = nil
	}
	if w.n == len(b) {
		return w.n, nil
	}
	n, err := w.f.Write(b[w.n:])
	return w.n + n, err
}
