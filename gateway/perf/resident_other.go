//go:build !linux

package perf

// Resident is the memory of this process that is in RAM; unknown on this system.
func Resident() int64 { return 0 }
