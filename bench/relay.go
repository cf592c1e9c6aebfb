package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// relayPayload is the datagram size of both pairs, bytes.
const relayPayload = 1400

// relayed is one transfer through a pair.
type relayed struct {
	mibps           float64
	gateway, client float64 // CPU seconds per GiB of each end, all its processes
}

var (
	smbclientRate = regexp.MustCompile(`\(([0-9.]+) (?:KiloBytes/sec|kB/s|kb/s)\) \(average`)
	tortureRate   = regexp.MustCompile(`(\w+)\[num/s=([0-9,]+)`)
)

// transfer moves the share's file one way through a pair, with smbclient.
func (s *site) transfer(p *pair, up bool, size int64) (m relayed, err error) {
	command := "get " + shareName + " /dev/null"
	if up {
		command = "put /mnt/" + upName + " " + upName
	}
	var gateway, client float64
	if p.gateway != nil {
		gateway, client = p.gateway.cpu(), p.client.cpu()
	}
	out, err := s.share.client(p.port, command)
	if err != nil {
		return m, err
	}
	match := smbclientRate.FindStringSubmatch(out)
	if match == nil {
		return m, fmt.Errorf("%w: %s", errNoRate, lastLines(out))
	}
	rate, err := strconv.ParseFloat(match[1], 64)
	m.mibps = rate / 1024
	if p.gateway != nil {
		gibs := float64(size) / gib
		m.gateway, m.client = (p.gateway.cpu()-gateway)/gibs, (p.client.cpu()-client)/gibs
	}
	return m, err
}

// relay is the way of a file through both ends.
func (r *runner) relay(ctx context.Context, rep *report) error {
	size := int64(pick(r.quick, 256*mib, gib))
	s, err := r.startSite(ctx, size, r.profile)
	if err != nil {
		return err
	}
	defer s.close()
	rep.section("Relay: smbclient over TCP, `connect`, QUIC, `serve`, smbd", fmt.Sprintf(
		"%d MiB down and up, datagrams of %d bytes. CPU is that of all processes of an end, helpers included. The pair on quic-go is a plain TCP "+
			"forwarder at each end (`bench/forward_quicgo.go`) that looks at nothing. All processes, smbd and smbclient too, share the machine's cores: "+
			"goodput is bounded by all of them together.", size/mib, relayPayload))
	t := rep.table("", "", "MiB/s", "gateway CPU-s/GiB", "`connect` CPU-s/GiB")
	for _, up := range []bool{false, true} {
		way := "down"
		if up {
			way = "up"
		}
		all := make(map[string][]relayed)
		for range pick(r.quick, 3, 5) {
			for _, p := range s.pairs {
				m, err := s.transfer(p, up, size)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", p.name, way, err)
				}
				all[p.name] = append(all[p.name], m)
			}
		}
		for _, p := range s.pairs {
			m := all[p.name]
			t.row(p.name, way, spread("%.0f", m, relayed.speed), spread("%.3f", m, relayed.gatewayCPU), spread("%.3f", m, relayed.clientCPU))
		}
		relayTargets(rep, way, all)
	}
	return nil
}

func (m relayed) speed() float64      { return m.mibps }
func (m relayed) gatewayCPU() float64 { return m.gateway }
func (m relayed) clientCPU() float64  { return m.client }

func relayTargets(rep *report, way string, all map[string][]relayed) {
	our, their := all[ours], all["quic-go"]
	for _, end := range []struct {
		name string
		cpu  func(relayed) float64
	}{{"gateway", relayed.gatewayCPU}, {"`connect`", relayed.clientCPU}} {
		cpu := middle(our, end.cpu)
		x := ratio(cpu, middle(their, end.cpu))
		rep.target("relay "+way+", "+end.name+" CPU", "<= 0.75 s/GiB", f3(cpu), cpu > 0 && cpu <= 0.75)
		rep.target("relay "+way+", "+end.name+" CPU / quic-go's", "<= 0.33", f2(x), x > 0 && x <= 1.0/3)
	}
	rep.compare("smbclient "+way+" through both ends of a relay, MiB/s", f0(middle(our, relayed.speed)), f0(middle(their, relayed.speed)), "")
	rep.compare("its CPU seconds a GiB, gateway / `connect`", f2(middle(our, relayed.gatewayCPU))+" / "+f2(middle(our, relayed.clientCPU)),
		f2(middle(their, relayed.gatewayCPU))+" / "+f2(middle(their, relayed.clientCPU)), "")
	x := ratio(middle(our, relayed.speed), middle(their, relayed.speed))
	rep.target("relay "+way+", goodput / quic-go's", ">= 2", f2(x), x >= 2)
}

