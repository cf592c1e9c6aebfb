package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/pprof"
	"strconv"
)

// profileEnv names the files of CPU profiles: each process of the program that
// has it in its environment writes PREFIX.PID.pprof from its start to its end.
// The handshake helper of serve starts with an empty environment and writes none.
const profileEnv = "QUIC_FSGW_CPUPROFILE"

// profiled starts a CPU profile if the environment asks for one. The file is
// opened before a process gives up the right to open any.
func profiled() (stop func() error, err error) {
	prefix := os.Getenv(profileEnv)
	if prefix == "" {
		return func() error { return nil }, nil
	}
	return profileTo(prefix + "." + strconv.Itoa(os.Getpid()) + ".pprof")
}

// profileTo writes a CPU profile to a file until it is stopped.
func profileTo(name string) (stop func() error, err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("CPU profile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, fmt.Errorf("CPU profile: %w", errors.Join(err, f.Close()))
	}
	return func() error { pprof.StopCPUProfile(); return f.Close() }, nil
}
