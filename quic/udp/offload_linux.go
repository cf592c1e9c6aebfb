package udp

import (
	"fmt"
	"net/netip"
	"sync"
)

// offloads keeps the result of each socket type's self-test: it is made once a
// process, by the first socket of the type.
var offloads [2]struct { // IPv4, IPv6
	once   sync.Once
	result *Offload
}

// testedOffload is what a socket of the type can be trusted with.
func testedOffload(v6 bool) *Offload {
	i, addr := 0, netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if v6 {
		i, addr = 1, netip.IPv6Loopback()
	}
	t := &offloads[i]
	t.once.Do(func() {
		t.result = judge(func(gro bool) (from, to PacketConn, remote netip.AddrPort, err error) { return loopbackPair(addr, gro) })
	})
	return t.result
}

// loopbackPair opens two sockets that are not tested themselves.
func loopbackPair(addr netip.Addr, gro bool) (from, to PacketConn, remote netip.AddrPort, err error) {
	cfg := Config{untested: true}
	if !gro {
		cfg.GRO = Off
	}
	r, err := ListenOne(netip.AddrPortFrom(addr, 0), cfg)
	if err != nil {
		return nil, nil, remote, err
	}
	s, err := ListenOne(netip.AddrPortFrom(addr, 0), cfg)
	if err != nil {
		r.Close()
		return nil, nil, remote, err
	}
	return s, r, r.local, nil
}

// trust applies a self-test's result: what is corrupted is switched off, with
// one line in the log for all sockets of the type, or is an error where the configuration insists.
func (s *Socket) trust(o *Offload, cfg Config) error {
	if o.GSO != nil && s.caps.MaxSegments > 1 {
		if cfg.GSO == On {
			return fmt.Errorf("gso is on, but %w (a faulty kernel; use gso: auto)", o.GSO)
		}
		s.caps.MaxSegments = 1
		s.gso.Store(false)
		s.stats.SelfTestFailures.Add(1)
		if cfg.Logger != nil {
			o.said.Do(func() {
				cfg.Logger.Warn("batches that are sent with GSO are corrupted: sending datagrams one by one (a faulty kernel; another version helps)",
					"socket", s.local, "err", o.GSO)
			})
		}
	}
	if o.GRO != nil && s.caps.GRO {
		if cfg.GRO == On {
			return fmt.Errorf("gro is on, but %w (a faulty kernel; use gro: auto)", o.GRO)
		}
		s.caps.GRO = false
		s.stats.SelfTestFailures.Add(1)
		if cfg.Logger != nil {
			o.said.Do(func() {
				cfg.Logger.Warn("batches that are received with GRO are corrupted: receiving datagrams one by one (a faulty kernel; another version helps)",
					"socket", s.local, "err", o.GRO)
			})
		}
	}
	return nil
}
