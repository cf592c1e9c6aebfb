package quic

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/simnet"
)

// upload sends size bytes from the client to the server on one stream and
// returns how long it took until all were acknowledged.
func (sp *simPair) upload(client, server *Conn, size int64) time.Duration {
	sp.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	got := make(chan int64, 1)
	go func() {
		s, err := server.AcceptStream(ctx)
		if err != nil {
			got <- -1
			return
		}
		n, _ := io.Copy(io.Discard, s)
		_ = s.CloseWrite()
		got <- n
	}()
	s, err := client.OpenStream(ctx)
	if err != nil {
		sp.Fatal(err)
	}
	start := time.Now()
	if _, err := s.ReadFrom(&zeros{n: size}); err != nil {
		sp.Fatal(err)
	}
	if err := s.CloseWrite(); err != nil {
		sp.Fatal(err)
	}
	if err := s.Flush(ctx); err != nil {
		sp.Fatal(err)
	}
	took := time.Since(start)
	if n := <-got; n != size {
		sp.Fatalf("%d bytes arrived, want %d (client %v, server %v)", n, size, client.Err(), server.Err())
	}
	return took
}

// TestCongestionControl is whole connections over a bottleneck of 100 Mbit/s:
// with loss recovery, flow control and pacing as they are, each controller uses
// what it should. internal/ccsim has the controllers alone, and many more paths.
func TestCongestionControl(t *testing.T) {
	const rate = 12_500_000
	const ms = time.Millisecond
	for _, tt := range []struct {
		name  string
		p     simnet.Params
		size  int64
		least map[Congestion]float64 // share of the bottleneck, slow start included
	}{
		{"50 ms, 1 % loss", simnet.Params{Delay: 25 * ms, Rate: rate, Queue: 625_000, Loss: 0.01}, 120 << 20, map[Congestion]float64{BBR: 0.8}},
		{"20 ms, 0.1 % loss", simnet.Params{Delay: 10 * ms, Rate: rate, Queue: 250_000, Loss: 0.001}, 20 << 20, map[Congestion]float64{BBR: 0.8, CUBIC: 0.15, NewReno: 0.15}},
		{"100 ms, no loss", simnet.Params{Delay: 50 * ms, Rate: rate, Queue: 1_250_000}, 60 << 20, map[Congestion]float64{BBR: 0.8, CUBIC: 0.8, NewReno: 0.75}},
		{"shallow queue", simnet.Params{Delay: 10 * ms, Rate: rate, Queue: 40_000}, 20 << 20, map[Congestion]float64{BBR: 0.75, CUBIC: 0.7, NewReno: 0.6}},
	} {
		for cc, least := range tt.least {
			t.Run(fmt.Sprintf("%s/%v", tt.name, cc), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					scfg, cfg := patient(serverConfig()), patient(clientConfig())
					// What a queue of 100 ms loses, and loses again, holds back more
					// than the 4 MiB that a connection may keep behind a gap.
					scfg.OutOfOrder = 16 << 20
					sp := newSimPair(t, 1, tt.p, scfg)
					cfg.Congestion = cc
					client, server := sp.dial(cfg)
					took := sp.upload(client, server, tt.size)
					used := float64(tt.size) / took.Seconds() / rate
					st := client.Stats()
					t.Logf("%.1f %% used, %d bytes lost, %d of the packets spuriously, %s: %s", 100*used, st.BytesLost, st.SpuriousLosses, st.CongestionControl, st.CongestionState)
					if n := sp.server.Stats().Drops["budget"]; n > 0 {
						t.Errorf("%d packets were dropped for want of memory: this does not show congestion control alone", n)
					}
					if used < least {
						t.Errorf("%.1f %% of the bottleneck used, want %.0f %% at least", 100*used, 100*least)
					}
					if st.CongestionControl != cc.String() || st.PacingRate <= 0 || st.DeliveryRate <= 0 {
						t.Errorf("stats %+v", st)
					}
				})
			})
		}
	}
}

// TestLANIsNotThrottled: on a LAN of 10 Gbit/s, and on one without a limit, neither
// congestion control nor pacing holds a sender back, and what it sends leaves in whole
// batches: pacing waits for a batch, not for a packet.
func TestLANIsNotThrottled(t *testing.T) {
	const rate = 1_250_000_000
	for name, p := range map[string]simnet.Params{
		"10 Gbit/s": {Delay: 50 * time.Microsecond, Rate: rate, Queue: 1 << 20},
		"loopback":  {Delay: 5 * time.Microsecond},
	} {
		for _, cc := range []Congestion{CUBIC, NewReno, BBR} {
			t.Run(fmt.Sprintf("%s/%v", name, cc), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					cfg := patient(clientConfig())
					cfg.Congestion, cfg.MaxUDPPayload = cc, 1400
					sp := newSimPairOn(t, 1, p, patient(serverConfig()), simnet.Options{MaxSegments: 64, GRO: true, ECN: true})
					client, server := sp.dial(cfg)
					sp.upload(client, server, 16<<20) // slow start, windows and datagrams grow
					before := client.Stats()
					size := int64(96 << 20)
					if raceEnabled {
						size = 16 << 20
					}
					took := sp.upload(client, server, size)
					st := client.Stats()
					used := float64(size) / took.Seconds() / rate
					batch := float64(st.DatagramsSent-before.DatagramsSent) / float64(st.Batches-before.Batches)
					t.Logf("%.1f %% of 10 Gbit/s, %.1f datagrams a send, %d bytes lost", 100*used, batch, st.BytesLost)
					if used < 0.85 {
						t.Errorf("%.1f %% of 10 Gbit/s, want 85 %% at least", 100*used)
					}
					if batch < 20 { // a sender that answers each acknowledgement has 3 to 17
						t.Errorf("%.1f datagrams a send, of 46 that fit", batch)
					}
				})
			})
		}
	}
}

// A megabyte arrives through 30 % loss under any controller.
func TestCongestionControlHeavyLoss(t *testing.T) {
	for _, cc := range []Congestion{CUBIC, NewReno, BBR} {
		bubble(t, func(t *testing.T) {
			p := simnet.Params{Delay: 5 * time.Millisecond, Loss: 0.3}
			scfg, ccfg := patient(serverConfig()), patient(clientConfig())
			scfg.Congestion, ccfg.Congestion = cc, cc
			sp := newSimPair(t, 3, p, scfg)
			client, server := sp.dial(ccfg)
			sp.exchange(client, server, 1, 1<<20)
		})
	}
}
