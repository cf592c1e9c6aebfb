package qlog

import (
	"errors"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Config says where traces go and how many there may be. The zero value of
// each field but Dir is its default.
type Config struct {
	Dir       string       // directory of the files; it must exist
	Every     int          // trace one connection in so many; default 1: all
	MaxTraces int          // traces open at once, default 64; connections beyond it have none
	MaxFile   int64        // bytes of one file, default 64 MiB; the trace ends there
	MaxTotal  int64        // bytes of all files of this Tracer, default 1 GiB; then nothing more is traced
	Logger    *slog.Logger // told once when files can't be written; nil: silent
}

const (
	chunkSize  = 16 << 10 // bytes of events handed over at once
	queueLen   = 256      // chunks waiting for the disk: 4 MiB
	recordSize = 4 << 10  // what one event may take at most
)

// Stats are counters of a Tracer.
type Stats struct {
	Started int64 // traces begun
	Open    int64 // traces under way
	Skipped int64 // connections without a trace because of a limit
	Dropped int64 // chunks that the disk was too slow for
	Failed  int64 // traces that ended because their file couldn't be written
	Bytes   int64 // written
}

// A Tracer makes traces and writes their files.
type Tracer struct {
	cfg   Config
	root  *os.Root
	queue chan chunk
	done  chan struct{}

	mu     sync.RWMutex // held shared by senders to queue
	closed bool

	orphans sync.Map // traces whose last chunk was dropped, at most MaxTraces

	seen                                             atomic.Uint64
	started, open, skipped, dropped, failed, written atomic.Int64
	warned                                           atomic.Bool
}

// A chunk is some whole records of one trace.
type chunk struct {
	trace *Trace
	data  []byte
	last  bool
}

// Open returns a Tracer that writes below cfg.Dir. The directory is opened now,
// so that a process may give up rights afterwards.
func Open(cfg Config) (*Tracer, error) {
	def := func(v *int64, d int64) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&cfg.MaxFile, 64<<20)
	def(&cfg.MaxTotal, 1<<30)
	if cfg.Every <= 0 {
		cfg.Every = 1
	}
	if cfg.MaxTraces <= 0 {
		cfg.MaxTraces = 64
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	root, err := os.OpenRoot(cfg.Dir)
	if err != nil {
		return nil, err
	}
	t := &Tracer{cfg: cfg, root: root, queue: make(chan chunk, queueLen), done: make(chan struct{})}
	go t.write()
	return t, nil
}

// Close writes what has been handed over and closes the files. Traces that are
// still open are cut.
func (t *Tracer) Close() error {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	if !t.closed {
		t.closed = true
		close(t.queue)
	}
	t.mu.Unlock()
	<-t.done
	return t.root.Close()
}

// Stats returns the counters. A nil Tracer's are zero.
func (t *Tracer) Stats() Stats {
	if t == nil {
		return Stats{}
	}
	return Stats{
		Started: t.started.Load(), Open: t.open.Load(), Skipped: t.skipped.Load(),
		Dropped: t.dropped.Load(), Failed: t.failed.Load(), Bytes: t.written.Load(),
	}
}

// Start begins the trace of a connection, or returns nil if it is to have none.
// id is its name, the client's first Destination Connection ID in hex.
func (t *Tracer) Start(server bool, id string, now time.Time) *Trace {
	if t == nil || (t.seen.Add(1)-1)%uint64(t.cfg.Every) != 0 {
		return nil
	}
	if t.written.Load() >= t.cfg.MaxTotal {
		t.skipped.Add(1)
		return nil
	}
	if t.open.Add(1) > int64(t.cfg.MaxTraces) {
		t.open.Add(-1)
		t.skipped.Add(1)
		return nil
	}
	t.started.Add(1)
	tr := &Trace{tracer: t, start: now, name: fileName(server, id)}
	tr.header(server, id)
	return tr
}

// fileName is made of what the peer chose, an ID in hex: anything else is left out.
func fileName(server bool, id string) string {
	b := make([]byte, 0, 64)
	for _, c := range []byte(id) {
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'f' {
			b = append(b, c)
		}
	}
	return string(b[:min(len(b), 40)]) + "_" + vantage(server) + ".sqlog"
}

func vantage(server bool) string {
	if server {
		return "server"
	}
	return "client"
}

// hand queues a chunk, or drops it.
func (t *Tracer) hand(c chunk) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.closed {
		return
	}
	select {
	case t.queue <- c:
	default:
		t.dropped.Add(1)
		if c.last { // only the goroutine knows the file; it has chunks to come back for
			t.orphans.Store(c.trace, nil)
		}
	}
}

// outFile is one file under way.
type outFile struct {
	f       *os.File
	written int64
	failed  bool
}

// write is the Tracer's goroutine.
func (t *Tracer) write() {
	defer close(t.done)
	files := make(map[*Trace]*outFile)
	for c := range t.queue {
		t.writeChunk(files, c)
		if len(t.queue) == 0 { // an orphan's earlier chunks are written
			t.reap(files)
		}
	}
	t.reap(files)
	for tr := range files {
		t.finish(files, tr)
	}
}

// reap finishes the traces whose last chunk was dropped.
func (t *Tracer) reap(files map[*Trace]*outFile) {
	t.orphans.Range(func(tr, _ any) bool {
		t.orphans.Delete(tr)
		t.finish(files, tr.(*Trace))
		return true
	})
}

func (t *Tracer) writeChunk(files map[*Trace]*outFile, c chunk) {
	out := files[c.trace]
	if out == nil {
		f, err := t.root.OpenFile(c.trace.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
		out = &outFile{f: f}
		files[c.trace] = out
		if err != nil {
			t.fail(c.trace, out, err)
		}
	}
	if !out.failed {
		n, err := out.f.Write(c.data)
		out.written += int64(n)
		if total := t.written.Add(int64(n)); err == nil && (out.written >= t.cfg.MaxFile || total >= t.cfg.MaxTotal) {
			err = errFull
		}
		if err != nil {
			t.fail(c.trace, out, err)
		}
	}
	chunks.Put((*[chunkSize]byte)(c.data[:chunkSize]))
	if c.last {
		t.finish(files, c.trace)
	}
}

var errFull = errors.New("the limit of bytes is reached")

// fail ends a trace whose file can't be written.
func (t *Tracer) fail(tr *Trace, out *outFile, err error) {
	out.failed = true
	tr.stopped.Store(true)
	if err == errFull {
		return
	}
	t.failed.Add(1)
	if t.warned.CompareAndSwap(false, true) {
		t.cfg.Logger.Warn("qlog trace ended early", "file", tr.name, "error", err, "hint", "further ones are only counted")
	}
}

func (t *Tracer) finish(files map[*Trace]*outFile, tr *Trace) {
	if out := files[tr]; out != nil {
		if out.f != nil {
			out.f.Close()
		}
		delete(files, tr)
	}
	t.open.Add(-1)
}

var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}
