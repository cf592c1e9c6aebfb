//go:build linux

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/gateway/reason"
	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// log.qlog: the packet process, which may open no other file, leaves a trace of
// one connection in two.
func TestServeQlog(t *testing.T) {
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o777); err != nil { // it is another account's
		t.Fatal(err)
	}
	backend := startCounting(t)
	g := startGateway(t, gatewaySetup{Names: []string{sambatest.Host}, Log: ", qlog_every: 2, qlog: " + dir, Rest: quietSMB(backend.Addr)})
	client := peer{ServerName: sambatest.Host, CA: g.Authority.CA, ALPN: []string{"smb"}}
	var ids []string
	for range 3 {
		mark := g.Log.mark()
		c := client.mustDial(t, g.Addr)
		ids = append(ids, c.ID())
		for c.UpdateKeys() != nil { // not before the handshake is confirmed
			if c.Err() != nil {
				t.Fatal(c.Err())
			}
			poll(t)
		}
		c.CloseWithError(0, "done")
		g.Log.wait(t, mark, "the end", func(l logLine) bool {
			return l.Msg == "connection ended" && l.str("reason") == reason.ClientClosed.Name
		})
	}
	g.Stop()
	for i, id := range ids {
		text, err := os.ReadFile(filepath.Join(dir, id+"_server.sqlog"))
		if i%2 == 1 {
			if !os.IsNotExist(err) {
				t.Errorf("connection %d of %d has a trace: %v", i, len(ids), err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for n, s := range strings.Split(string(text), "\x1e")[1:] {
			if !json.Valid([]byte(s)) {
				t.Fatalf("record %d: %s", n, s)
			}
		}
		for _, want := range []string{`"vantage_point":{"type":"server"}`, `"new":"handshake_confirmed"`, `"name":"connectivity:connection_closed"`, `"frame_type":"handshake_done"`} {
			if !strings.Contains(string(text), want) {
				t.Errorf("no %s in the trace of %s", want, id)
			}
		}
	}
}
