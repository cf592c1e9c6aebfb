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
	tab := &table{cfg: &config.Config{QUIC: config.QUIC{Versions: []string{"v2", "v1"}}}}
	g.table.Store(tab)
	for _, x := range []struct {
		route config.Route
		want  []quic.Version
	}{
		{config.Route{Name: "files", SMB: &config.SMB{Backends: []string{"127.0.0.1:445"}, MinDialect: "3.1.1"}}, []quic.Version{quic.Version2, quic.Version1}},
		{config.Route{Name: "home", NFS: &config.NFS{Backends: []string{"127.0.0.1:2049"}, Identity: config.Identity{SquashUID: 65534, SquashGID: 65534}}}, []quic.Version{quic.Version1}},
	} {
		r, err := g.compileRoute(tab, &x.route)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(r.quic.Versions, x.want) {
			t.Errorf("route %s: versions %v, want %v", x.route.Name, r.quic.Versions, x.want)
		}
	}
	// before the route is known, all of them
	if c := g.baseConfig(tab.cfg, nil); !slices.Equal(c.Versions, []quic.Version{quic.Version2, quic.Version1}) {
		t.Errorf("versions of the endpoint: %v", c.Versions)
	}
}
