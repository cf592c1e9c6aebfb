//go:build unix

package perf

import "golang.org/x/sys/unix"

// CPUSeconds is the user and system time this process has used.
func CPUSeconds() float64 {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
}
