package quic

import "syscall"

// cpuSeconds is the processor time of this process.
func cpuSeconds() float64 {
	self, err := syscall.GetCurrentProcess()
	if err != nil {
		return 0
	}
	var u syscall.Rusage
	if syscall.GetProcessTimes(self, &u.CreationTime, &u.ExitTime, &u.KernelTime, &u.UserTime) != nil {
		return 0
	}
	seconds := func(t syscall.Filetime) float64 {
		return float64(uint64(t.HighDateTime)<<32|uint64(t.LowDateTime)) / 1e7
	}
	return seconds(u.KernelTime) + seconds(u.UserTime)
}
