package quic

import (
	"testing"
	"time"
)

func TestWindowRate(t *testing.T) {
	const ms = time.Millisecond
	for _, tc := range []struct {
		name   string
		rtt    time.Duration
		n      uint64 // bytes each millisecond
		window uint64
		want   bool
	}{
		{"fast on loopback, small window", 50 * time.Microsecond, 1 << 20, 512 << 10, true},
		{"fast on loopback, large enough", 50 * time.Microsecond, 1 << 20, 4 << 20, false},
		{"far away", 50 * ms, 1 << 20, 16 << 20, true},
		{"far away, large enough", 50 * ms, 1 << 20, 256 << 20, false},
		{"slow application", 50 * ms, 1 << 10, 512 << 10, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var m windowRate
			now := time.Unix(0, 0)
			grew := 0
			const steps = 200
			for range steps {
				const most = 64 << 20
				w := m.grow(now, tc.rtt, tc.n, tc.window, most)
				if w < tc.window || w > 4*tc.window || w > max(most, tc.window) {
					t.Fatalf("a window of %d became %d", tc.window, w)
				}
				if w > tc.window {
					grew++
				}
				now = now.Add(ms)
			}
			if (grew > 0) != tc.want {
				t.Errorf("outgrown %d times, want any: %t", grew, tc.want)
			}
			if most := steps/int(max(tc.rtt, ratePeriod)/ms) + 1; grew > most {
				t.Errorf("outgrown %d times in %d ms, more than once a period", grew, steps)
			}
		})
	}
}
