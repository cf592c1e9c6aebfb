package udp

import (
	"fmt"
	"net"
	"strconv"
	"sync"
)

// zones remembers names and numbers of interfaces, so that link-local peers do
// not cost a netlink dump each packet. It is bounded; interfaces are few.
type zones struct {
	mu      sync.Mutex
	names   map[uint32]string
	indices map[string]uint32
}

const maxZones = 256

// name is the interface's name, or its number if it has none.
func (z *zones) name(index uint32) string {
	z.mu.Lock()
	defer z.mu.Unlock()
	if n, ok := z.names[index]; ok {
		return n
	}
	n := strconv.FormatUint(uint64(index), 10)
	if i, err := net.InterfaceByIndex(int(index)); err == nil {
		n = i.Name
	}
	if z.names == nil || len(z.names) >= maxZones {
		z.names = make(map[uint32]string)
	}
	z.names[index] = n
	return n
}

// index is the number of the interface called name, which may be a number.
func (z *zones) index(name string) (uint32, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if i, ok := z.indices[name]; ok {
		return i, nil
	}
	var index uint32
	if i, err := net.InterfaceByName(name); err == nil {
		index = uint32(i.Index)
	} else if n, nerr := strconv.ParseUint(name, 10, 31); nerr == nil {
		index = uint32(n)
	} else {
		return 0, fmt.Errorf("zone %q: %w", name, err)
	}
	if z.indices == nil || len(z.indices) >= maxZones {
		z.indices = make(map[string]uint32)
	}
	z.indices[name] = index
	return index, nil
}
