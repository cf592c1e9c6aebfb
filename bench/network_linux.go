package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A network of its own for a run, so that what a machine's administrator has chosen
// for TCP is no part of the numbers: BBR, for one, paces on the loopback interface,
// too, and its timers are a fifth of what a relay costs. In order:
//
//  1. bench run starts itself once more, in a new network namespace, if it may.
//  2. There it brings up the loopback interface, gives TCP a congestion control that
//     does not pace, and measures.

// ownNetworkEnv tells the second process what the machine has.
const ownNetworkEnv = "BENCH_OWN_NETWORK"

const congestionFile = "/proc/sys/net/ipv4/tcp_congestion_control"

// unpaced is what TCP gets, the first of them that may be had: Linux's default, which a
// machine with another one does not allow in a namespace, and what all allow.
var unpaced = []string{"cubic", "reno"}

// inOwnNetwork runs this program once more in a network namespace of its own and
// reports that it did. In that process it returns what the report should say of it.
func inOwnNetwork(ctx context.Context, self string) (ran bool, about string, err error) {
	machine := strings.TrimSpace(readFile(congestionFile))
	if had := os.Getenv(ownNetworkEnv); had != "" {
		if err := setUpNetwork(); err != nil {
			return false, "", fmt.Errorf("a network namespace for the run: %w", err)
		}
		return false, fmt.Sprintf("In a network namespace of its own; congestion control of TCP is %s (the machine's is %s).", readFile(congestionFile), had), nil
	}
	about = fmt.Sprintf("In the machine's own network; congestion control of TCP is %s.", machine)
	if os.Geteuid() != 0 || machine == "" {
		return false, about, nil
	}
	cmd := exec.CommandContext(ctx, self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), ownNetworkEnv+"="+machine)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute // until what it has started has ended
	err = cmd.Run()
	if errors.Is(err, syscall.EPERM) {
		return false, about, nil // root of a container that may not
	}
	return true, "", err
}

func readFile(name string) string {
	b, _ := os.ReadFile(name) // "" says that there is none
	return strings.TrimSpace(string(b))
}

// addAddress gives the namespace an address beside 127.0.0.1: with that alone the C
// library takes a machine for one without IPv4 (AI_ADDRCONFIG), and NFS-Ganesha finds
// no address that it could listen on.
func addAddress(sock int) error {
	alias, err := unix.NewIfreq("lo:1")
	if err != nil {
		return err
	}
	if err := alias.SetInet4Addr(onlyAddress[:]); err != nil {
		return err
	}
	return unix.IoctlIfreq(sock, unix.SIOCSIFADDR, alias)
}

// onlyAddress is one that is nobody's (RFC 5737).
var onlyAddress = [4]byte{192, 0, 2, 1}

// setUpNetwork makes a new namespace usable.
func setUpNetwork() error {
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(sock)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(sock, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	if err := addAddress(sock); err != nil {
		return fmt.Errorf("an address: %w", err)
	}
	for _, name := range unpaced {
		if err = os.WriteFile(congestionFile, []byte(name), 0); err == nil {
			return nil
		}
	}
	return err
}
