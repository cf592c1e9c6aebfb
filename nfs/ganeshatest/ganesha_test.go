package ganeshatest

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestStart(t *testing.T) {
	Require(t, "nfs-cat")
	s := Start(t)
	if err := os.WriteFile(filepath.Join(s.Dir, "hello"), []byte("hello\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	host, nfsPort, _ := net.SplitHostPort(s.NFS)
	for _, url := range []string{
		"nfs://" + host + Pseudo + "/hello?version=3&nfsport=" + nfsPort + "&mountport=" + port(s.Mount),
		"nfs://" + host + Pseudo + "/hello?version=4&nfsport=" + nfsPort,
	} {
		out, err := exec.Command("nfs-cat", url).Output()
		if err != nil || string(out) != "hello\n" {
			t.Errorf("nfs-cat %s: %q, %v", url, out, err)
		}
	}
	s.Stop()
	if _, err := net.Dial("tcp", s.NFS); err == nil {
		t.Error("the server listens after Stop")
	}
}
