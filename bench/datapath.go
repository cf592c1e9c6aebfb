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
	note  string   // what happens to the payload there; "": it does not pass here
	funcs []string // parts of function names
	share float64  // of all samples, in per cent
}

func senderHops() []hop {
	return []hop{
		{name: "source: read into a chunk", note: "kernel (or source) to a pooled 64 KiB chunk", funcs: []string{"perf.(*source).Read", "perf.(*request).Read"}},
		{name: "AEAD: seal from chunk to batch", note: "the one pass over the payload in user space", funcs: []string{"aes/gcm.", "protect.(*Key).Seal"}},
		{name: "header protection", note: "a mask of 5 bytes a packet", funcs: []string{"protect.(*headerKey)."}},
		{name: "sendmsg with UDP_SEGMENT", note: "up to 64 KiB of equal datagrams in one call", funcs: []string{"udp.(*Socket).Send"}},
		{name: "packet building, sent packets", funcs: []string{"quic.(*Conn).flush"}},
		{name: "receive acknowledgements", funcs: []string{"udp.(*Socket).Recv", "quic.(*Endpoint).dispatch", "quic.(*Conn).processBatch"}},
		{name: "scheduler, memory, the rest"},
	}
}

func receiverHops() []hop {
	return []hop{
		{name: "recvmsg with UDP_GRO", note: "up to 64 KiB of datagrams in one call, into a slab", funcs: []string{"udp.(*receiver).receive", "udp.(*Socket).Recv"}},
		{name: "header protection", note: "removed in place", funcs: []string{"protect.(*headerKey).", "protect.(*Key).UnprotectHeader"}},
		{name: "AEAD: open in place", note: "the one pass over the payload in user space", funcs: []string{"aes/gcm.", "protect.(*Key).Open"}},
		{name: "frames, order, packet numbers", note: "views of the slab, not copies", funcs: []string{"quic.(*Conn).processBatch", "quic.(*Endpoint).dispatch"}},
		{name: "views to the application, credit", note: "writev, or a callback; then the peer gets credit", funcs: []string{"quic.(*Stream).WriteTo"}},
		{name: "send acknowledgements", funcs: []string{"quic.(*Conn).flush"}},
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
	if _, err := r.once(ctx, ours, &work{upload: pick(r.quick, uint64(gib), 8*gib), payload: 1400, fill: true, profile: prefix}); err != nil {
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
	rep.section("Where the time goes", "One stream, datagrams of 1400 bytes, with `--fill`, per cent of each process's CPU time; system calls count for the hop that makes them.\n\n![data path](datapath.svg)")
	t := rep.table("sender", "%", "receiver", "%")
	for i := range max(len(tx), len(rx)) {
		t.row(tx[i].name, strings.TrimSuffix(percent(tx[i].share), " %"), rx[i].name, strings.TrimSuffix(percent(rx[i].share), " %"))
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

// Measures of the picture, in pixels.
const (
	boxWidth, boxHeight, boxStep = 404, 46, 64
	asideStep                    = 26
	leftEdge, rightEdge          = 28, 508
	topEdge                      = 92
	pictureWidth                 = 940
)

// drawPath draws the way of the payload: down on the sender's side, across,
// and up on the receiver's. A box is filled by its share of its process's CPU
// time; what the payload does not pass stands below.
func drawPath(tx, rx []hop) string {
	send, sendAside := split(tx)
	recv, recvAside := split(rx)
	slices.Reverse(recv)
	rows := max(len(send), len(recv))
	bottom := topEdge + 40 + rows*boxStep
	height := bottom + 76 + max(len(sendAside), len(recvAside))*asideStep + 20
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="Helvetica, Arial, sans-serif" font-size="14">`+"\n", pictureWidth, height)
	b.WriteString(`<defs><marker id="a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" fill="#444"/></marker></defs>` + "\n")
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", pictureWidth, height)
	fmt.Fprintf(&b, `<text x="%d" y="34" font-size="19" font-weight="bold" fill="#222">The way of the payload</text>`+"\n", leftEdge)
	fmt.Fprintf(&b, `<text x="%d" y="56" fill="#555">Per cent of the CPU time of each process, as profiled: one stream, datagrams of 1400 bytes.</text>`+"\n", leftEdge)
	drawColumn(&b, leftEdge, rows, "sender", "source: file, socket, memory", send, sendAside, "#4c78a8", true)
	drawColumn(&b, rightEdge, rows, "receiver", "application: file, socket", recv, recvAside, "#e0803c", false)
	// Across, from the last box on the left to the last on the right.
	y := bottom + 8
	from, to := leftEdge+boxWidth/2, rightEdge+boxWidth/2
	fmt.Fprintf(&b, `<path d="M%d %d V%d H%d V%d" fill="none" stroke="#444" stroke-width="1.6" marker-end="url(#a)"/>`+"\n", from, bottom-boxStep+boxHeight, y, to, bottom-boxStep+boxHeight+2)
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle" fill="#444" font-size="13">UDP</text>`+"\n", pictureWidth/2, y-6)
	b.WriteString("</svg>\n")
	return b.String()
}

// percent is a share as it is written; a profile of some hundred samples does
// not tell small ones from nothing.
func percent(share float64) string {
	if share < 0.5 {
		return "&lt; 0.5 %"
	}
	return fmt.Sprintf("%.1f %%", share)
}

// split parts what the payload passes from what it does not.
func split(hops []hop) (path, aside []hop) {
	for _, h := range hops {
		if h.note != "" {
			path = append(path, h)
		} else {
			aside = append(aside, h)
		}
	}
	return path, aside
}

// drawColumn draws one process, its boxes ending at the bottom.
func drawColumn(b *strings.Builder, x, rows int, title, end string, path, aside []hop, color string, down bool) {
	first := topEdge + 40 + (rows-len(path))*boxStep
	fmt.Fprintf(b, `<text x="%d" y="%d" font-weight="bold" font-size="16" fill="%s">%s</text>`+"\n", x, first-48, color, title)
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="middle" fill="#444" font-size="13">%s</text>`+"\n", x+boxWidth/2, first-24, end)
	arrow := func(y0, y1 int) {
		if !down {
			y0, y1 = y1, y0
		}
		fmt.Fprintf(b, `<path d="M%d %d V%d" stroke="#444" stroke-width="1.6" marker-end="url(#a)"/>`+"\n", x+boxWidth/2, y0, y1)
	}
	arrow(first-19, first-1)
	for i, h := range path {
		y := first + i*boxStep
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%d" height="%d" rx="5" fill="#fff"/>`, x, y, boxWidth, boxHeight)
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="%d" rx="5" fill="%s" fill-opacity="0.32"/>`, x, y, max(2, h.share/100*boxWidth), boxHeight, color)
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%d" height="%d" rx="5" fill="none" stroke="%s" stroke-width="1.4"/>`, x, y, boxWidth, boxHeight, color)
		fmt.Fprintf(b, `<text x="%d" y="%d" fill="#222">%s</text>`, x+12, y+20, h.name)
		fmt.Fprintf(b, `<text x="%d" y="%d" fill="#555" font-size="12">%s</text>`, x+12, y+37, h.note)
		fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end" font-size="16" font-weight="bold" fill="#222">%s</text>`+"\n", x+boxWidth-12, y+29, percent(h.share))
		if i > 0 {
			arrow(y-boxStep+boxHeight+1, y-1)
		}
	}
	y := topEdge + 40 + rows*boxStep + 42
	fmt.Fprintf(b, `<text x="%d" y="%d" fill="#555" font-size="13">beside the way:</text>`+"\n", x, y)
	for i, h := range aside {
		y := y + 10 + i*asideStep
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="18" rx="3" fill="%s" fill-opacity="0.32"/>`, x, y, max(2, h.share/100*boxWidth), color)
		fmt.Fprintf(b, `<text x="%d" y="%d" fill="#222" font-size="13">%s</text>`, x+12, y+14, h.name)
		fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end" font-size="13" font-weight="bold" fill="#222">%s</text>`+"\n", x+boxWidth-12, y+14, percent(h.share))
	}
}
