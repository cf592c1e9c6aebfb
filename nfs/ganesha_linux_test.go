package nfs

import (
	"bytes"
	"context"
	"crypto/rand"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
)

func ganeshaService(t *testing.T, g *ganeshatest.Server, cfg Config) *Service {
	t.Helper()
	cfg.Backends = []string{g.NFS}
	cfg.Ports.Mount = netip.MustParseAddrPort(g.Mount).Port()
	return newTestService(t, cfg)
}

// libnfs runs one of libnfs's tools.
func libnfs(t *testing.T, args ...string) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*testTimeout)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if stderr.Len() > 0 {
		t.Logf("%s: %s", strings.Join(args, " "), bytes.TrimSpace(stderr.Bytes()))
	}
	return out, err
}

// url makes a libnfs URL that goes through the gateway. The client claims to be uid 1000.
func (g *gateway) url(path, version string) string {
	host, port, _ := net.SplitHostPort(g.addr)
	u := "nfs://" + host + path + "?uid=1000&gid=1000&version=" + version + "&nfsport=" + port
	if version == "3" {
		u += "&mountport=" + port
	}
	return u
}

// TestLibnfs drives a real server with a real client through the relay, with v3 and v4.
func TestLibnfs(t *testing.T) {
	ganeshatest.Require(t, "nfs-ls", "nfs-cat", "nfs-cp")
	server := ganeshatest.Start(t)
	service := ganeshaService(t, server, Config{Exports: []string{ganeshatest.Pseudo}})
	g := startGateway(t, service, testIdentity(t))

	content := make([]byte, 5<<20+123)
	rand.Read(content)
	local := filepath.Join(t.TempDir(), "local")
	if err := os.WriteFile(local, content, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(server.Dir, "secret"), []byte("root's"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"3", "4"} {
		t.Run("v"+version, func(t *testing.T) {
			name, src, want := "file"+version, local, content
			if version == "4" { // Debian's libnfs cannot send large v4 WRITEs
				want = content[:3000]
				src = filepath.Join(t.TempDir(), "small")
				if err := os.WriteFile(src, want, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := libnfs(t, "nfs-cp", src, g.url(ganeshatest.Pseudo+"/"+name, version)); err != nil {
				t.Fatalf("nfs-cp: %v", err)
			}
			checkFile(t, filepath.Join(server.Dir, name), want)
			if out, err := libnfs(t, "nfs-ls", g.url(ganeshatest.Pseudo, version)); err != nil || !bytes.Contains(out, []byte(name)) {
				t.Errorf("nfs-ls: %v, %q", err, out)
			}
			if err := os.WriteFile(filepath.Join(server.Dir, "big"+version), content, 0o644); err != nil {
				t.Fatal(err)
			}
			if out, err := libnfs(t, "nfs-cat", g.url(ganeshatest.Pseudo+"/big"+version, version)); err != nil || !bytes.Equal(out, content) {
				t.Errorf("nfs-cat: %v, %d bytes", err, len(out))
			}
			if out, err := libnfs(t, "nfs-cat", g.url(ganeshatest.Pseudo+"/secret", version)); err == nil {
				t.Errorf("nfs-cat read a file of root with mode 0600: %q", out)
			}
		})
	}
	t.Run("foreign path", func(t *testing.T) {
		out, err := libnfs(t, "nfs-ls", g.url("/elsewhere", "3"))
		if err == nil {
			t.Errorf("mounted a path that is not exported: %q", out)
		}
	})
	t.Run("no identity", func(t *testing.T) {
		anonymous := startGateway(t, service, nil)
		for _, version := range []string{"3", "4"} {
			if out, err := libnfs(t, "nfs-ls", anonymous.url(ganeshatest.Pseudo, version)); err == nil {
				t.Errorf("v%s without identity: %q", version, out)
			}
		}
	})
}

// checkFile checks content and owner, who must be the mapped identity and not what the client claimed.
func checkFile(t *testing.T, name string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(name)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %v, %d bytes, want %d", name, err, len(got), len(want))
	}
	st, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if sys := st.Sys().(*syscall.Stat_t); sys.Uid != 4242 || sys.Gid != 4243 {
		t.Errorf("%s belongs to %d:%d, want 4242:4243", name, sys.Uid, sys.Gid)
	}
}

// TestLibnfsParallel runs many clients at once and counts what is left over.
func TestLibnfsParallel(t *testing.T) {
	ganeshatest.Require(t, "nfs-cp")
	checkNoLeak(t)
	server := ganeshatest.Start(t)
	service := ganeshaService(t, server, Config{})
	g := startGateway(t, service, testIdentity(t))
	content := make([]byte, 8<<20)
	rand.Read(content)
	src := filepath.Join(t.TempDir(), "src")
	if err := os.WriteFile(src, content, 0o644); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := "f" + string(rune('0'+i))
			if _, err := libnfs(t, "nfs-cp", src, g.url(ganeshatest.Pseudo+"/"+name, "3")); err != nil {
				t.Errorf("nfs-cp: %v", err)
				return
			}
			checkFile(t, filepath.Join(server.Dir, name), content)
			if out, err := libnfs(t, "nfs-cat", g.url(ganeshatest.Pseudo+"/"+name, "3")); err != nil || !bytes.Equal(out, content) {
				t.Errorf("nfs-cat: %v, %d bytes", err, len(out))
			}
		})
	}
	wg.Wait()
}

// TestMountListsOfServer checks EXPORT and DUMP against a real mountd.
func TestMountListsOfServer(t *testing.T) {
	server := ganeshatest.Start(t)
	for _, tt := range []struct {
		name    string
		exports []string
		want    []byte
	}{
		{"allowed", []string{ganeshatest.Pseudo}, be32(be32(appendOpaque(be32(nil, 1), ganeshatest.Pseudo), 0), 0)},
		{"hidden", []string{"/other"}, be32(nil, 0)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := startGateway(t, ganeshaService(t, server, Config{Exports: tt.exports}), testIdentity(t))
			c := g.dial(t)
			mustWrite(t, c, callRecord(1, ProgMount, 3, mountExport, ""))
			got, err := successResults(mustRead(t, c))
			if err != nil || !bytes.Equal(got, tt.want) {
				t.Errorf("EXPORT: %v, % x, want % x", err, got, tt.want)
			}
			mustWrite(t, c, callRecord(2, ProgMount, 3, mountDump, ""))
			if _, err := successResults(mustRead(t, c)); err != nil {
				t.Errorf("DUMP: %v", err)
			}
		})
	}
}

func TestProbe(t *testing.T) {
	server := ganeshatest.Start(t)
	service := ganeshaService(t, server, Config{})
	st := service.Probe(t.Context())
	if len(st) != 1 || st[0].V3 != nil || st[0].V4 != nil || st[0].Mount != nil || st[0].Time == 0 {
		t.Errorf("Probe of a healthy server: %+v", st)
	}
	if _, err := ProbeNull(t.Context(), server.NFS, ProgNFS, 3); err != nil {
		t.Error(err)
	}
	if _, err := ProbeNull(t.Context(), server.NFS, ProgNFS, 2); err == nil {
		t.Error("NFS version 2 answered")
	}
	server.Stop()
	if st := service.Probe(t.Context()); st[0].Up() || st[0].Mount == nil {
		t.Errorf("Probe of a dead server: %+v", st)
	}
}
