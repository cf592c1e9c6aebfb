package interop

import (
	"flag"
	"os"
	"testing"
)

// TestMain runs many tests at once unless told otherwise: they wait for
// timeouts and slow links most of the time.
func TestMain(m *testing.M) {
	flag.Parse()
	told := false
	flag.Visit(func(f *flag.Flag) { told = told || f.Name == "test.parallel" })
	if !told {
		if err := flag.Set("test.parallel", "12"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
