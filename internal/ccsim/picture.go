package ccsim

import (
	"bytes"
	"fmt"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
)

// The picture of docs/quic-recovery.md: the window of each controller over time.

// A Chart is one path and what the controllers make of it.
type Chart struct {
	Title  string
	Link   Link
	Traces []Trace
}

// A Trace is one controller alone on the path.
type Trace struct {
	Algorithm recovery.Algorithm
	Result    Result
	Used      float64 // share of the bottleneck
}

const (
	chartTime  = 20 * time.Second
	chartEvery = 50 * time.Millisecond
	chartSeed  = 42
)

// Charts runs the controllers over the paths of the picture.
func Charts() []Chart {
	const rate = 20_000_000 / 8
	charts := []Chart{
		{Title: "20 Mbit/s, 40 ms, queue of 100 kB, no other loss", Link: Link{Rate: rate, Delay: 20 * time.Millisecond, Queue: 100_000}},
		{Title: "the same with 0.5 % of the packets lost at random", Link: Link{Rate: rate, Delay: 20 * time.Millisecond, Queue: 100_000, Loss: 0.005}},
	}
	for i := range charts {
		c := &charts[i]
		for _, a := range []recovery.Algorithm{recovery.NewReno, recovery.CUBIC, recovery.BBR} {
			run := Run{Seed: chartSeed, Link: c.Link, Flows: []Flow{{Algorithm: a}}, Duration: chartTime, Every: chartEvery}
			r := run.Do()[0]
			c.Traces = append(c.Traces, Trace{a, r, float64(r.Delivered) / (float64(c.Link.Rate) * chartTime.Seconds())})
		}
	}
	return charts
}

// product is what the path holds without its queue, in bytes.
func (l *Link) product() int { return int(float64(l.Rate) * 2 * l.Delay.Seconds()) }

var colours = map[recovery.Algorithm]string{recovery.NewReno: "#8a8f98", recovery.CUBIC: "#c2410c", recovery.BBR: "#1d4ed8"}

const (
	left, plotWidth, plotHeight, chartHeight = 60, 760, 190, 260
	topWindow                                = 320_000 // bytes at the upper edge
)

// Picture draws charts as SVG.
func Picture(charts []Chart) []byte {
	var b bytes.Buffer
	height := chartHeight*len(charts) + 10
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" role="img">`+"\n", left+plotWidth+20, height)
	b.WriteString("<title>Congestion window of NewReno, CUBIC and BBR over time</title>\n")
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="#ffffff"/>`+"\n")
	for i := range charts {
		charts[i].draw(&b, 30+i*chartHeight)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func (c *Chart) draw(b *bytes.Buffer, top int) {
	y := func(bytes int) float64 {
		return float64(top) + plotHeight*(1-float64(min(bytes, topWindow))/topWindow)
	}
	x := func(at time.Duration) float64 { return left + plotWidth*at.Seconds()/chartTime.Seconds() }
	fmt.Fprintf(b, `<text x="%d" y="%d" font-weight="bold">%s</text>`+"\n", left, top-10, c.Title)
	fmt.Fprintf(b, `<rect x="%d" y="%d" width="%d" height="%d" fill="none" stroke="#d4d4d8"/>`+"\n", left, top, plotWidth, plotHeight)
	for kb := 0; kb <= topWindow/1000; kb += 80 {
		fmt.Fprintf(b, `<text x="%d" y="%.0f" text-anchor="end" fill="#52525b">%d kB</text>`+"\n", left-6, y(kb*1000)+4, kb)
	}
	for s := 0; s <= int(chartTime.Seconds()); s += 5 {
		fmt.Fprintf(b, `<text x="%.0f" y="%d" text-anchor="middle" fill="#52525b">%d s</text>`+"\n", x(time.Duration(s)*time.Second), top+plotHeight+16, s)
	}
	for _, line := range []struct {
		bytes int
		name  string
	}{{c.Link.product(), "the path is full"}, {c.Link.product() + c.Link.Queue, "the queue is full"}} {
		fmt.Fprintf(b, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#71717a" stroke-dasharray="4 4"/>`+"\n", left, y(line.bytes), left+plotWidth, y(line.bytes))
		fmt.Fprintf(b, `<text x="%d" y="%.1f" text-anchor="end" fill="#52525b">%s</text>`+"\n", left+plotWidth-4, y(line.bytes)-4, line.name)
	}
	for i := range c.Traces {
		t := &c.Traces[i]
		fmt.Fprintf(b, `<polyline fill="none" stroke="%s" stroke-width="1.5" points="`, colours[t.Algorithm])
		for _, s := range t.Result.Samples {
			fmt.Fprintf(b, "%.1f,%.1f ", x(s.At), y(s.Window))
		}
		b.WriteString(`"/>` + "\n")
		fmt.Fprintf(b, `<text x="%d" y="%d" fill="%s">%v: %.0f %% of the link used, %d kB in the queue</text>`+"\n",
			left+i*258, top+plotHeight+36, colours[t.Algorithm], t.Algorithm, 100*t.Used, t.Result.MeanQueue/1000)
	}
}
