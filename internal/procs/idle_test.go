package procs

import (
	"os"
	"runtime"
	"testing"
)

func TestParseIdle(t *testing.T) {
	const text = "cpu  100 200 300 4000 500 6 7 8 9 10\ncpu0 1 1 1 1 1\ncpu1 1 1 1 1 1\nintr 5\n"
	if s, ok := parseIdle([]byte(text), 2); !ok || s != 47 {
		t.Errorf("%v seconds, %v", s, ok)
	}
	for bad, n := range map[string]int{text: 1, "": 1, "cpu  1 2\n": 0, "cpu  a b c d e\n": 0, "cpu  1 1 1 1 1": 3} {
		if _, ok := parseIdle([]byte(bad), n); ok {
			t.Errorf("%q with %d processors is known", bad, n)
		}
	}
}

func FuzzParseIdle(f *testing.F) {
	f.Add([]byte("cpu  100 200 300 4000 500 6 7 8 9 10\ncpu0 1 1 1 1 1\nintr 5\n"), 1)
	f.Fuzz(func(t *testing.T, text []byte, n int) {
		if s, _ := parseIdle(text, n); s < 0 {
			t.Errorf("%v seconds", s)
		}
	})
}

// The file of this machine is understood, if there is one and all processors are ours.
func TestIdleTime(t *testing.T) {
	stat, err := os.Open(statFile)
	if err != nil {
		if runtime.GOOS == "linux" {
			t.Fatal(err)
		}
		return
	}
	defer stat.Close()
	before, ok := idleTime(stat, runtime.NumCPU())
	if !ok {
		t.Logf("%s has another number of processors than this process: %d", statFile, runtime.NumCPU())
	}
	if now, _ := idleTime(stat, runtime.NumCPU()); now < before {
		t.Errorf("%v seconds, then %v", before, now)
	}
	if _, ok := idleTime(nil, 1); ok {
		t.Error("known without a file")
	}
}
