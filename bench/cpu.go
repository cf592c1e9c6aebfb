package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ticksPerSecond is the unit of /proc's CPU times: USER_HZ, 100 wherever Linux runs.
const ticksPerSecond = 100

// A procStat is what /proc says about a process.
type procStat struct {
	parent int
	cpu    float64 // seconds, user and system, children that have ended included
}

// parseStat reads /proc/PID/stat. The name in it may hold anything, so fields
// count from the last parenthesis.
func parseStat(s string) (p procStat, ok bool) {
	f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(f) < 15 {
		return p, false
	}
	var ticks int
	for _, field := range f[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.Atoi(field)
		if err != nil {
			return p, false
		}
		ticks += n
	}
	parent, err := strconv.Atoi(f[1])
	p.parent, p.cpu = parent, float64(ticks)/ticksPerSecond
	return p, err == nil
}

// treeCPU is the CPU time of a process and all below it, in seconds.
func treeCPU(pid int) float64 {
	total := 0.0
	for _, p := range descendants(pid) {
		total += p.cpu
	}
	return total
}

// descendants are a process and all below it, by number.
func descendants(pid int) map[int]procStat {
	all := make(map[int]procStat)
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		n, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if p, ok := parseStat(string(b)); ok && err == nil {
			all[n] = p
		}
	}
	tree := make(map[int]procStat)
	for n, p := range all {
		for at, depth := n, 0; depth < len(all); depth++ {
			if at == pid {
				tree[n] = p
				break
			}
			next, ok := all[at]
			if !ok {
				break
			}
			at = next.parent
		}
	}
	return tree
}
