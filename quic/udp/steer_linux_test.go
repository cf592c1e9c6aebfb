package udp

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// kernelFilter runs a classic BPF program in the kernel: attached as a socket
// filter, its result is the number of bytes that get through.
type kernelFilter struct{ in, out int }

func newKernelFilter(t testing.TB) *kernelFilter {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return &kernelFilter{fds[0], fds[1]}
}

func (k *kernelFilter) attach(t testing.TB, p []instruction) {
	t.Helper()
	f := make([]unix.SockFilter, len(p))
	for i, in := range p {
		f[i] = unix.SockFilter{Code: in.op, Jt: in.jt, Jf: in.jf, K: in.k}
	}
	err := unix.SetsockoptSockFprog(k.out, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]})
	if err != nil {
		t.Fatalf("the kernel refuses the program: %v", err)
	}
}

// run returns how much of pkt passed; all of it stands for any larger result.
func (k *kernelFilter) run(t testing.TB, pkt []byte) int {
	t.Helper()
	if err := unix.Send(k.in, pkt, 0); err != nil {
		if err == unix.EPERM { // result 0
			return 0
		}
		t.Fatal(err)
	}
	buf := make([]byte, 65536)
	n, _, err := unix.Recvfrom(k.out, buf, unix.MSG_DONTWAIT)
	if err == unix.EAGAIN {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// positionsFor puts every shard somewhere else than its number says; positions
// start at 1, because 0 and "nothing" look the same to a socket filter.
func positionsFor(shards int) []int {
	p := make([]int, shards)
	for i := range p {
		p[i] = shards - i
	}
	return p
}

// The program in the kernel and Steer are the same function.
func FuzzProgramIsSteer(f *testing.F) {
	l := Layout{}
	for shard := range 6 {
		id := newID(f, l, uint8(shard), 1)
		f.Add(short(id), uint8(4), uint8(0))
		f.Add(long(0xc0, id), uint8(4), uint8(0))
		f.Add(long(0xf0, id[:8]), uint8(5), uint8(0))
		f.Add(long(0xc0, newID(f, Layout{Len: 20}, uint8(shard), 0)), uint8(3), uint8(20))
	}
	f.Add(long(0x80, []byte{1, 2, 3, 4, 5, 6, 7}), uint8(9), uint8(8))
	f.Add(short(nil)[:14], uint8(1), uint8(8))
	f.Add(short(nil)[:13], uint8(1), uint8(8))
	f.Add(make([]byte, 300), uint8(255), uint8(0))
	k := newKernelFilter(f)
	f.Fuzz(func(t *testing.T, pkt []byte, shards, size uint8) {
		// Longer than any position, so that a position shows in the result.
		if shards == 0 || len(pkt) == 0 || len(pkt) > 1500 {
			return
		}
		l := Layout{Len: int(size)}
		positions := positionsFor(int(shards))
		k.attach(t, l.program(positions))
		want := len(pkt)
		if s, ok := l.Steer(pkt, int(shards)); ok {
			want = min(positions[s], len(pkt))
		}
		if got := k.run(t, pkt); got != want {
			t.Errorf("%x of %d shards, layout %+v: kernel says %d, Steer %d", pkt, shards, l, got, want)
		}
	})
}

// Every size of group and layout gives a program the kernel accepts, with all
// shards at their own places, all elsewhere, and some gone.
func TestProgramAccepted(t *testing.T) {
	k := newKernelFilter(t)
	for shards := 1; shards <= MaxShards; shards++ {
		for _, l := range []Layout{{}, {Len: 8}, {Len: 20}} {
			same, gone := make([]int, shards), make([]int, shards)
			for i := range same {
				same[i], gone[i] = i, -1
			}
			for _, p := range [][]int{same, gone, positionsFor(shards)} {
				k.attach(t, l.program(p))
			}
			id := newID(t, l, uint8(shards-1), 0)
			pkt := append(short(id), make([]byte, 300)...)
			if got := k.run(t, pkt); got != 1 {
				t.Fatalf("%d shards, layout %+v: last shard at %d, want 1", shards, l, got)
			}
		}
	}
}

func ExampleLayout_Steer() {
	id, _ := Layout{}.Append(nil, 2, 0, zeros{})
	packet := append(append([]byte{0x40}, id...), make([]byte, 20)...)
	fmt.Println(Layout{}.Steer(packet, 4))
	// Output: 2 true
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
