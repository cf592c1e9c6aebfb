package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/qlog"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// A stage is where a client and a server meet in one test: files to download,
// what both are to do, and what was seen of it.
type stage struct {
	testing.TB
	wants
	dir   string // www, downloads and pki
	files map[string][]byte
	names []string // in their order

	mu       sync.Mutex
	cleanups []func()
	conns    []fsgwConn
	reports  []report

	tracer *qlog.Tracer
	events []event // of our ends, once it is over
	proxy  *proxy
	took   time.Duration
}

// A report is what a peer's program says about a connection.
type report struct {
	Version    uint32
	Resumed    bool
	EarlyData  bool `json:"early_data"`
	Suite      uint16
	KeyUpdates int `json:"key_updates"`
	Packets    int
	ECT0, CE   int
}

// Cleanup runs f when the exchange is over, which is before the test's end: our
// traces are complete only then.
func (st *stage) Cleanup(f func()) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.cleanups = append(st.cleanups, f)
}

func (st *stage) end() {
	st.mu.Lock()
	fs := st.cleanups
	st.cleanups = nil
	st.mu.Unlock()
	for _, f := range slices.Backward(fs) {
		f()
	}
}

func newStage(t testing.TB, w wants, sizes map[string]int) *stage {
	t.Helper()
	if !w.at.IsValid() {
		w.at = loopback
	}
	st := &stage{TB: t, wants: w, dir: t.TempDir(), files: map[string][]byte{}}
	for _, d := range []string{"www", "downloads", "pki", "qlog"} {
		mustNot(t, os.Mkdir(filepath.Join(st.dir, d), 0o755), "mkdir")
	}
	for name, size := range sizes {
		st.names = append(st.names, name)
		st.files[name] = payload(size, uint64(len(st.names)))
	}
	slices.Sort(st.names)
	var err error
	st.tracer, err = qlog.Open(qlog.Config{Dir: filepath.Join(st.dir, "qlog"), MaxTraces: 1000})
	mustNot(t, err, "qlog")
	return st
}

// play has the client download all files through a network with faults, or
// straight where f is nil, and compares them. meanwhile runs beside it.
func (st *stage) play(client, server peer, f *faults, limit time.Duration, meanwhile func(ctx context.Context)) {
	st.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	to := server.serve(st)
	if f != nil {
		st.proxy = newProxy(st, to, *f)
		to = st.proxy.Addr()
	}
	start := time.Now()
	side, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	if meanwhile != nil {
		wg.Go(func() { meanwhile(side) })
	}
	err := client.fetch(ctx, st, to)
	st.took = time.Since(start)
	stop()
	wg.Wait()
	st.settle()
	if err != nil {
		st.Errorf("%s from %s: %v (after %v)", client.name, server.name, err, st.took)
	}
	st.compare()
	st.keepTraces()
}

// keepTraces copies our traces to a directory below INTEROP_QLOG, for who wants to see them.
func (st *stage) keepTraces() {
	if dir := os.Getenv("INTEROP_QLOG"); dir != "" {
		if err := os.CopyFS(filepath.Join(dir, filepath.Base(st.dir)+"-"+filepath.Base(st.Name())), os.DirFS(filepath.Join(st.dir, "qlog"))); err != nil {
			st.Log(err)
		}
	}
}

// settle ends what is left of the exchange and reads our traces.
func (st *stage) settle() {
	st.Helper()
	for _, c := range st.connections() {
		c.Close(0, "")
	}
	st.end()
	mustNot(st.TB, st.tracer.Close(), "close the traces")
	if d := st.tracer.Stats().Dropped; d > 0 {
		st.Fatalf("%d pieces of our traces were lost", d)
	}
	st.events = readTraces(st.TB, filepath.Join(st.dir, "qlog"))
}

func (st *stage) compare() {
	st.Helper()
	bad := 0
	for _, name := range st.names {
		b, err := os.ReadFile(filepath.Join(st.dir, "downloads", name))
		if err == nil && !bytes.Equal(b, st.files[name]) {
			err = fmt.Errorf("%d bytes that are not the %d served", len(b), len(st.files[name]))
		}
		if err != nil {
			if bad++; bad <= 3 {
				st.Errorf("%.60s: %v", name, err)
			}
		}
	}
	if bad > 3 {
		st.Errorf("%d of %d files are wrong", bad, len(st.names))
	}
}

// connections are those of our end, in the order in which they began.
func (st *stage) connections() []fsgwConn {
	st.mu.Lock()
	defer st.mu.Unlock()
	return slices.Clone(st.conns)
}

func (st *stage) addReport(r report) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.reports = append(st.reports, r)
}

// An event is one of our traces'.
type event struct {
	Time float64
	Name string
	Data struct {
		Header struct {
			Type     string `json:"packet_type"`
			PN       uint64 `json:"packet_number"`
			KeyPhase int    `json:"key_phase"`
		}
		Frames []frame
	}
}

type frame struct {
	Type  string `json:"frame_type"`
	ECT0  uint64
	CE    uint64
	Bytes int `json:"length"`
}

func readTraces(t testing.TB, dir string) []event {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.sqlog"))
	mustNot(t, err, "traces")
	var all []event
	for _, name := range files {
		b, err := os.ReadFile(name)
		mustNot(t, err, "trace")
		for _, text := range strings.Split(string(b), "\x1e") {
			if !strings.Contains(text, `"transport:packet_`) {
				continue
			}
			var e event
			mustNot(t, json.Unmarshal([]byte(text), &e), "trace")
			all = append(all, e)
		}
	}
	return all
}

// packets counts packets that our end sent or received and that ok holds for.
func (st *stage) packets(sent bool, ok func(e *event) bool) (n int) {
	name := "transport:packet_received"
	if sent {
		name = "transport:packet_sent"
	}
	for i := range st.events {
		if st.events[i].Name == name && ok(&st.events[i]) {
			n++
		}
	}
	return n
}

// streamBytes counts stream data in packets of a type.
func (st *stage) streamBytes(sent bool, typ wire.PacketType) (n int) {
	st.packets(sent, func(e *event) bool {
		for _, f := range e.Data.Frames {
			if f.Type == "stream" && e.Data.Header.Type == typ.String() {
				n += f.Bytes
			}
		}
		return false
	})
	return n
}

// frames counts frames of a type.
func (st *stage) frames(sent bool, typ string) (n int) {
	st.packets(sent, func(e *event) bool {
		for _, f := range e.Data.Frames {
			if f.Type == typ {
				n++
			}
		}
		return false
	})
	return n
}

// want fails the test unless ok.
func (st *stage) want(ok bool, format string, args ...any) {
	st.Helper()
	if !ok {
		st.Errorf(format, args...)
	}
}

// localFor is where a client of a server binds.
func localFor(to netip.AddrPort) netip.AddrPort {
	switch {
	case to.Addr() == netip.IPv6Loopback():
		return netip.AddrPortFrom(to.Addr(), 0)
	case to.Addr().IsLoopback():
		return loopback
	}
	return netip.MustParseAddrPort("0.0.0.0:0")
}
