package gateway

import (
	"fmt"
	"log/slog"

	"github.com/quic-fsgw/quic-fsgw/gateway/admin"
	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/quic/qlog"
)

// openTraces opens log.qlog, or returns nil where there is none. The folder
// stays the same until the process ends: its rights are given up at the start.
func openTraces(cfg *config.Log, log *slog.Logger) (*qlog.Tracer, error) {
	if cfg.Qlog == "" {
		return nil, nil
	}
	t, err := qlog.Open(qlog.Config{Dir: string(cfg.Qlog), Every: cfg.QlogEvery, Logger: log})
	if err != nil {
		return nil, fmt.Errorf("log.qlog: %w (the folder must exist, and the packet process's account be able to read and write it)", err)
	}
	return t, nil
}

// pullTraces registers what becomes of qlog traces.
func pullTraces(reg *admin.Registry, t *qlog.Tracer) {
	reg.PullCounter("quicfsgw_qlog_traces_total", "Qlog traces: begun, skipped (a limit), failed (the file can't be written).", func(emit func(float64, ...string)) {
		s := t.Stats()
		emit(float64(s.Started), "begun")
		emit(float64(s.Skipped), "skipped")
		emit(float64(s.Failed), "failed")
	}, "result")
	one := func(v func(qlog.Stats) int64) admin.PullFunc {
		return func(emit func(float64, ...string)) { emit(float64(v(t.Stats()))) }
	}
	reg.PullCounter("quicfsgw_qlog_bytes_total", "Bytes of qlog traces written.", one(func(s qlog.Stats) int64 { return s.Bytes }))
	reg.PullCounter("quicfsgw_qlog_dropped_total", "Pieces of qlog traces dropped because the disk was too slow.", one(func(s qlog.Stats) int64 { return s.Dropped }))
}
