package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Two ends at a distance: two network namespaces, each with a TUN device, and
// goroutines that carry IP packets from one to the other. So every transport,
// TCP of the kernel too, meets the same delays, the same bottleneck and the same
// losses. The flow of a packet:
//
//  1. An end in one namespace sends it; the kernel cuts batches into packets, as
//     for any interface without offloads.
//  2. carry reads it from that namespace's device, and oneWay.take decides.
//  3. deliver writes it to the other device when its time has come.

const (
	tunMTU = 1500
	// inTransit bounds the packets under way in one direction; the queue of the
	// bottleneck is decided in oneWay.take.
	inTransit = 64 << 10
)

// Addresses of the two ends.
var (
	nearAddr = netip.MustParseAddr("10.71.0.1")
	farAddr  = netip.MustParseAddr("10.71.0.2")
)

// A place is a network namespace: a thread that lives in it.
type place struct {
	calls chan func()
	tun   *os.File
}

// apart is two places and what lies between.
type apart struct {
	near, far *place
	carriers  sync.WaitGroup
}

// setApart makes two namespaces at a distance.
func setApart(d distance) (*apart, error) {
	near, err := newPlace(nearAddr)
	if err != nil {
		return nil, err
	}
	far, err := newPlace(farAddr)
	if err != nil {
		near.close()
		return nil, err
	}
	a := &apart{near: near, far: far}
	a.carriers.Go(func() { carry(near.tun, far.tun, d.oneWay(1)) })
	a.carriers.Go(func() { carry(far.tun, near.tun, d.oneWay(2)) })
	return a, nil
}

func (a *apart) close() {
	a.near.close()
	a.far.close()
	a.carriers.Wait()
}

func newPlace(addr netip.Addr) (*place, error) {
	s := &place{calls: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine, and the namespace with it
		err := s.init(addr)
		made <- err
		if err != nil {
			return
		}
		for f := range s.calls {
			f()
		}
	}()
	if err := <-made; err != nil {
		return nil, fmt.Errorf("a network namespace with a TUN device: %w (it takes root, and /dev/net/tun)", err)
	}
	return s, nil
}

func (s *place) init(addr netip.Addr) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := configure(fd, addr); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	s.tun = os.NewFile(uintptr(fd), "tun")
	return nil
}

// configure makes fd a device with an address, and brings it up.
func configure(fd int, addr netip.Addr) error {
	const name = "wan0"
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return err
	}
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(sock)
	for _, step := range []struct {
		request uint
		set     func(*unix.Ifreq) error
	}{
		{unix.SIOCSIFADDR, func(i *unix.Ifreq) error { return i.SetInet4Addr(addr.AsSlice()) }},
		{unix.SIOCSIFNETMASK, func(i *unix.Ifreq) error { return i.SetInet4Addr([]byte{255, 255, 255, 0}) }},
		{unix.SIOCSIFMTU, func(i *unix.Ifreq) error { i.SetUint32(tunMTU); return nil }},
		{unix.SIOCSIFTXQLEN, func(i *unix.Ifreq) error { i.SetUint32(10000); return nil }}, // the bottleneck is ours
		{unix.SIOCSIFFLAGS, func(i *unix.Ifreq) error { i.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }},
	} {
		ifr, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := errors.Join(step.set(ifr), unix.IoctlIfreq(sock, step.request, ifr)); err != nil {
			return fmt.Errorf("request %#x of %s: %w", step.request, name, err)
		}
	}
	return nil
}

// start starts a program that lives there.
func (s *place) start(cmd *exec.Cmd) error {
	done := make(chan error)
	s.calls <- func() { done <- cmd.Start() }
	return <-done
}

func (s *place) close() {
	_ = s.tun.Close()
	close(s.calls)
}

// carry takes packets from one device to another until the first is closed.
func carry(from, to *os.File, h *oneWay) {
	type delayed struct {
		due time.Time
		b   []byte
	}
	under := make(chan delayed, inTransit)
	free := sync.Pool{New: func() any { return new([tunMTU]byte) }}
	go func() {
		defer close(under)
		for {
			b := free.Get().(*[tunMTU]byte)
			n, err := from.Read(b[:])
			if err != nil {
				return
			}
			due, ok := h.take(time.Now(), n)
			if !ok {
				free.Put(b)
				continue
			}
			under <- delayed{due, b[:n]}
		}
	}()
	for p := range under {
		if wait := time.Until(p.due); wait > 0 {
			time.Sleep(wait)
		}
		_, _ = to.Write(p.b) // an end that has closed its device hears no more
		free.Put((*[tunMTU]byte)(p.b[:tunMTU]))
	}
}

// useCongestion makes a TCP socket use a congestion control of the kernel's; it
// is for net.Dialer.Control and net.ListenConfig.Control.
func useCongestion(name string) func(network, address string, c syscall.RawConn) error {
	if name == "" {
		return nil
	}
	return func(_, _ string, c syscall.RawConn) (err error) {
		failed := c.Control(func(fd uintptr) {
			err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, name)
		})
		return errors.Join(failed, err)
	}
}
