package perf

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// Resident is the memory of this process that is in RAM, in bytes, after what
// the heap does not use was given back. 0 if the system does not tell.
func Resident() int64 {
	debug.FreeOSMemory()
	return residentOf("/proc/self/statm")
}

func residentOf(statm string) int64 {
	b, err := os.ReadFile(statm)
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
