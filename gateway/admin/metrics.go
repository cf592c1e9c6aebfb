// Package admin is the gateway's inside view: metrics in the Prometheus text
// format, health and status over HTTP, and a Unix socket that takes commands.
//
// It imports nothing of ours. The gateway registers what it counts and hands
// in callbacks; every value is read when somebody asks.
package admin

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// Prefix begins every metric name.
const Prefix = "quicfsgw_"

// MaxSeries bounds the label values of one metric. Further ones are counted
// together under the value "other", so that nothing a peer sends can grow the
// memory of the registry.
const MaxSeries = 512

// overflow is the label value of series beyond MaxSeries.
const overflow = "other"

type kind string

const (
	counterKind   kind = "counter"
	gaugeKind     kind = "gauge"
	histogramKind kind = "histogram"
)

// Registry holds metrics and writes them. It is safe for many goroutines;
// registering twice under a name panics, for that is a mistake in the program.
type Registry struct {
	mu       sync.Mutex
	families []*family
	byName   map[string]*family
}

// NewRegistry returns an empty registry.
func NewRegistry() *Registry { return &Registry{byName: map[string]*family{}} }

// family is one metric with all its series.
type family struct {
	name, help string
	kind       kind
	labels     []string
	bounds     []float64
	pull       func(emit func(value float64, labelValues ...string)) // instead of series

	mu     sync.RWMutex
	series map[string]*series
	keys   []string // of series, in order of creation
}

// series is one combination of label values.
type series struct {
	values  []string
	n       atomic.Uint64 // counter: the count; gauge: float bits; histogram: observations
	sum     atomic.Uint64 // histogram: float bits
	buckets []atomic.Uint64
}

func (r *Registry) register(f *family) *family {
	if !validMetricName(f.name) {
		panic("admin: bad metric name " + strconv.Quote(f.name))
	}
	f.series = map[string]*series{}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byName[f.name] != nil {
		panic("admin: metric " + f.name + " is registered twice")
	}
	r.byName[f.name] = f
	r.families = append(r.families, f)
	slices.SortFunc(r.families, func(a, b *family) int { return strings.Compare(a.name, b.name) })
	if len(f.labels) == 0 && f.pull == nil {
		f.with(nil)
	}
	return f
}

func validMetricName(s string) bool {
	rest, ok := strings.CutPrefix(s, Prefix)
	return ok && rest != "" && strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

// with finds or makes the series of the label values.
func (f *family) with(values []string) *series {
	if len(values) != len(f.labels) {
		panic(fmt.Sprintf("admin: %s takes %d label values, got %d", f.name, len(f.labels), len(values)))
	}
	key := strings.Join(values, "\xff")
	f.mu.RLock()
	s := f.series[key]
	f.mu.RUnlock()
	if s != nil {
		return s
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.series[key]; s != nil {
		return s
	}
	if len(f.series) >= MaxSeries {
		values = slices.Repeat([]string{overflow}, len(f.labels))
		key = strings.Join(values, "\xff")
		if s := f.series[key]; s != nil {
			return s
		}
	}
	s = &series{values: slices.Clone(values), buckets: make([]atomic.Uint64, len(f.bounds))}
	f.series[key] = s
	f.keys = append(f.keys, key)
	return s
}

// Counter only grows.
type Counter struct{ s *series }

// Add adds n.
func (c Counter) Add(n uint64) { c.s.n.Add(n) }

// Inc adds one.
func (c Counter) Inc() { c.s.n.Add(1) }

// Value is the count so far.
func (c Counter) Value() uint64 { return c.s.n.Load() }

// Counters is a counter with labels.
type Counters struct{ f *family }

// With selects a series; keep the result where it is used often.
func (c Counters) With(labelValues ...string) Counter { return Counter{c.f.with(labelValues)} }

// Counter registers a counter without labels.
func (r *Registry) Counter(name, help string) Counter {
	return Counter{r.register(&family{name: name, help: help, kind: counterKind}).with(nil)}
}

// Counters registers a counter with labels.
func (r *Registry) Counters(name, help string, labels ...string) Counters {
	return Counters{r.register(&family{name: name, help: help, kind: counterKind, labels: labels})}
}

// Gauge goes up and down.
type Gauge struct{ s *series }

// Set sets the value.
func (g Gauge) Set(v float64) { g.s.n.Store(math.Float64bits(v)) }

// Add adds v, which may be negative.
func (g Gauge) Add(v float64) { addFloat(&g.s.n, v) }

func addFloat(bits *atomic.Uint64, v float64) {
	for {
		old := bits.Load()
		if bits.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+v)) {
			return
		}
	}
}

// Gauges is a gauge with labels.
type Gauges struct{ f *family }

// With selects a series.
func (g Gauges) With(labelValues ...string) Gauge { return Gauge{g.f.with(labelValues)} }

// Gauge registers a gauge without labels.
func (r *Registry) Gauge(name, help string) Gauge {
	return Gauge{r.register(&family{name: name, help: help, kind: gaugeKind}).with(nil)}
}

// Gauges registers a gauge with labels.
func (r *Registry) Gauges(name, help string, labels ...string) Gauges {
	return Gauges{r.register(&family{name: name, help: help, kind: gaugeKind, labels: labels})}
}