// A smallOp is one of smbtorture's benchmarks.
type smallOp struct {
	name    string // to the reader
	test    string // to smbtorture
	counted string // what of its line counts
	options []string
}

var smallOps = []smallOp{
	{"echo", "smb2.bench.echo", "echo", nil},
	{"read 4 KiB", "smb2.bench.read", "read", []string{"io_size=4096"}},
	{"open and close", "smb2.bench.path-contention-shared", "open", nil},
}

// smallRate is the rate of a benchmark: that of its last second.
func smallRate(text, counted string) (float64, error) {
	rate := 0.0
	for _, m := range tortureRate.FindAllStringSubmatch(text, -1) {
		if m[1] == counted {
			v, err := strconv.ParseFloat(strings.ReplaceAll(m[2], ",", ""), 64)
			if err != nil {
				return 0, err
			}
			rate = v
		}
	}
	if rate == 0 {
		return 0, fmt.Errorf("%w: %s", errNoRate, lastLines(text))
	}
	return rate, nil
}

// smallops is smbtorture's view of the same ways.
func (r *runner) smallops(ctx context.Context, rep *report) error {
	s, err := r.startSite(ctx, 0, r.profile)
	if err != nil {
		return err
	}
	defer s.close()
	rep.section("Small operations through the same pairs", "smbtorture over TCP, operations a second, one in flight on each connection.")
	t := rep.table("", "connections", ours, "quic-go", direct, ours+" / quic-go")
	for _, op := range smallOps {
		for _, conns := range []int{1, 4} {
			all := make(map[string][]float64)
			options := append([]string{"timelimit=2", "qdepth=1", fmt.Sprintf("nprocs=%d", conns)}, op.options...)
			for range pick(r.quick, 1, 5) {
				for _, p := range s.pairs {
					text, err := s.share.torture(p.port, op.test, options...)
					if err != nil {
						return fmt.Errorf("%s: %w", p.name, err)
					}
					rate, err := smallRate(text, op.counted)
					if err != nil {
						return fmt.Errorf("%s, %s: %w", p.name, op.name, err)
					}
					all[p.name] = append(all[p.name], rate)
				}
			}
			same := func(v float64) float64 { return v }
			x := ratio(middle(all[ours], same), middle(all["quic-go"], same))
			t.row(op.name, strconv.Itoa(conns), spread("%.0f", all[ours], same), spread("%.0f", all["quic-go"], same), spread("%.0f", all[direct], same), f2(x))
			if conns == 1 {
				rep.compare("SMB "+op.name+" through it, a second", f0(middle(all[ours], same)), f0(middle(all["quic-go"], same)), "")
			}
			rep.target(fmt.Sprintf("%s through the relay, %d connections, rate / quic-go's", op.name, conns), ">= 1.5", f2(x), x >= 1.5)
		}
	}
	return nil
}

// middle is the median of what f takes from each of m.
func middle[T any](m []T, f func(T) float64) float64 {
	v := values(m, f)
	switch n := len(v); {
	case n == 0:
		return 0
	case n%2 == 0:
		return (v[n/2-1] + v[n/2]) / 2
	default:
		return v[n/2]
	}
}

func values[T any](m []T, f func(T) float64) []float64 {
	var v []float64
	for _, x := range m {
		v = append(v, f(x))
	}
	slices.Sort(v)
	return v
}

// spread is the median with the least and the most: "5.1 (4.9..5.3)".
func spread[T any](format string, m []T, f func(T) float64) string {
	v := values(m, f)
	if len(v) == 0 || v[len(v)-1] == 0 {
		return ""
	}
	if len(v) == 1 {
		return fmt.Sprintf(format, v[0])
	}
	return fmt.Sprintf(format+" ("+format+".."+format+")", middle(m, f), v[0], v[len(v)-1])
}

func lastLines(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], " | ")
}
