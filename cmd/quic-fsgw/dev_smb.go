//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"time"
)

// startDevSMB starts smbd, if it is installed, for one share. The address is
// the zero value if it is not.
func startDevSMB(ctx context.Context, state, dir string) (netip.AddrPort, func(), error) {
	smbd, err := exec.LookPath("smbd")
	if err != nil {
		return netip.AddrPort{}, nil, errors.New("smbd is not installed (install samba to have it)")
	}
	me, err := user.Current()
	if err != nil {
		return netip.AddrPort{}, nil, err
	}
	addr, err := freePort()
	if err != nil {
		return netip.AddrPort{}, nil, err
	}
	private := filepath.Join(state, "samba")
	if err := os.MkdirAll(private, 0o700); err != nil {
		return netip.AddrPort{}, nil, err
	}
	conf := filepath.Join(private, "smb.conf")
	if err := os.WriteFile(conf, devSMBConf(private, dir, me.Username, addr.Port()), 0o600); err != nil {
		return netip.AddrPort{}, nil, err
	}
	pw := exec.CommandContext(ctx, "smbpasswd", "-c", conf, "-s", "-a", me.Username)
	pw.Stdin = strings.NewReader("dev\ndev\n")
	if out, err := pw.CombinedOutput(); err != nil {
		return netip.AddrPort{}, nil, fmt.Errorf("smbpasswd: %w: %s", err, strings.TrimSpace(string(out)))
	}
	cmd := exec.Command(smbd, "-F", "--no-process-group", "-s", conf, "-l", private)
	stop, err := startChild(cmd)
	if err != nil {
		return netip.AddrPort{}, nil, err
	}
	if err := awaitTCP(ctx, addr); err != nil {
		stop()
		return netip.AddrPort{}, nil, fmt.Errorf("smbd did not start: %w (see %s)", err, private)
	}
	return addr, stop, nil
}

// devSMBConf is a configuration that touches nothing outside its folder. The
// user name dev stands for whoever runs this.
func devSMBConf(private, dir, me string, port uint16) []byte {
	users := filepath.Join(private, "users.map")
	_ = os.WriteFile(users, []byte(me+" = dev\n"), 0o600)
	return fmt.Appendf(nil, `[global]
workgroup = WORKGROUP
server role = standalone server
map to guest = never
interfaces = lo
bind interfaces only = yes
smb ports = %d
disable netbios = yes
server min protocol = SMB2_10
load printers = no
printcap name = /dev/null
disable spoolss = yes
username map = %s
private dir = %s
lock directory = %s
state directory = %s
cache directory = %s
pid directory = %s
ncalrpc dir = %s
log level = 0
[dev]
path = %s
read only = no
guest ok = no
`, port, users, private, private, private, private, private, filepath.Join(private, "ncalrpc"), dir)
}

func freePort() (netip.AddrPort, error) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort(), nil
}

// awaitTCP waits until somebody listens.
func awaitTCP(ctx context.Context, addr netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := net.DialTimeout("tcp", addr.String(), time.Second)
		if err == nil {
			return c.Close()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}
