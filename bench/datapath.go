package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A hop is a part of the data path: what the innermost of its functions on a
// stack, with all it calls, takes.
type hop struct {
	name  string
	funcs []string // parts of function names
	share float64  // of all samples, in per cent
}

func senderHops() []hop {
	return []hop{
		{name: "source: read into a chunk", funcs: []string{"perf.(*source).Read", "perf.(*request).Read"}},
		{name: "AEAD: seal from chunk to batch", funcs: []string{"protect.(*Key).Seal"}},
		{name: "header protection", funcs: []string{"protect.(*Key).ProtectHeader"}},
		{name: "sendmsg with UDP_SEGMENT", funcs: []string{"udp.(*Socket).Send"}},
		{name: "packet building, sent packets", funcs: []string{"quic.(*Conn).flush"}},
		{name: "receive acknowledgements", funcs: []string{"udp.(*Socket).Recv", "quic.(*Endpoint).dispatch"}},
		{name: "scheduler, memory, the rest"},
	}
}

func receiverHops() []hop {
	return []hop{
		{name: "recvmsg with UDP_GRO", funcs: []string{"udp.(*receiver).receive", "udp.(*Socket).Recv"}},
		{name: "header protection", funcs: []string{"protect.(*Key).UnprotectHeader"}},
		{name: "AEAD: open in place", funcs: []string{"protect.(*Key).Open"}},
		{name: "send acknowledgements", funcs: []string{"quic.(*Conn).flush"}},
		{name: "frames, order, packet numbers", funcs: []string{"quic.(*Conn).processBatch", "quic.(*Endpoint).dispatch"}},
		{name: "views to the application, credit", funcs: []string{"quic.(*Stream).WriteTo"}},
		{name: "scheduler, memory, the rest"},
	}
}

// datapath profiles both ends of a transfer and draws the picture.
func (r *runner) datapath(ctx context.Context, rep *report) error {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	prefix := filepath.Join(dir, "cpu")
	if _, err := r.once(ctx, ours, &work{upload: pick(r.quick, uint64(gib), 8*gib), payload: 1400, profile: prefix}); err != nil {
		return err
	}
	tx, rx := senderHops(), receiverHops()
	for end, hops := range map[string][]hop{"client": tx, "server": rx} {
		traces, err := exec.CommandContext(ctx, "go", "tool", "pprof", "-traces", "-unit=ms", prefix+"."+end).Output()
		if err != nil {
			return fmt.Errorf("go tool pprof: %w", err)
		}
		attribute(hops, string(traces))
	}
	rep.section("Where the time goes", "One stream, datagrams of 1400 bytes, per cent of each process's CPU time; system calls count for the hop that makes them.\n\n![data path](datapath.svg)")
	t := rep.table("sender", "%", "receiver", "%")
	for i := range max(len(tx), len(rx)) {
		t.row(tx[i].name, f1(tx[i].share), rx[i].name, f1(rx[i].share))
	}
	if r.docs == "" {
		return nil
	}
	return os.WriteFile(filepath.Join(r.docs, "datapath.svg"), []byte(drawPath(tx, rx)), 0o644)
}

// attribute reads the stacks that pprof prints, innermost function first, and
// gives each to the hop of the first function that has one.
func attribute(hops []hop, traces string) {
	var total float64
	var value float64
	var stack []string
	done := func() {
		if len(stack) > 0 {
			total += value
			hops[hopOf(hops, stack)].share += value
		}
		stack = nil
	}
	sc := bufio.NewScanner(strings.NewReader(traces))
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if strings.HasPrefix(line, "-----------+") {
			done()
			continue
		}
		if first, fn, ok := strings.Cut(line, "  "); ok && strings.HasSuffix(first, "ms") {
			v, err := strconv.ParseFloat(strings.TrimSuffix(first, "ms"), 64)
			if err != nil {
				continue
			}
			value, stack = v, []string{strings.TrimSpace(fn)}
		} else if len(stack) > 0 && line != "" {
			stack = append(stack, line)
		}
	}
	done()
	for i := range hops {
		if total > 0 {
			hops[i].share *= 100 / total
		}
	}
}

func hopOf(hops []hop, stack []string) int {
	for _, fn := range stack {
		for i, h := range hops {
			if slices.ContainsFunc(h.funcs, func(part string) bool { return strings.Contains(fn, part) }) {
				return i
			}
		}
	}
	return len(hops) - 1
}

// drawPath draws both ends, a box for each hop, as wide as its share.
func drawPath(tx, rx []hop) string {
	var b strings.Builder
	const width, row, left, scale = 860, 34, 290, 8.5
	height := 90 + row*(len(tx)+len(rx)) + 70
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="14">`+"\n", width, height, width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
	y := 34
	column := func(title, color string, hops []hop) {
		fmt.Fprintf(&b, `<text x="16" y="%d" font-weight="bold">%s</text>`+"\n", y, title)
		y += 12
		for i, h := range hops {
			fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, left-12, y+20, h.name)
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="24" fill="%s"/>`, left, y+3, max(1, h.share*scale), color)
			fmt.Fprintf(&b, `<text x="%.1f" y="%d">%.1f %%</text>`+"\n", float64(left)+h.share*scale+8, y+20, h.share)
			if i < len(hops)-2 {
				fmt.Fprintf(&b, `<path d="M20 %d v%d m-4 -6 l4 6 l4 -6" stroke="#555" fill="none"/>`+"\n", y+14, row-4)
			}
			y += row
		}
		y += 40
	}
	column("sender: payload goes from the source to the socket, through the cipher only", "#4c78a8", tx)
	column("receiver: payload stays where it was received until it is written", "#e0803c", rx)
	b.WriteString("</svg>\n")
	return b.String()
}
