package gateway_test

import (
	"bytes"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/nfs"
	"github.com/quic-fsgw/quic-fsgw/quic"
)

// appetite is what a client asks with.
type appetite struct{ connections, streams, ahead int }

// eat has a client make calls of a procedure on all its streams, ahead of them
// under way on each, until stop. It counts the answers in got and in all.
func (s *rpcSite) eat(name string, a appetite, procedure uint32, got, all *atomic.Int64, stop <-chan struct{}, wg *sync.WaitGroup) {
	tls := s.as(name)
	for range a.connections {
		c := s.dial(func(cfg *quic.Config) { cfg.Handshaker = quic.TLS(tls) })
		for range a.streams {
			st := s.open(c)
			wg.Go(func() {
				<-stop
				st.CancelRead(0)
				st.CancelWrite(0)
			})
			wg.Go(func() {
				call := rpcCall(1, nfs.ProgNFS, 3, procedure, 0, nil)
				for range a.ahead {
					if _, err := st.Write(call); err != nil {
						return
					}
				}
				for {
					if _, err := readRPC(st); err != nil {
						return
					}
					got.Add(1)
					all.Add(1)
					if _, err := st.Write(call); err != nil {
						return
					}
				}
			})
		}
	}
}

// Where a backend's rate is the bottleneck, a client that asks with dozens of
// connections and streams costs one that asks with a single one at most 20 % of
// its fair share, which is half: of bytes, and of requests.
func TestGreedyClient(t *testing.T) {
	const procNull, procRead = 0, 6
	for _, tt := range []struct {
		name, limit string
		procedure   uint32
		perSecond   float64 // answers that the limit lets through
	}{
		{"bytes", "bytes_per_second: 2MiB", procRead, 128},
		{"requests", "requests_per_second: 250", procNull, 250},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data := make([]byte, 16<<10)
			s := newRPCSite(t, inProcessConfig{nfs: "      limits: {" + tt.limit + "}\n"}, func(w io.Writer, msg []byte) {
				if word(msg, 5) == procRead {
					w.Write(rpcReply(word(msg, 0), data))
					return
				}
				w.Write(rpcReply(word(msg, 0), nil))
			})
			go func() {
				for range s.server.calls { // nobody else looks at them
				}
			}()
			var greedy, modest, all atomic.Int64
			var wg sync.WaitGroup
			stop := make(chan struct{})
			s.eat("modest", appetite{1, 1, 16}, tt.procedure, &modest, &all, stop, &wg)
			s.eat("greedy", appetite{6, 6, 4}, tt.procedure, &greedy, &all, stop, &wg)
			// Both are under way, and what each of the streams could move at once is past.
			await(t, "both clients to be served", func() bool { return greedy.Load() > 6*6*4 && modest.Load() > 50 })
			var share float64
			for range 8 { // until the limit was the bottleneck, and not the machine
				g, m, from, start := greedy.Load(), modest.Load(), all.Load(), time.Now()
				await(t, "answers", func() bool { return all.Load()-from >= int64(2*tt.perSecond) })
				g, m = greedy.Load()-g, modest.Load()-m
				share = float64(m) / float64(g+m)
				rate := float64(g+m) / time.Since(start).Seconds()
				t.Logf("the modest client had %.1f %% of %d answers, %.0f a second", 100*share, g+m, rate)
				if rate > 0.9*tt.perSecond {
					break
				}
			}
			close(stop)
			wg.Wait()
			if share < 0.5*0.8 {
				t.Errorf("that is less than 80 %% of its fair half")
			}
		})
	}
}

// Who begins a new stream for every few calls, or a new connection, and goes away
// before they are paid for, gets no more of them through than its rate. A limit is
// a lower bound of time, so a slow machine changes nothing.
func TestLimitsOfShortStreams(t *testing.T) {
	const rate, calls = 100, 300
	s := newRPCSite(t, inProcessConfig{limits: "  requests_per_second_per_client: 100\n"}, func(w io.Writer, msg []byte) {
		w.Write(rpcReply(word(msg, 0), nil))
	})
	batch := bytes.Repeat(rpcCall(1, nfs.ProgNFS, 3, 0, 0, nil), 10)
	start, deadline := time.Now(), time.Now().Add(40*time.Second)
	for len(s.server.calls) < calls {
		if time.Now().After(deadline) {
			t.Fatalf("%d calls came through in 40 s", len(s.server.calls))
		}
		c := s.dial(nil)
		for range 10 {
			st := s.open(c)
			s.send(st, batch)
			_ = st.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			_, _ = readRPC(st)
			st.CancelRead(0)
			st.CancelWrite(0)
		}
		_ = c.CloseWithError(0, "")
	}
	// The first 50 ms and the calls of one stream are free.
	if took, least := time.Since(start), time.Duration(calls-50)*time.Second/rate; took < least {
		t.Errorf("%d calls in %s, at %d a second", calls, took, rate)
	}
}
