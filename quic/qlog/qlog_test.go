package qlog

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 678_000, time.UTC)

// at is a time in a trace.
func at(us int) time.Time { return epoch.Add(time.Duration(us) * time.Microsecond) }

func open(t testing.TB, cfg Config) *Tracer {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	tr, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close() })
	return tr
}

// texts splits a file into its JSON texts and checks each.
func texts(t testing.TB, file string) []map[string]any {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []map[string]any
	for i, s := range strings.Split(string(data), "\x1e") {
		if i == 0 {
			if s != "" {
				t.Fatalf("%q before the first record", s)
			}
			continue
		}
		// RFC 7464, Section 2.1: a text ends in a line feed.
		if !strings.HasSuffix(s, "\n") {
			t.Fatalf("record %d is cut: %q", i, s)
		}
		var m map[string]any
		if err := json.Unmarshal([]byte(s), &m); err != nil {
			t.Fatalf("record %d: %v: %s", i, err, s)
		}
		all = append(all, m)
	}
	return all
}

// everything calls every method.
func everything(tr *Trace) {
	addr := netip.MustParseAddrPort
	id, _ := wire.MakeConnID([]byte{1, 2, 3, 4, 5, 6, 7, 8})
	tr.Started(at(0), 1, addr("192.0.2.1:443"), addr("192.0.2.2:5000"), "0102", "0304")
	tr.Started(at(0), 0x6b3343cf, addr("[2001:db8::1]:443"), addr("[2001:db8::2]:5000"), "", "0304")
	tr.State(at(10), "attempted")
	tr.State(at(10), "attempted") // no change, no event
	tr.State(at(11), "handshake_started")
	p := wire.DefaultTransportParams()
	p.HasInitialSrc, p.InitialSrc = true, id
	tr.Parameters(at(12), true, &p)
	tr.Parameters(at(12), false, &p)
	tr.Sent(at(20), &Packet{Type: wire.PacketInitial, Size: 1200, Payload: 1160, Src: id, Dst: id},
		wire.AppendPadding(append(wire.AppendCryptoHeader(nil, 0, 3), "abc"...), 100), nil)
	tr.Sent(at(30), &Packet{Type: wire.Packet1RTT, PN: 7, Size: 1400, Payload: 1370, KeyPhase: true},
		wire.AppendPing(nil), &StreamFrame{ID: 4, Off: 1 << 40, Len: 1300, Fin: true})
	tr.Sent(at(31), &Packet{Type: wire.Packet1RTT, PN: 8, Size: 1400, Payload: 1370}, nil, &StreamFrame{})
	for _, f := range allFrames() {
		tr.Received(at(1040), &Packet{Type: wire.Packet1RTT, PN: 9, Size: 40}, f)
	}
	tr.Lost(at(50), wire.Packet1RTT, 7, "reordering_threshold")
	tr.Dropped(at(60), 1200, "decrypt")
	tr.KeyUpdated(at(70), "client_1rtt_secret", 2, "local_update")
	tr.Metrics(at(80), Metrics{MinRTT: time.Millisecond, SmoothedRTT: 1500 * time.Microsecond, CongestionWindow: 12000, BytesInFlight: 1400})
	tr.Metrics(at(80), Metrics{MinRTT: time.Millisecond, SmoothedRTT: 1500 * time.Microsecond, CongestionWindow: 12000, BytesInFlight: 1400})
	tr.Metrics(at(81), Metrics{MinRTT: time.Millisecond, SmoothedRTT: 1500 * time.Microsecond, CongestionWindow: 12000, Ssthresh: 6000, PacingRate: 1e9})
	tr.MTU(at(90), 1200, 1452)
	tr.Path(at(91), addr("192.0.2.2:5001"), 1)
	tr.Closed(at(99), true, false, 0x0a, "why \"\\\x00\u009b\xff☃", "error")
	tr.Closed(at(99), false, true, 3, "", "application")
}

