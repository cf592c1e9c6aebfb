package gateway

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/quic"
)

// TestVersionsOfRoutes: sunrpc is accepted on version 1 only, whatever else the file allows.
func TestVersionsOfRoutes(t *testing.T) {
	g := &Gateway{log: slog.New(slog.DiscardHandler)}
	cfg, err := config.LoadFrom("config.yaml", []byte(`
tlshd: {certificates: [{names: [files.test, home.test], cert: c, key: k}]}
quic: {versions: [v2, v1]}
routes:
  - {name: files, match: {alpn: smb, server_name: files.test}, access: public, smb: {backends: ["127.0.0.1:445"]}}
  - {name: home, match: {alpn: sunrpc, server_name: home.test}, access: public, nfs: {backends: ["127.0.0.1:2049"]}}
`))
	if err != nil {
		t.Fatal(err)
	}
	tab := &table{cfg: cfg}
	g.table.Store(tab)
	for i, want := range [][]quic.Version{{quic.Version2, quic.Version1}, {quic.Version1}} {
		r, err := g.compileRoute(tab, &cfg.Routes[i])
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(r.quic.Versions, want) {
			t.Errorf("route %s: versions %v, want %v", cfg.Routes[i].Name, r.quic.Versions, want)
		}
	}
	// before the route is known, all of them
	if c := g.baseConfig(tab.cfg, nil); !slices.Equal(c.Versions, []quic.Version{quic.Version2, quic.Version1}) {
		t.Errorf("versions of the endpoint: %v", c.Versions)
	}
}
