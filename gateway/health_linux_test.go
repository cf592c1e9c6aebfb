package gateway_test

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway"
	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
)

// awaitBackend waits until the state of the only route's i-th backend is as wanted.
func (g *inProcess) awaitBackend(t *testing.T, i int, what string, ok func(gateway.BackendStatus) bool) gateway.BackendStatus {
	t.Helper()
	var st gateway.BackendStatus
	awaitCount(t, what, 0, func() int {
		if st = g.Status().Routes[0].Backends[i]; ok(st) {
			return 0
		}
		return 1
	})
	return st
}

// Backends are checked without a client: one that is not there counts as down
// and a client goes to the other, one that stops is noticed, and so is one that refuses the export.
func TestBackendChecks(t *testing.T) {
	server := ganeshatest.Start(t)
	_, mount, _ := strings.Cut(server.Mount, ":")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := l.Addr().String()
	l.Close()
	var log syncBuffer
	g := newInProcessConfig(t, inProcessConfig{
		backends: `"` + dead + `", "` + server.NFS + `"`, mount: mount, log: &log,
		nfs: "      probe: {interval: 50ms, timeout: 20s, export: " + ganeshatest.Pseudo + "}\n",
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	down := func(st gateway.BackendStatus) bool { return !st.Up }
	st := g.awaitBackend(t, 0, "dead backends that are up", down)
	if st.Checks < 2 || st.BadChecks != st.Checks || st.LastError == "" || st.Dials != 0 || st.CheckedAgo == "" {
		t.Errorf("%+v", st)
	}
	st = g.awaitBackend(t, 1, "good backends unchecked", func(st gateway.BackendStatus) bool { return st.Checks > 0 })
	if !st.Up || st.BadChecks != 0 || st.CheckMs <= 0 {
		t.Errorf("%+v", st)
	}
	if err := g.copyBothWays(ctx, "f", 100<<10); err != nil {
		t.Fatal(err)
	}
	if st := g.Status().Routes[0].Backends; st[0].Dials != 0 || st[1].Dials == 0 {
		t.Errorf("the client met the dead backend: %+v", st)
	}
	server.Stop()
	g.awaitBackend(t, 1, "stopped backends that are up", down)
	if err := g.Close(ctx); err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), `msg="backend failed"`); n != 2 {
		t.Errorf("%d lines tell of a failed backend, want one for each:\n%s", n, log.String())
	}
}

// A check with an export finds a server that runs and does not let the gateway in.
func TestBackendCheckExport(t *testing.T) {
	server := ganeshatest.Start(t)
	_, mount, _ := bytes.Cut([]byte(server.Mount), []byte(":"))
	g := newInProcessConfig(t, inProcessConfig{
		backends: `"` + server.NFS + `"`, mount: string(mount), nfs: "      probe: {interval: 50ms, timeout: 20s, export: /elsewhere}\n",
	})
	st := g.awaitBackend(t, 0, "backends up", func(st gateway.BackendStatus) bool { return !st.Up })
	if !strings.Contains(st.LastError, "mount of /elsewhere") {
		t.Errorf("%+v", st)
	}
	if err := g.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// A reload keeps what is known of backends and goes on checking, the old checks end.
func TestBackendChecksReload(t *testing.T) {
	server := ganeshatest.Start(t)
	_, mount, _ := strings.Cut(server.Mount, ":")
	c := inProcessConfig{backends: `"` + server.NFS + `"`, mount: mount, nfs: "      probe: {interval: 50ms, timeout: 20s}\n"}
	g := newInProcessConfig(t, c)
	before := g.awaitBackend(t, 0, "unchecked backends", func(st gateway.BackendStatus) bool { return st.Checks > 2 })
	c.nfs = "      probe: {interval: 0s}\n"
	if err := g.Reload(g.config(t, c)); err != nil {
		t.Fatal(err)
	}
	st := g.Status().Routes[0].Backends[0]
	if st.Checks < before.Checks {
		t.Errorf("%d checks known before the reload, %d after it", before.Checks, st.Checks)
	}
	c.nfs = "      probe: {interval: 50ms, timeout: 20s}\n"
	if err := g.Reload(g.config(t, c)); err != nil {
		t.Fatal(err)
	}
	g.awaitBackend(t, 0, "backends left alone", func(now gateway.BackendStatus) bool { return now.Checks > st.Checks+1 })
	if err := g.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
