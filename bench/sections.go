package main

import (
	"context"
	"fmt"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

// pick chooses by how long a run may take.
func pick[T any](quick bool, short, long T) T {
	if quick {
		return short
	}
	return long
}

func (r *runner) throughput(ctx context.Context, rep *report) error {
	size := pick(r.quick, uint64(512*mib), uint64(2*gib))
	filled, alone := ours+" --fill", "quic-go GOMAXPROCS=1"
	order := []string{"floor", ours, filled, "quic-go", alone, "xnet", "tls"}
	works := make(map[string]*work)
	for _, p := range order {
		works[p] = &work{upload: size, payload: 1400}
	}
	works[filled].fill = true
	works["quic-go"].upload = size / 2
	works[alone] = &work{upload: size / 2, payload: 1400, procs: 1}
	works["xnet"] = &work{upload: size / 16, payload: 1400}
	all, err := r.rounds(ctx, pick(r.quick, 3, 7), works, order)
	if err != nil {
		return err
	}
	rep.section("One connection, one stream, datagrams of 1400 bytes",
		"Medians. CPU is user and system time of each process in seconds for a GiB of payload. The floor seals, masks and sends, or "+
			"receives, unmasks and opens, and does nothing else. None of them makes the bytes that it sends (peers write one buffer again and again) but "+
			"`--fill`, which writes each byte into its chunk first, as reading a file would. quic-fsgw chooses its number of processors by the load, as `serve` "+
			"does; quic-go was measured with what it has by itself, and with one. x/net/quic always sends datagrams of 1200 bytes; TLS over TCP has records of 16 KiB.")
	t := rep.table("", "Gbit/s", "sender CPU-s/GiB", "receiver CPU-s/GiB", "sender / floor", "receiver / floor", "lost", "copies a byte, sent / received", "allocations a packet, sender / receiver")
	floor := all["floor"]
	send := func(p string) float64 { return median(all[p], measured.sender) }
	recv := func(p string) float64 { return median(all[p], measured.receiver) }
	for _, p := range order {
		if len(all[p]) == 0 {
			continue
		}
		copies, allocs, lost := "", "", ""
		if p == ours || p == filled {
			copies = fmt.Sprintf("%.3f / %.3f", median(all[p], func(m measured) float64 { return m.client.UserCopies }), median(all[p], func(m measured) float64 { return m.server.UserCopies }))
			allocs = fmt.Sprintf("%.3f / %.3f", median(all[p], func(m measured) float64 { return m.client.Allocs }), median(all[p], func(m measured) float64 { return m.server.Allocs }))
			lost = fmt.Sprintf("%.2f %%", 100*median(all[p], func(m measured) float64 { return float64(m.client.PacketsLost) / float64(max(m.client.PacketsSent, 1)) }))
		}
		t.row(p, spread("%.2f", all[p], func(m measured) float64 { return m.server.Gbps }), spread("%.3f", all[p], measured.sender), spread("%.3f", all[p], measured.receiver),
			f2(ratio(send(p), send("floor"))), f2(ratio(recv(p), recv("floor"))), lost, copies, allocs)
	}
	gbps := func(p string) string { return f1(median(all[p], func(m measured) float64 { return m.server.Gbps })) }
	rep.compare("one stream, Gbit/s", gbps(ours), gbps("quic-go"), gbps("tls"))
	rep.compare("sender, CPU seconds a GiB", f2(send(ours)), f2(send("quic-go")), f2(send("tls")))
	rep.compare("receiver, CPU seconds a GiB", f2(recv(ours)), f2(recv("quic-go")), f2(recv("tls")))
	if len(all[ours]) == 0 || len(floor) == 0 {
		return nil
	}
	rep.target("sender CPU", "<= 0.50 s/GiB", f3(send(ours)), send(ours) <= 0.50)
	rep.target("sender CPU / floor", "<= 1.5", f2(ratio(send(ours), send("floor"))), send(ours) <= 1.5*send("floor"))
	rep.target("receiver CPU", "<= 0.50 s/GiB", f3(recv(ours)), recv(ours) <= 0.50)
	rep.target("receiver CPU / floor", "<= 1.5", f2(ratio(recv(ours), recv("floor"))), recv(ours) <= 1.5*recv("floor"))
	if len(all["quic-go"]) > 0 {
		a, b := ratio(send("quic-go"), send(ours)), ratio(recv("quic-go"), recv(ours))
		rep.target("quic-go's sender CPU / ours", ">= 3.5", f2(a), a >= 3.5)
		rep.target("quic-go's receiver CPU / ours", ">= 3.5", f2(b), b >= 3.5)
		speed := func(p string) float64 { return median(all[p], func(m measured) float64 { return m.client.Gbps }) }
		g := ratio(speed(ours), speed("quic-go"))
		rep.target("our goodput / quic-go's", ">= 3", f2(g), g >= 3)
	}
	return nil
}

func (r *runner) parallel(ctx context.Context, rep *report) error {
	size := pick(r.quick, uint64(512*mib), uint64(2*gib))
	order := []string{ours + " 1 stream", ours + " 8 streams", ours + " 64 streams", ours + " 8 connections"}
	works := map[string]*work{
		order[0]: {upload: size, payload: 1400}, order[1]: {upload: size, payload: 1400, streams: 8},
		order[2]: {upload: size, payload: 1400, streams: 64}, order[3]: {upload: size, payload: 1400, connections: 8},
	}
	all, err := r.rounds(ctx, pick(r.quick, 1, 5), works, order)
	if err != nil {
		return err
	}
	rep.section("Streams and connections in parallel", "The same bytes over more streams or connections.")
	t := rep.table("", "Gbit/s", "sender CPU-s/GiB", "receiver CPU-s/GiB", "both / one stream")
	both := func(p string) float64 { return median(all[p], measured.sender) + median(all[p], measured.receiver) }
	for _, p := range order {
		t.row(p, spread("%.2f", all[p], func(m measured) float64 { return m.client.Gbps }), spread("%.3f", all[p], measured.sender),
			spread("%.3f", all[p], measured.receiver), f2(ratio(both(p), both(order[0]))))
	}
	for i, limit := range []float64{0, 1.10, 1.10, 1.25} {
		if x := ratio(both(order[i]), both(order[0])); i > 0 {
			rep.target(order[i]+", CPU / one stream", fmt.Sprintf("<= %.2f", limit), f2(x), x > 0 && x <= limit)
		}
	}
	return nil
}

func (r *runner) latency(ctx context.Context, rep *report) error {
	order := []string{ours, "tls", "quic-go"}
	works := make(map[string]*work)
	for _, p := range order {
		works[p] = &work{requests: pick(r.quick, 15000, 30000)}
	}
	all, err := r.rounds(ctx, pick(r.quick, 3, 7), works, order)
	if err != nil {
		return err
	}
	rep.section("Request and response, 512 bytes up and 4096 down, one in flight",
		"QUIC opens a stream for each, TLS uses one connection for all.")
	t := rep.table("", "p50 us", "p99 us", "a second")
	p50 := func(p string) float64 { return median(all[p], func(m measured) float64 { return m.client.P50us }) }
	p99 := func(p string) float64 { return median(all[p], func(m measured) float64 { return m.client.P99us }) }
	for _, p := range order {
		t.row(p, spread("%.1f", all[p], func(m measured) float64 { return m.client.P50us }), spread("%.1f", all[p], func(m measured) float64 { return m.client.P99us }),
			spread("%.0f", all[p], func(m measured) float64 { return m.client.PerSec }))
	}
	us := func(p string) string {
		if len(all[p]) == 0 {
			return ""
		}
		return f0(p50(p)) + " / " + f0(p99(p))
	}
	rep.compare("512 bytes up, 4 KiB down: p50 / p99, us", us(ours), us("quic-go"), us("tls"))
	a, b := ratio(p50(ours), p50("tls")), ratio(p99(ours), p99("tls"))
	rep.target("p50 / TLS over TCP", "<= 1.1", f2(a), a > 0 && a <= 1.1)
	rep.target("p99 / TLS over TCP", "<= 2", f2(b), b > 0 && b <= 2)
	return nil
}

func (r *runner) handshakes(ctx context.Context, rep *report) error {
	order := []string{ours, "quic-go", "tls"}
	works := make(map[string]*work)
	for _, p := range order {
		works[p] = &work{handshakes: pick(r.quick, 500, 2000)}
	}
	all, err := r.rounds(ctx, pick(r.quick, 1, 3), works, order)
	if err != nil {
		return err
	}
	rep.section("Full handshakes", "One after the other, ECDSA P-256, ML-KEM hybrid key exchange, no resumption; TLS runs in the process of each end.")
	t := rep.table("", "a CPU second of the server", "a CPU second of the client", "a CPU second of both")
	per := func(p string, f func(m measured) float64) float64 {
		return median(all[p], func(m measured) float64 { return ratio(float64(m.client.Handshakes), f(m)) })
	}
	srv := func(m measured) float64 { return m.server.CPUSeconds }
	cl := func(m measured) float64 { return m.client.CPUSeconds }
	both := func(m measured) float64 { return m.client.CPUSeconds + m.server.CPUSeconds }
	for _, p := range order {
		t.row(p, f0(per(p, srv)), f0(per(p, cl)), f0(per(p, both)))
	}
	rep.compare("full handshakes a CPU second of both ends", f0(per(ours, both)), f0(per("quic-go", both)), f0(per("tls", both)))
	x := ratio(per(ours, both), per("quic-go", both))
	rep.target("handshakes a CPU second / quic-go", ">= 1", f2(x), x >= 1)
	return nil
}

func (r *runner) sizes(ctx context.Context, rep *report) error {
	rep.section("By size of the datagram", "Loopback carries up to 64 KiB. Larger datagrams need fewer seals and system calls for the same bytes.")
	t := rep.table("bytes", "GSO", "Gbit/s", "sender CPU-s/GiB", "receiver CPU-s/GiB", "datagrams a send")
	for _, c := range []struct {
		size int
		gso  string
	}{{1200, "auto"}, {1400, "off"}, {1400, "auto"}, {1452, "auto"}, {8952, "auto"}, {16000, "auto"}, {65000, "auto"}} {
		w := &work{upload: pick(r.quick, uint64(256*mib), gib), payload: c.size, gso: c.gso}
		if c.gso == "off" {
			w.upload /= 4
		}
		all, err := r.rounds(ctx, pick(r.quick, 1, 3), map[string]*work{ours: w}, []string{ours})
		if err != nil {
			return err
		}
		m := all[ours]
		t.row(fmt.Sprint(c.size), c.gso, f2(median(m, func(m measured) float64 { return m.client.Gbps })), f3(median(m, measured.sender)),
			f3(median(m, measured.receiver)), f1(median(m, func(m measured) float64 { return m.client.PerBatch })))
	}
	return nil
}