// allFrames is one frame of each type.
func allFrames() [][]byte {
	id, _ := wire.MakeConnID([]byte{9, 9, 9, 9})
	return [][]byte{
		wire.AppendPadding(nil, 3), wire.AppendPing(nil), wire.AppendImmediateAck(nil), wire.AppendAckFrequency(nil, wire.AckFrequency{Seq: 1, Threshold: 9, MaxAckDelay: 2_000_000, Reordering: 3}), wire.AppendHandshakeDone(nil),
		wire.AppendAck(nil, []wire.AckRange{{Smallest: 90, Largest: 100}, {Smallest: 3, Largest: 5}}, 125, &[3]uint64{1, 2, 3}, 100),
		wire.AppendResetStream(nil, 4, 5, 6), wire.AppendStopSending(nil, 4, 5),
		append(wire.AppendCryptoHeader(nil, 10, 2), "xy"...), wire.AppendNewToken(nil, []byte("secret token")),
		append(wire.AppendStreamHeader(nil, 8, 16, 2, true), "ab"...),
		wire.AppendMaxData(nil, 1), wire.AppendMaxStreamData(nil, 4, 2), wire.AppendMaxStreams(nil, true, 3), wire.AppendMaxStreams(nil, false, 3),
		wire.AppendDataBlocked(nil, 4), wire.AppendStreamDataBlocked(nil, 4, 5), wire.AppendStreamsBlocked(nil, true, 6), wire.AppendStreamsBlocked(nil, false, 6),
		wire.AppendNewConnectionID(nil, 3, 1, id, [16]byte{0xee, 0xdd}), wire.AppendRetireConnectionID(nil, 2),
		wire.AppendPathChallenge(nil, [8]byte{0xcc}), wire.AppendPathResponse(nil, [8]byte{0xbb}),
		wire.AppendConnectionClose(nil, false, 7, 6, []byte("bad")), wire.AppendConnectionClose(nil, true, 7, 0, []byte("bye")),
		append(wire.AppendDatagramHeader(nil, 2), "dg"...),
		{0xbf, 0xff},        // unknown
		{wire.FrameMaxData}, // cut
	}
}

func TestEvents(t *testing.T) {
	dir := t.TempDir()
	tracer := open(t, Config{Dir: dir})
	tr := tracer.Start(true, "0102030405060708", epoch)
	everything(tr)
	tr.Close()
	tracer.Close()
	got := texts(t, filepath.Join(dir, "0102030405060708_server.sqlog"))

	head := got[0]
	if head["qlog_version"] != "0.3" || head["qlog_format"] != "JSON-SEQ" {
		t.Errorf("header %v", head)
	}
	common := head["trace"].(map[string]any)["common_fields"].(map[string]any)
	if common["ODCID"] != "0102030405060708" || common["reference_time"] != float64(epoch.UnixMicro())/1000 {
		t.Errorf("common fields %v", common)
	}
	seen := map[string]int{}
	frames := map[string]int{}
	for _, m := range got[1:] {
		name, data := m["name"].(string), m["data"].(map[string]any)
		seen[name]++
		if list, ok := data["frames"].([]any); ok {
			for _, f := range list {
				frames[f.(map[string]any)["frame_type"].(string)]++
			}
		}
	}
	for name, n := range map[string]int{
		"connectivity:connection_started": 2, "connectivity:connection_state_updated": 2, "connectivity:connection_closed": 2,
		"transport:parameters_set": 2, "transport:packet_sent": 3, "transport:packet_received": len(allFrames()), "transport:packet_dropped": 1,
		"recovery:packet_lost": 1, "recovery:metrics_updated": 2, "security:key_updated": 1, "connectivity:mtu_updated": 1, "connectivity:path_updated": 1,
	} {
		if seen[name] != n {
			t.Errorf("%d of %s, want %d", seen[name], name, n)
		}
	}
	for typ := range uint64(wire.FrameDatagramLen) + 1 {
		if name := wire.FrameName(typ); wire.FrameKnown(typ) && frames[name] == 0 {
			t.Errorf("no frame %s", name)
		}
	}
	raw, _ := os.ReadFile(filepath.Join(dir, "0102030405060708_server.sqlog"))
	for _, secret := range []string{"secret token", "eedd", "cc00000000000000", "bb00000000000000"} {
		if bytes.Contains(raw, []byte(secret)) {
			t.Errorf("%q is in the trace", secret)
		}
	}
	if !bytes.Contains(raw, []byte(`"time":1.040,"name":"transport:packet_received"`)) {
		t.Error("no event at 1.040 ms")
	}
}

// A nil Tracer and a nil Trace are what most connections have.
func TestNone(t *testing.T) {
	var none *Tracer
	tr := none.Start(true, "00", epoch)
	everything(tr)
	tr.Close()
	if none.Close() != nil || none.Stats() != (Stats{}) {
		t.Error("a nil Tracer does something")
	}
	if n := testing.AllocsPerRun(100, func() { tr.Sent(epoch, &Packet{}, nil, nil) }); n != 0 {
		t.Errorf("%v allocations without a trace", n)
	}
}

