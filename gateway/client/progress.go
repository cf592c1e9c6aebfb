package client

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// Progress shows one line with amount, rate and time left on a terminal. A
// nil *Progress does nothing. Its methods may be called from any goroutine.
type Progress struct {
	out   *os.File
	total atomic.Int64 // octets to do, as far as known
	done  atomic.Int64
	name  atomic.Pointer[string]
	stop  chan struct{}
	wg    sync.WaitGroup

	// Of the drawing goroutine: where the rate is measured from.
	marks []mark
}

type mark struct {
	at   time.Time
	done int64
}

const (
	progressTick = 200 * time.Millisecond
	rateWindow   = 25 // ticks
)

// StartProgress begins a progress line on out; nil where out is no terminal.
func StartProgress(out *os.File) *Progress {
	if _, ok := terminalWidth(out); !ok {
		return nil
	}
	p := &Progress{out: out, stop: make(chan struct{})}
	p.wg.Go(p.run)
	return p
}

func (p *Progress) run() {
	tick := time.NewTicker(progressTick)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			if width, ok := terminalWidth(p.out); ok {
				fmt.Fprintf(p.out, "\r%s\x1b[K", p.line(now, width))
			}
		case <-p.stop:
			fmt.Fprint(p.out, "\r\x1b[K")
			return
		}
	}
}

// Stop removes the line.
func (p *Progress) Stop() {
	if p != nil {
		close(p.stop)
		p.wg.Wait()
	}
}

// Expect adds to the octets there are to do.
func (p *Progress) Expect(n int64) {
	if p != nil {
		p.total.Add(n)
	}
}

// Add counts octets that are done; a negative n takes them back.
func (p *Progress) Add(n int64) {
	if p != nil {
		p.done.Add(n)
	}
}

// Name says which file is at work.
func (p *Progress) Name(name string) {
	if p != nil {
		p.name.Store(&name)
	}
}

// line renders the state for a terminal of width columns and never fills the
// last one, because some terminals wrap there.
func (p *Progress) line(now time.Time, width int) string {
	done, total := p.done.Load(), p.total.Load()
	p.marks = append(p.marks, mark{now, done})
	if len(p.marks) > rateWindow {
		p.marks = p.marks[1:]
	}
	first := p.marks[0]
	text := HumanSize(uint64(max(done, 0)))
	if total > 0 {
		text = fmt.Sprintf("%3d%% %s of %s", min(100, done*100/total), text, HumanSize(uint64(total)))
	}
	if d := now.Sub(first.at).Seconds(); d > 0 && done >= first.done {
		rate := float64(done-first.done) / d
		text += fmt.Sprintf("  %s/s", HumanSize(uint64(rate)))
		if rate >= 1 && total > done {
			text += "  " + shortDuration(time.Duration(float64(total-done)/rate*float64(time.Second))) + " left"
		}
	}
	if name := p.name.Load(); name != nil {
		text += "  " + PrintableName(*name)
	}
	return cut(text, max(width-1, 1))
}

// cut shortens text to n runes.
func cut(text string, n int) string {
	if utf8.RuneCountInString(text) <= n {
		return text
	}
	r := []rune(text)
	if n < 2 {
		return string(r[:n])
	}
	return string(r[:n-1]) + "…"
}

func shortDuration(d time.Duration) string {
	s := int64(min(d, 1000*time.Hour).Round(time.Second) / time.Second)
	if s >= 3600 {
		return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
	}
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}

// HumanSize writes octets with a binary unit and about three digits: 1.5 MiB.
func HumanSize(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), -1
	for v >= 1023.95 && unit < 5 {
		v /= 1024
		unit++
	}
	if v < 9.95 {
		return fmt.Sprintf("%.1f %ciB", v, "KMGTPE"[unit])
	}
	return fmt.Sprintf("%.0f %ciB", v, "KMGTPE"[unit])
}
