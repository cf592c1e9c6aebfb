package quic

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/qlog"
	"github.com/quic-fsgw/quic-fsgw/quic/simnet"
)

// A traceEvent is an event of a qlog file.
type traceEvent struct {
	Time float64
	Name string
	Data struct {
		New                    any
		Owner, Trigger, Reason string
		Header                 struct {
			PacketType   string `json:"packet_type"`
			PacketNumber uint64 `json:"packet_number"`
		}
		Frames []struct {
			FrameType string `json:"frame_type"`
			Length    int
		}
		CongestionWindow int `json:"congestion_window"`
	}
}

// readTrace reads the events of one end of a connection.
func readTrace(t *testing.T, dir, id, end string) []traceEvent {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, id+"_"+end+".sqlog"))
	if err != nil {
		t.Fatal(err)
	}
	var events []traceEvent
	for i, s := range strings.Split(string(data), "\x1e") {
		if i < 2 {
			continue // nothing, and the header
		}
		var e traceEvent
		if err := json.Unmarshal([]byte(s), &e); err != nil {
			t.Fatalf("%s: %v: %s", end, err, s)
		}
		events = append(events, e)
	}
	return events
}

// traced runs f on a pair whose connection is traced at both ends, and returns the
// events of the client and of the server. The network loses packets.
func traced(t *testing.T, f func(sp *simPair, client, server *Conn)) (events [2][]traceEvent, stats [2]ConnStats) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		tracer, err := qlog.Open(qlog.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		// Last of all, when the endpoints are closed.
		var id string
		t.Cleanup(func() {
			if err := tracer.Close(); err != nil {
				t.Error(err)
			}
			if s := tracer.Stats(); s.Open != 0 || s.Dropped != 0 || s.Failed != 0 || s.Started != 2 {
				t.Errorf("%+v", s)
			}
			events = [2][]traceEvent{readTrace(t, dir, id, "client"), readTrace(t, dir, id, "server")}
		})
		scfg, ccfg := serverConfig(), clientConfig()
		scfg.Qlog, ccfg.Qlog = tracer, tracer
		sp := newSimPair(t, 7, simnet.Params{Delay: 10 * time.Millisecond, Loss: 0.02}, scfg)
		client, server := sp.dial(ccfg)
		id = client.ID()
		f(sp, client, server)
		stats = [2]ConnStats{client.Stats(), server.Stats()}
	})
	return events, stats
}

func count(events []traceEvent, name string) (n uint64) {
	for i := range events {
		if events[i].Name == name {
			n++
		}
	}
	return n
}

// Every packet that was counted is in the trace, in the order of time.
func TestTrace(t *testing.T) {
	events, stats := traced(t, func(sp *simPair, client, server *Conn) {
		sp.exchange(client, server, 3, 200<<10)
		_ = client.CloseWithError(9, "that's \"all\"")
		<-server.Done()
	})
	for i, end := range []string{"client", "server"} {
		ev, st := events[i], stats[i]
		for name, want := range map[string]uint64{
			"transport:packet_sent": st.PacketsSent, "transport:packet_received": st.PacketsReceived, "recovery:packet_lost": st.PacketsLost,
			"transport:parameters_set": 2, "connectivity:connection_closed": 1, "connectivity:connection_started": 1,
		} {
			// Leaving, the endpoint may have sent CONNECTION_CLOSE again.
			if got := count(ev, name); got != want || want == 0 {
				t.Errorf("%s: %d of %s, want %d", end, got, name, want)
			}
		}
		if count(ev, "recovery:metrics_updated") < 10 {
			t.Errorf("%s: %d of recovery:metrics_updated", end, count(ev, "recovery:metrics_updated"))
		}
		var states []string
		var stream, last float64
		for _, e := range ev {
			if e.Time < last {
				t.Fatalf("%s: %s at %v after %v", end, e.Name, e.Time, last)
			}
			last = e.Time
			if state, ok := e.Data.New.(string); ok {
				states = append(states, state)
			}
			for _, f := range e.Data.Frames {
				if e.Name == "transport:packet_received" && f.FrameType == "stream" {
					stream += float64(f.Length)
				}
			}
		}
		if got, want := strings.Join(states, " "), "attempted handshake_completed handshake_confirmed closed"; got != want {
			t.Errorf("%s: states %s, want %s", end, got, want)
		}
		if stream < 3*200<<10 {
			t.Errorf("%s: %v bytes of streams received", end, stream)
		}
	}
	for i, owner := range []string{"local", "remote"} {
		for _, e := range events[i] {
			if e.Name == "connectivity:connection_closed" && (e.Data.Owner != owner || e.Data.Trigger != "application" || e.Data.Reason != "that's \"all\"") {
				t.Errorf("%+v", e.Data)
			}
		}
	}
}

// An idle timeout is told apart from a close, a key update is seen.
func TestTraceIdle(t *testing.T) {
	events, _ := traced(t, func(sp *simPair, client, server *Conn) {
		sp.exchange(client, server, 1, 10<<10)
		if err := client.UpdateKeys(); err != nil {
			t.Error(err)
		}
		sp.exchange(client, server, 1, 10<<10)
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		select {
		case <-client.Done():
		case <-ctx.Done():
			t.Error("no idle timeout")
		}
		<-server.Done()
	})
	for i, end := range []string{"client", "server"} {
		if count(events[i], "security:key_updated") != 1 {
			t.Errorf("%s: %d key updates", end, count(events[i], "security:key_updated"))
		}
		for _, e := range events[i] {
			if e.Name == "connectivity:connection_closed" && e.Data.Trigger != "idle_timeout" {
				t.Errorf("%s: %+v", end, e.Data)
			}
		}
	}
}
