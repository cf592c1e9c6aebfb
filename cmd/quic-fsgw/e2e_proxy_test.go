//go:build linux

package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// startHAProxy runs HAProxy, which takes connections that begin with a PROXY
// header, and no others, and passes them to backend. lines are the addresses that
// it believes its clients to have, one for each connection that has ended.
func startHAProxy(t testing.TB, backend string) (addr string, lines <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(t.TempDir(), "haproxy.cfg")
	err = os.WriteFile(conf, fmt.Appendf(nil, `global
  log stdout format raw local0
defaults
  mode tcp
  log global
  timeout connect 10s
  timeout client 10m
  timeout server 10m
frontend gateway
  bind %s accept-proxy
  log-format "client %%ci:%%cp"
  default_backend servers
backend servers
  server one %s
`, addr, backend), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("haproxy", "-db", "-f", conf)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("haproxy: %v (make deps installs it)", err)
	}
	clients := make(chan string, 1024)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		in := bufio.NewScanner(out)
		for in.Scan() {
			if a, ok := strings.CutPrefix(in.Text(), "client "); ok {
				select {
				case clients <- a:
				default:
				}
			}
		}
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	eventually(t, "HAProxy to listen", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return addr, clients
}

// proxied waits for an ended connection that HAProxy takes for the client's.
func proxied(t testing.TB, lines <-chan string, client string) {
	t.Helper()
	var seen []string
	limit := time.After(e2eDeadline)
	for {
		select {
		case a := <-lines:
			if a == client {
				return
			}
			seen = append(seen, a)
		case <-limit:
			t.Fatalf("HAProxy has seen no client %s, but %q", client, seen)
		}
	}
}

// clientOf is the address of the last client whose connection has ended.
func (g *gatewayProcess) clientOf(t testing.TB, mark int) string {
	t.Helper()
	return g.Log.wait(t, mark, "the end of a connection", func(l logLine) bool { return l.Msg == "connection ended" }).str("remote")
}

// What stands behind the gateway learns its clients' own addresses, of a server
// that wants to hear them: HAProxy, with smbd and nfs-ganesha behind it. The
// gateway's own checks of the backends pass it, too.
func TestProxyProtocol(t *testing.T) {
	t.Run("SMB", func(t *testing.T) {
		s := &smbSite{smbd: sambatest.Start(t, sambatest.Options{})}
		addr, lines := startHAProxy(t, s.smbd.Addr)
		s.gatewayProcess = startGateway(t, gatewaySetup{Names: []string{sambatest.Host},
			Rest: strings.Replace(publicSMB(addr), "min_dialect", "proxy_protocol: v2, min_dialect", 1)})
		mark := s.Log.mark()
		sambatest.MustSMBClient(t, s.target(t), "mkdir d")
		if fi, err := os.Stat(s.path("d")); err != nil || !fi.IsDir() {
			t.Error(err)
		}
		proxied(t, lines, s.clientOf(t, mark))
		// Without the header HAProxy ends a connection at once.
		b, err := os.ReadFile(s.Config)
		if err != nil {
			t.Fatal(err)
		}
		s.write(strings.Replace(string(b), "proxy_protocol: v2, ", "", 1))
		mustCLI(t, time.Minute, nil, "reload", "-c", s.Config)
		if out := sambatest.SMBClient(t, s.target(t), "mkdir e"); out.Code == 0 {
			t.Error("smbclient works without the header: HAProxy does not look for it")
		}
	})
	t.Run("NFS", func(t *testing.T) {
		server := ganeshatest.Start(t)
		addr, lines := startHAProxy(t, server.NFS)
		mount, mounts := startHAProxy(t, server.Mount)
		behind := &ganeshatest.Server{NFS: addr, Mount: mount, Dir: server.Dir}
		a := newAuthority(t)
		s := &nfsStage{nfs: server, trust: map[string][]string{}}
		cert, key := a.client("alice", "--email", "alice@example.com")
		s.trust["alice"] = []string{"--ca", a.CA, "--cert", cert, "--key", key}
		rules := strings.Replace(nfsRules(behind, nfsSetup{names: []string{nfsName}}), "      ports:", "      proxy_protocol: v2\n      ports:", 1)
		s.gatewayProcess = startGateway(t, gatewaySetup{Authority: a, Names: []string{nfsName}, Rest: rules, Tlshd: fmt.Sprintf("  client_ca: [%s]\n", a.CA)})
		mark := s.Log.mark()
		mustCLI(t, time.Minute, nil, s.as("alice", "mkdir", s.url("/d"))...)
		wantOwner(t, server.Dir+"/d", aliceUID, aliceGID)
		client := s.clientOf(t, mark)
		proxied(t, lines, client)
		proxied(t, mounts, client)
	})
}
