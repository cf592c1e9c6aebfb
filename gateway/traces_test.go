package gateway

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/gateway/config"
)

func TestOpenTraces(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	if tr, err := openTraces(&config.Log{}, log); tr != nil || err != nil {
		t.Errorf("no folder: %v, %v", tr, err)
	}
	_, err := openTraces(&config.Log{Qlog: "/nonexistent/traces"}, log)
	if err == nil || !strings.Contains(err.Error(), "log.qlog") || !strings.Contains(err.Error(), "must exist") {
		t.Errorf("a folder that is not there: %v", err)
	}
	tr, err := openTraces(&config.Log{Qlog: config.Path(t.TempDir()), QlogEvery: 2}, log)
	if err != nil || tr.Close() != nil {
		t.Error(err)
	}
}
