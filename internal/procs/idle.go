package procs

import (
	"bytes"
	"os"
	"strconv"
)

// statFile has the times of all processors, on Linux.
const statFile = "/proc/stat"

// ticksPerSecond is the unit of /proc/stat on every platform that Go runs on.
const ticksPerSecond = 100

// maxStat bounds what is read: its first lines, of 1000 processors.
const maxStat = 1 << 17

// idleTime returns the seconds that all processors of the machine together were
// idle, waited for disks, or worked at low priority (proc_stat(5)). It does not
// know where there is no such file, and where this process may run on some of the
// processors only, n of them.
func idleTime(stat *os.File, n int) (seconds float64, ok bool) {
	if stat == nil {
		return 0, false
	}
	b := make([]byte, min(maxStat, 4096+n*256))
	k, _ := stat.ReadAt(b, 0) // io.EOF is the usual end
	return parseIdle(b[:k], n)
}

// parseIdle is idleTime of the file's text.
func parseIdle(text []byte, n int) (seconds float64, ok bool) {
	cpus := 0
	for line := range bytes.Lines(text) {
		name, rest, _ := bytes.Cut(line, []byte(" "))
		if !bytes.HasPrefix(name, []byte("cpu")) {
			break
		}
		if len(name) > len("cpu") {
			cpus++
			continue
		}
		fields := bytes.Fields(rest) // user nice system idle iowait ...
		if len(fields) < 5 {
			return 0, false
		}
		for _, i := range []int{1, 3, 4} {
			v, err := strconv.ParseUint(string(fields[i]), 10, 64)
			if err != nil {
				return 0, false
			}
			seconds += float64(v) / ticksPerSecond
		}
	}
	return seconds, cpus == n
}