func TestSampled(t *testing.T) {
	dir := t.TempDir()
	tracer := open(t, Config{Dir: dir, Every: 3, MaxTraces: 2})
	var got []*Trace
	for i := range 9 {
		if tr := tracer.Start(false, string(rune('0'+i)), epoch); tr != nil {
			got = append(got, tr)
		}
	}
	if s := tracer.Stats(); len(got) != 2 || s.Started != 2 || s.Open != 2 || s.Skipped != 1 {
		t.Errorf("%d traces of 9 connections, one in three, two at once; %+v", len(got), s)
	}
	for _, tr := range got {
		tr.Close()
	}
	tracer.Close()
	if s := tracer.Stats(); s.Open != 0 {
		t.Errorf("%d traces are open", s.Open)
	}
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 2 || names[0].Name() != "0_client.sqlog" {
		t.Errorf("%v %v", names, err)
	}
}

// The names of files come from peers.
func TestFileName(t *testing.T) {
	for id, want := range map[string]string{
		"../../etc/passwd": "ecad_client.sqlog", "": "_client.sqlog", "00ff": "00ff_client.sqlog",
		strings.Repeat("a", 99): strings.Repeat("a", 40) + "_client.sqlog",
	} {
		if got := fileName(false, id); got != want {
			t.Errorf("%q: %q, want %q", id, got, want)
		}
	}
}

// stuck is a slog.Handler that holds whoever logs: the disk that does not answer.
type stuck struct {
	slog.Handler
	called, release chan struct{}
}

func (s *stuck) Enabled(context.Context, slog.Level) bool { return true }

func (s *stuck) Handle(context.Context, slog.Record) error {
	close(s.called)
	<-s.release
	return nil
}

// The disk stands still: events are dropped, nobody waits, and once it goes on
// there are no traces left open, and later ones are whole.
func TestSlowDisk(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "00_client.sqlog"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h := &stuck{called: make(chan struct{}), release: make(chan struct{})}
	tracer := open(t, Config{Dir: dir, Logger: slog.New(h)})
	first := tracer.Start(false, "00", epoch) // its file exists: that is logged
	everything(first)
	first.Close()
	<-h.called

	second := tracer.Start(false, "01", epoch)
	for tracer.Stats().Dropped < 10 {
		everything(second)
	}
	second.Close() // dropped as well
	third := tracer.Start(false, "02", epoch)
	third.Close()
	if s := tracer.Stats(); s.Dropped < 12 || s.Open != 3 {
		t.Errorf("%+v", s)
	}
	close(h.release)
	tracer.Close()
	if s := tracer.Stats(); s.Failed != 1 || s.Open != 0 {
		t.Errorf("%+v", s)
	}
	if got := texts(t, filepath.Join(dir, "01_client.sqlog")); len(got) < 100 {
		t.Errorf("%d records of what fitted in the queue", len(got))
	}
}

func TestLimits(t *testing.T) {
	dir := t.TempDir()
	tracer := open(t, Config{Dir: dir, MaxFile: 40 << 10, MaxTotal: 60 << 10})
	for _, id := range []string{"00", "01"} {
		tr := tracer.Start(false, id, epoch)
		for range 100 {
			everything(tr)
		}
		tr.Close()
		for tracer.Stats().Open > 0 {
			time.Sleep(time.Millisecond) // the goroutine's turn; nothing is asserted of how long
		}
	}
	if tr := tracer.Start(false, "02", epoch); tr != nil {
		t.Error("a trace beyond the limit of all")
	}
	tracer.Close()
	var sum int64
	for _, id := range []string{"00", "01"} {
		file := filepath.Join(dir, id+"_client.sqlog")
		texts(t, file)
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > 40<<10+chunkSize {
			t.Errorf("%s: %d bytes", id, info.Size())
		}
		sum += info.Size()
	}
	if s := tracer.Stats(); s.Bytes != sum || sum > 60<<10+chunkSize || s.Skipped != 1 || s.Failed != 0 {
		t.Errorf("%d bytes, %+v", sum, s)
	}
}

func TestOpenFails(t *testing.T) {
	if _, err := Open(Config{Dir: filepath.Join(t.TempDir(), "absent")}); err == nil {
		t.Error("a directory that is not there")
	}
}

// Whatever frames a peer sends, the trace stays valid and within its record.
func FuzzReceived(f *testing.F) {
	for _, frame := range allFrames() {
		f.Add(frame)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, frames []byte) {
		tracer, err := Open(Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		tr := tracer.Start(true, "00", epoch)
		tr.Received(at(1), &Packet{Type: wire.Packet1RTT, Size: len(frames)}, frames)
		tr.Closed(at(2), false, true, 0, string(frames), "error")
		tr.Close()
		tracer.Close()
		file := filepath.Join(dir, "00_server.sqlog")
		if got := texts(t, file); len(got) != 3 {
			t.Errorf("%d records", len(got))
		}
		os.Remove(file)
	})
}
