package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/pprof"
	"strconv"

	"github.com/quic-fsgw/quic-fsgw/gateway/supervise"
)

// profileEnv names the files of CPU profiles: each process of the program that
// has it in its environment writes PREFIX.PID.pprof from its start to its end.
// The packet process of serve can open no file: serve opens it, PREFIX.packets.N.pprof.
// The handshake helper of serve starts with an empty environment and writes none.
const profileEnv = "QUIC_FSGW_CPUPROFILE"

// profiled starts a CPU profile if the environment asks for one.
func profiled() (stop func() error, err error) {
	if fd, err := strconv.Atoi(os.Getenv(supervise.ProfileFD)); err == nil {
		return profileInto(os.NewFile(uintptr(fd), "CPU profile"))
	}
	prefix := os.Getenv(profileEnv)
	if prefix == "" {
		return func() error { return nil }, nil
	}
	f, err := createProfile(prefix + "." + strconv.Itoa(os.Getpid()) + ".pprof")
	if err != nil {
		return nil, err
	}
	return profileInto(f)
}

// packetProfiles opens files for the profiles of serve's packet processes; nil if
// the environment asks for none.
func packetProfiles() func() (*os.File, error) {
	prefix := os.Getenv(profileEnv)
	if prefix == "" {
		return nil
	}
	n := 0
	return func() (*os.File, error) {
		n++
		return createProfile(fmt.Sprintf("%s.packets.%d.pprof", prefix, n))
	}
}

func createProfile(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("CPU profile: %w", err)
	}
	return f, nil
}

// profileTo writes a CPU profile to a file until it is stopped.
func profileTo(name string) (stop func() error, err error) {
	f, err := createProfile(name)
	if err != nil {
		return nil, err
	}
	return profileInto(f)
}

func profileInto(f *os.File) (stop func() error, err error) {
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, fmt.Errorf("CPU profile: %w", errors.Join(err, f.Close()))
	}
	return func() error { pprof.StopCPUProfile(); return f.Close() }, nil
}
