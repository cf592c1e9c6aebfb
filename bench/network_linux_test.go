package main

import (
	"net"
	"os"
	"slices"
	"strings"
	"testing"
)

// The second process has a network with nothing in it but its own loopback
// interface, which works, and a congestion control of TCP that does not pace.
func TestOwnNetwork(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := os.Args
	os.Args = []string{self, "-test.run=^TestOwnNetwork$"}
	defer func() { os.Args = args }()
	ran, about, err := inOwnNetwork(t.Context(), self)
	if err != nil {
		t.Fatal(err)
	}
	if ran {
		return // the same test has passed in there
	}
	if os.Getenv(ownNetworkEnv) == "" {
		if os.Geteuid() == 0 && !strings.Contains(about, "machine's own network") {
			t.Errorf("neither here nor there: %q", about)
		}
		return
	}
	ifs, err := net.Interfaces()
	if err != nil || len(ifs) != 1 || ifs[0].Flags&net.FlagUp == 0 {
		t.Fatalf("interfaces %v, %v", ifs, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if got := readFile(congestionFile); !slices.Contains(unpaced, got) || !strings.Contains(about, got) {
		t.Errorf("congestion control %q, %q", got, about)
	}
}
