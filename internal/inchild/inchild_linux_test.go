package inchild

import (
	"net"
	"os"
	"testing"
)

func TestRun(t *testing.T) {
	if !Run(t, Network()) {
		return
	}
	all, err := net.Interfaces()
	if err != nil || len(all) != 1 || all[0].Flags&net.FlagUp != 0 {
		t.Errorf("%v, %v: not a new network", all, err)
	}
	if os.Getuid() != 0 {
		t.Errorf("user %d here, want root", os.Getuid())
	}
}
