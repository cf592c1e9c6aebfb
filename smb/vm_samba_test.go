//go:build linux && interop

package smb_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/smb"
	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// The kernel's own client, mount.cifs, through the relay: signed and encrypted.
func TestRelayKernelClient(t *testing.T) {
	server := sambatest.Start(t, sambatest.Options{})
	front := startFront(t, server.Addr, smb.Options{}, nil)
	down := randomFile(t, server.Dir, "down", 1<<20)
	script := fmt.Sprintf(`set -e
mkdir -p /tmp/m
for o in vers=3.1.1 vers=3.1.1,seal vers=2.1; do
	mount -t cifs //%s/%s /tmp/m -o port=%d,user=%s,pass='%s',$o
	sha256sum </tmp/m/down
	head -c 500000 /dev/urandom >/tmp/up
	cp /tmp/up /tmp/m/up.$o
	mkdir /tmp/m/d
	mv /tmp/m/up.$o /tmp/m/d/up.$o
	umount /tmp/m
	mount -t cifs //%[1]s/%[2]s /tmp/m -o port=%[3]d,user=%[4]s,pass='%[5]s',$o
	cmp /tmp/up /tmp/m/d/up.$o
	rm -r /tmp/m/d
	umount /tmp/m
	echo "done $o"
done
`, sambatest.VMHost, sambatest.Share, front.port, sambatest.User, sambatest.Password)
	out := sambatest.VM(t, t.TempDir(), script, 5*time.Minute)
	if out.Code != 0 || strings.Count(out.Text, fmt.Sprintf("%x", down)) != 3 || strings.Count(out.Text, "done vers=") != 3 {
		t.Fatalf("exit status %d:\n%s", out.Code, out.Text)
	}
	if left, _ := filepath.Glob(filepath.Join(server.Dir, "d")); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}
