//go:build linux && interop

package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// The Linux kernel's own clients, in a virtual machine, through `connect` and
// `serve` to real file servers. connect runs beside the machine, which reaches
// this host's loopback by the address sambatest.VMHost: QUIC's cryptography
// inside the machine would be eighty times slower.

// vmName is the gateway's name in these tests.
const vmName = "files.test"

// The amounts that the machine reads, and writes.
const (
	vmLarge = 256 << 20
	vmSmall = 64 << 20
)

// vmGateway runs `serve` with one route and `connect` in front of it, and
// returns the TCP port for the machine.
func vmGateway(t *testing.T, scheme, route string) (*gatewayProcess, int) {
	t.Helper()
	ca := newAuthority(t)
	g := startGateway(t, gatewaySetup{
		Authority: ca, Names: []string{vmName}, Tlshd: "  client_ca: [" + ca.CA + "]\n",
		Rest: "access: {devices: {client_certificate: required, allow: [{any: true}]}}\nroutes:\n  - name: vm\n    access: devices\n" + route,
	})
	cert, key := ca.client("vm.example.com")
	port := startConnect(t, fmt.Sprintf("%s://%s", scheme, g.Addr), "--ca", ca.CA, "--cert", cert, "--key", key, "--server-name", vmName)
	return g, port
}

// vmMount is one way of mounting that a test goes through.
type vmMount struct {
	Name    string // a file name
	Options string // of mount -o, without the port
	Reading string // such options for reading; empty: Options
	Shows   string // what /proc/mounts must say
	Size    int64
}

// vmScript reads down.NAME from the mounted file system and writes up.NAME to
// it, once for each mount. Hashes are taken of what the mount gave; those of
// what it took are the test's affair.
func vmScript(mountType, source, options string, mounts []vmMount) string {
	var b strings.Builder
	b.WriteString("set -e\nmkdir -p /tmp/m\n")
	for _, m := range mounts {
		fmt.Fprintf(&b, `mount -t %[1]s -o %[3]s,%[8]s %[2]s /tmp/m
a=$(cut -d' ' -f1 /proc/uptime)
echo "hash %[6]s $(sha256sum </tmp/m/down.%[6]s)"
umount /tmp/m
b=$(cut -d' ' -f1 /proc/uptime)
mount -t %[1]s -o %[3]s,%[4]s %[2]s /tmp/m
grep ' /tmp/m ' /proc/mounts | grep -q '%[5]s' || { cat /proc/mounts; exit 9; }
cp /host/up.%[6]s /tmp/m/up.%[6]s
mkdir /tmp/m/dir.%[6]s
mv /tmp/m/up.%[6]s /tmp/m/dir.%[6]s/moved
umount /tmp/m
c=$(cut -d' ' -f1 /proc/uptime)
mount -t %[1]s -o %[3]s,%[4]s %[2]s /tmp/m
test "$(stat -c %%s /tmp/m/dir.%[6]s/moved)" = %[7]d
echo gone >/tmp/m/gone.%[6]s
rm /tmp/m/gone.%[6]s
test ! -e /tmp/m/gone.%[6]s
umount /tmp/m
echo "took %[6]s $a $b $c"
`, mountType, source, options, m.Options, m.Shows, m.Name, m.Size, cmp.Or(m.Reading, m.Options))
	}
	return b.String()
}

// vmTransfers runs the machine and checks every transfer, both ways.
func vmTransfers(t *testing.T, served, mountType, source, options string, mounts []vmMount) {
	t.Helper()
	folder := t.TempDir()
	down, up := map[string]string{}, map[string]string{}
	for _, m := range mounts {
		down[m.Name] = randomBytesFile(t, filepath.Join(served, "down."+m.Name), m.Size)
		up[m.Name] = randomBytesFile(t, filepath.Join(folder, "up."+m.Name), m.Size)
	}
	out := sambatest.VM(t, folder, vmScript(mountType, source, options, mounts), 9*time.Minute)
	if out.Code != 0 {
		t.Fatalf("the machine's script: exit status %d\n%s", out.Code, out.Text)
	}
	for _, m := range mounts {
		if !strings.Contains(out.Text, "hash "+m.Name+" "+down[m.Name]) {
			t.Errorf("%s: what was read has another hash than %s\n%s", m.Name, down[m.Name], out.Text)
		}
		if got := fileHash(t, filepath.Join(served, "dir."+m.Name, "moved")); got != up[m.Name] {
			t.Errorf("%s: what was written has hash %s, want %s", m.Name, got, up[m.Name])
		}
		var start, middle, end float64
		_, after, _ := strings.Cut(out.Text, "took "+m.Name+" ")
		if _, err := fmt.Sscan(after, &start, &middle, &end); err != nil {
			t.Errorf("%s: not done: %v", m.Name, err)
			continue
		}
		t.Logf("%s (%s): read (%s) %s; written %s", m.Name, m.Options, cmp.Or(m.Reading, m.Options),
			rate(m.Size, seconds(middle-start)), rate(m.Size, seconds(end-middle)))
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// mount.cifs, SMB 3.1.1: 256 MiB each way in the clear (inside QUIC), less with
// SMB's own encryption on top.
func TestKernelSMB(t *testing.T) {
	server := sambatest.Start(t, sambatest.Options{})
	_, port := vmGateway(t, "smb", fmt.Sprintf("    match: {alpn: smb, server_name: %s}\n    smb: {backends: [%q]}\n", vmName, server.Addr))
	vmTransfers(t, server.Dir, "cifs", fmt.Sprintf("//%s/%s", sambatest.VMHost, sambatest.Share),
		fmt.Sprintf("port=%d,user=%s,pass=%s", port, sambatest.User, sambatest.Password), []vmMount{
			{Name: "plain", Options: "vers=3.1.1", Shows: "vers=3.1.1", Size: vmLarge},
			{Name: "seal", Options: "vers=3.1.1,seal", Shows: "seal", Size: vmSmall},
		})
}

// mount.nfs, versions 3, 4.1 and 4.2. What the machine's root writes belongs to the
// user its certificate is mapped to.
func TestKernelNFS(t *testing.T) {
	server := ganeshatest.Start(t)
	_, mountPort, _ := strings.Cut(server.Mount, ":")
	_, port := vmGateway(t, "nfs", fmt.Sprintf(`    match: {alpn: sunrpc, server_name: %s}
    nfs:
      backends: [%q]
      ports: {mount: %s}
      identity:
        map: [{san: "dns:vm.example.com", uid: 4711, gid: 4712}]
        otherwise: refuse
`, vmName, server.NFS, mountPort))
	mounts := []vmMount{
		{Name: "v3", Options: fmt.Sprintf("vers=3,proto=tcp,mountproto=tcp,nolock,mountport=%d", port), Shows: "vers=3", Size: vmSmall},
		// Debian 12's nfs-ganesha answers this kernel's READ_PLUS with what the kernel
		// takes for an I/O error, without any gateway too. So 4.2 writes, 4.1 reads.
		{Name: "v42", Options: "vers=4.2,proto=tcp", Reading: "vers=4.1,proto=tcp", Shows: "vers=4.2", Size: vmSmall},
	}
	vmTransfers(t, server.Dir, "nfs", sambatest.VMHost+":"+ganeshatest.Pseudo, fmt.Sprintf("port=%d", port), mounts)
	for _, m := range mounts {
		uid, gid := owner(t, filepath.Join(server.Dir, "dir."+m.Name, "moved"))
		if uid != 4711 || gid != 4712 {
			t.Errorf("%s: what the client wrote belongs to %d:%d, want 4711:4712", m.Name, uid, gid)
		}
	}
}
