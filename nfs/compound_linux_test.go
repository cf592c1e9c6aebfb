package nfs

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
)

// A real server refuses a name that was overwritten, and serves the others.
func TestLibnfsV4Exports(t *testing.T) {
	ganeshatest.Require(t, "nfs-ls")
	server := ganeshatest.Start(t)
	for _, d := range []string{"open", "shut"} {
		if err := os.Mkdir(filepath.Join(server.Dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(server.Dir, d, "in-"+d), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	service := ganeshaService(t, server, Config{V4Exports: []string{ganeshatest.Pseudo + "/open"}})
	g := startGateway(t, service, testIdentity(t))
	if out, err := libnfs(t, "nfs-ls", g.url(ganeshatest.Pseudo+"/open", "4")); err != nil || !bytes.Contains(out, []byte("in-open")) {
		t.Errorf("the path that is allowed: %v, %q", err, out)
	}
	if out, err := libnfs(t, "nfs-ls", g.url(ganeshatest.Pseudo+"/shut", "4")); err == nil {
		t.Errorf("the path that is not: %q", out)
	}
	if out, err := libnfs(t, "nfs-ls", g.url(ganeshatest.Pseudo+"/shut", "3")); err != nil || !bytes.Contains(out, []byte("in-shut")) {
		t.Errorf("NFSv3, which it does not bind: %v, %q", err, out)
	}
}
