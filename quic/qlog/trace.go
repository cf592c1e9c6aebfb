package qlog

import (
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"
)

// A Trace is the trace of one connection. Its methods are not safe for
// concurrent use; a connection calls them under its lock.
type Trace struct {
	tracer  *Tracer
	name    string
	start   time.Time
	buf     []byte // a chunk from the pool, or nil
	metrics Metrics
	state   string
	stopped atomic.Bool // its file is full or failed
}

// record separates texts of a sequence (RFC 7464).
const record = "\x1e"

// header is the first record (main schema, Section 4).
func (t *Trace) header(server bool, id string) {
	b := t.room()
	b = append(b, record+`{"qlog_version":"0.3","qlog_format":"JSON-SEQ","title":"quic-fsgw","trace":{"vantage_point":{"type":"`...)
	b = append(b, vantage(server)...)
	b = append(b, `"},"common_fields":{"ODCID":`...)
	b = appendString(b, id)
	b = append(b, `,"time_format":"relative","reference_time":`...)
	b = strconv.AppendFloat(b, float64(t.start.UnixMicro())/1000, 'f', 3, 64)
	t.buf = append(b, `,"protocol_type":["QUIC"]}}}`+"\n"...)
}

// room returns the buffer with space for one record.
func (t *Trace) room() []byte {
	if len(t.buf)+recordSize > chunkSize {
		t.tracer.hand(chunk{trace: t, data: t.buf})
		t.buf = nil
	}
	if t.buf == nil {
		t.buf = chunks.Get().(*[chunkSize]byte)[:0]
	}
	return t.buf
}

// begin starts a record up to and with the opening brace of its data.
func (t *Trace) begin(now time.Time, name string) []byte {
	b := append(t.room(), record+`{"time":`...)
	b = appendMillis(b, now.Sub(t.start))
	b = append(b, `,"name":"`...)
	b = append(b, name...)
	return append(b, `","data":{`...)
}

// end closes a record. One that is longer than a record may be is left out:
// nothing that events consist of comes near.
func (t *Trace) end(b []byte) {
	if len(b)-len(t.buf) > recordSize-8 {
		return
	}
	t.buf = append(b, "}}\n"...)
}

// on tells whether there is anything to do.
func (t *Trace) on() bool { return t != nil && !t.stopped.Load() }

// Close ends the trace.
func (t *Trace) Close() {
	if t == nil || t.buf == nil {
		return
	}
	t.tracer.hand(chunk{trace: t, data: t.buf, last: true})
	t.buf = nil
	t.stopped.Store(true)
}

// Started is connectivity:connection_started.
func (t *Trace) Started(now time.Time, version uint32, local, remote netip.AddrPort, src, dst string) {
	if !t.on() {
		return
	}
	b := t.begin(now, "connectivity:connection_started")
	b = append(b, `"ip_version":"`...)
	if remote.Addr().Is4() {
		b = append(b, `ipv4"`...)
	} else {
		b = append(b, `ipv6"`...)
	}
	b = addString(b, "src_ip", local.Addr().String())
	b = addString(b, "dst_ip", remote.Addr().String())
	b = append(b, `,"protocol":"QUIC"`...)
	b = addUint(b, "src_port", uint64(local.Port()))
	b = addUint(b, "dst_port", uint64(remote.Port()))
	b = addString(b, "src_cid", src)
	b = addString(b, "dst_cid", dst)
	b = addString(b, "quic_version", strconv.FormatUint(uint64(version), 16))
	t.end(b)
}

// State is connectivity:connection_state_updated: attempted, handshake_started,
// handshake_completed, handshake_confirmed, closing, draining, closed.
func (t *Trace) State(now time.Time, state string) {
	if !t.on() || state == t.state {
		return
	}
	b := t.begin(now, "connectivity:connection_state_updated")
	b = append(b, `"new":`...)
	b = appendString(b, state)
	if t.state != "" {
		b = addString(b, "old", t.state)
	}
	t.state = state
	t.end(b)
}

