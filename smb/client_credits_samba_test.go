//go:build linux

package smb_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// More requests at once than the server has granted credits for: they have to
// wait. smbd drops the session of a client that spends credits it has not got.
func TestClientCredits(t *testing.T) {
	server := sambatest.Start(t, sambatest.Options{})
	file := filepath.Join(server.Dir, "large")
	const size = 64 << 20
	if err := errors.Join(os.WriteFile(file, nil, 0o644), os.Truncate(file, size)); err != nil {
		t.Fatal(err)
	}
	for round := range 8 {
		share := mount(t, server)
		f, err := share.Open("large")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 32 {
			wg.Go(func() {
				b := make([]byte, 1<<20)
				if n, err := f.ReadAt(b, int64(i)<<20); n != len(b) || err != nil && err != io.EOF {
					t.Errorf("round %d, read %d: %d octets, %v", round, i, n, err)
				}
				if _, err := share.Stat("large"); err != nil {
					t.Errorf("round %d, stat %d: %v", round, i, err)
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			t.Fatalf("smbd:\n%s", server.Log())
		}
		f.Close()
	}
}