// PullFunc yields the values of a metric when they are asked for; it may be
// called from several goroutines at once.
type PullFunc func(emit func(value float64, labelValues ...string))

// PullGauge registers a gauge whose values are read from f.
func (r *Registry) PullGauge(name, help string, f PullFunc, labels ...string) {
	r.register(&family{name: name, help: help, kind: gaugeKind, labels: labels, pull: f})
}

// PullCounter registers a counter whose values are read from f; they must not
// fall.
func (r *Registry) PullCounter(name, help string, f PullFunc, labels ...string) {
	r.register(&family{name: name, help: help, kind: counterKind, labels: labels, pull: f})
}

// Histogram counts observations in buckets.
type Histogram struct {
	s      *series
	bounds []float64
}

// Observe counts v.
func (h Histogram) Observe(v float64) {
	if i, _ := slices.BinarySearch(h.bounds, v); i < len(h.bounds) {
		h.s.buckets[i].Add(1)
	}
	addFloat(&h.s.sum, v)
	h.s.n.Add(1)
}

// Histograms is a histogram with labels.
type Histograms struct{ f *family }

// With selects a series.
func (h Histograms) With(labelValues ...string) Histogram {
	return Histogram{h.f.with(labelValues), h.f.bounds}
}

// Histograms registers a histogram; bounds are the upper ends of its buckets,
// ascending, and +Inf follows by itself.
func (r *Registry) Histograms(name, help string, bounds []float64, labels ...string) Histograms {
	if !slices.IsSorted(bounds) || len(bounds) == 0 {
		panic("admin: bounds of " + name + " are not ascending")
	}
	return Histograms{r.register(&family{name: name, help: help, kind: histogramKind, labels: labels, bounds: slices.Clone(bounds)})}
}

// Seconds are bounds for times from half a millisecond to half a minute.
var Seconds = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// WriteTo writes every metric in the Prometheus text format, version 0.0.4.
func (r *Registry) WriteTo(w io.Writer) (int64, error) {
	cw := &countingWriter{w: w}
	b := bufio.NewWriter(cw)
	r.mu.Lock()
	families := slices.Clone(r.families)
	r.mu.Unlock()
	for _, f := range families {
		f.write(b)
	}
	err := b.Flush()
	return cw.n, err
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

func (f *family) write(b *bufio.Writer) {
	fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n", f.name, strings.NewReplacer("\\", `\\`, "\n", `\n`).Replace(f.help), f.name, f.kind)
	if f.pull != nil {
		f.writePulled(b)
		return
	}
	f.mu.RLock()
	all := make([]*series, 0, len(f.keys))
	for _, k := range f.keys {
		all = append(all, f.series[k])
	}
	f.mu.RUnlock()
	slices.SortFunc(all, func(a, b *series) int { return slices.Compare(a.values, b.values) })
	for _, s := range all {
		switch f.kind {
		case counterKind:
			fmt.Fprintf(b, "%s%s %d\n", f.name, labelText(f.labels, s.values), s.n.Load())
		case gaugeKind:
			fmt.Fprintf(b, "%s%s %s\n", f.name, labelText(f.labels, s.values), floatText(math.Float64frombits(s.n.Load())))
		case histogramKind:
			f.writeHistogram(b, s)
		}
	}
}

func (f *family) writeHistogram(b *bufio.Writer, s *series) {
	names := append(slices.Clone(f.labels), "le")
	// The total is read first: buckets that grow meanwhile may not exceed it.
	total, sum, cumulative := s.n.Load(), s.sum.Load(), uint64(0)
	for i, bound := range f.bounds {
		cumulative = min(cumulative+s.buckets[i].Load(), total)
		fmt.Fprintf(b, "%s_bucket%s %d\n", f.name, labelText(names, append(slices.Clone(s.values), floatText(bound))), cumulative)
	}
	fmt.Fprintf(b, "%s_bucket%s %d\n", f.name, labelText(names, append(slices.Clone(s.values), "+Inf")), total)
	fmt.Fprintf(b, "%s_sum%s %s\n", f.name, labelText(f.labels, s.values), floatText(math.Float64frombits(sum)))
	fmt.Fprintf(b, "%s_count%s %d\n", f.name, labelText(f.labels, s.values), total)
}

func (f *family) writePulled(b *bufio.Writer) {
	n := 0
	f.pull(func(v float64, values ...string) {
		if len(values) != len(f.labels) {
			panic(fmt.Sprintf("admin: %s takes %d label values, got %d", f.name, len(f.labels), len(values)))
		}
		if n++; n > MaxSeries {
			return
		}
		fmt.Fprintf(b, "%s%s %s\n", f.name, labelText(f.labels, values), floatText(v))
	})
}

func floatText(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

var labelEscaper = strings.NewReplacer("\\", `\\`, "\"", `\"`, "\n", `\n`)

func labelText(names, values []string) string {
	if len(names) == 0 {
		return ""
	}
	var b strings.Builder
	for i, n := range names {
		b.WriteString([]string{"{", ","}[min(i, 1)])
		b.WriteString(n + `="` + labelEscaper.Replace(strings.ToValidUTF8(values[i], "\ufffd")) + `"`)
	}
	return b.String() + "}"
}