// Closed is connectivity:connection_closed. trigger is one of clean,
// handshake_timeout, idle_timeout, error, stateless_reset, version_mismatch,
// application, aborted.
func (t *Trace) Closed(now time.Time, local bool, app bool, code uint64, reason, trigger string) {
	if !t.on() {
		return
	}
	b := t.begin(now, "connectivity:connection_closed")
	if local {
		b = append(b, `"owner":"local"`...)
	} else {
		b = append(b, `"owner":"remote"`...)
	}
	if app {
		b = addUint(b, "application_code", code)
	} else {
		b = addUint(b, "connection_code", code)
	}
	b = addString(b, "reason", reason[:min(len(reason), 256)])
	b = addString(b, "trigger", trigger)
	t.end(b)
}

// KeyUpdated is security:key_updated. trigger: tls, local_update, remote_update.
func (t *Trace) KeyUpdated(now time.Time, keyType string, generation uint32, trigger string) {
	if !t.on() {
		return
	}
	b := t.begin(now, "security:key_updated")
	b = append(b, `"key_type":`...)
	b = appendString(b, keyType)
	b = addUint(b, "generation", uint64(generation))
	b = addString(b, "trigger", trigger)
	t.end(b)
}

// MTU is connectivity:mtu_updated.
func (t *Trace) MTU(now time.Time, old, mtu int) {
	if !t.on() {
		return
	}
	b := append(t.begin(now, "connectivity:mtu_updated"), `"old":`...)
	b = strconv.AppendInt(b, int64(old), 10)
	b = addUint(b, "new", uint64(mtu))
	t.end(b)
}

// Path is connectivity:path_updated, which qlog 0.3 does not have; viewers leave it out.
func (t *Trace) Path(now time.Time, remote netip.AddrPort, id uint8) {
	if !t.on() {
		return
	}
	b := append(t.begin(now, "connectivity:path_updated"), `"path_id":`...)
	b = strconv.AppendUint(b, uint64(id), 10)
	b = addString(b, "remote", remote.String())
	t.end(b)
}

// Metrics are the values of recovery:metrics_updated. Zero: not known.
type Metrics struct {
	MinRTT, SmoothedRTT, LatestRTT, RTTVariance time.Duration
	PTOCount                                    int
	CongestionWindow, BytesInFlight, Ssthresh   int
	PacingRate                                  uint64 // bits a second
}

// Metrics is recovery:metrics_updated: what has changed since the last one.
func (t *Trace) Metrics(now time.Time, m Metrics) {
	if !t.on() || m == t.metrics {
		return
	}
	old := &t.metrics
	b := t.begin(now, "recovery:metrics_updated")
	at := len(b)
	millis := func(key string, v, was time.Duration) {
		if v != was {
			b = addKey(b, key)
			b = appendMillis(b, v)
		}
	}
	millis("min_rtt", m.MinRTT, old.MinRTT)
	millis("smoothed_rtt", m.SmoothedRTT, old.SmoothedRTT)
	millis("latest_rtt", m.LatestRTT, old.LatestRTT)
	millis("rtt_variance", m.RTTVariance, old.RTTVariance)
	count := func(key string, v, was uint64) {
		if v != was {
			b = addUint(b, key, v)
		}
	}
	count("pto_count", uint64(m.PTOCount), uint64(old.PTOCount))
	count("congestion_window", uint64(m.CongestionWindow), uint64(old.CongestionWindow))
	count("bytes_in_flight", uint64(m.BytesInFlight), uint64(old.BytesInFlight))
	count("ssthresh", uint64(m.Ssthresh), uint64(old.Ssthresh))
	count("pacing_rate", m.PacingRate, old.PacingRate)
	b = append(b[:at], b[at+1:]...) // the comma before the first
	t.metrics = m
	t.end(b)
}
