package qlog

import (
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// A Packet is a packet's header as traces show it.
type Packet struct {
	Type     wire.PacketType
	PN       uint64
	Size     int // of the whole packet; 0: not known
	Payload  int // of its frames
	KeyPhase bool
	Src, Dst wire.ConnID // of long headers
	Version  wire.Version
}

// A StreamFrame is a STREAM frame without its data.
type StreamFrame struct {
	ID, Off uint64
	Len     int
	Fin     bool
}

// Sent is transport:packet_sent. frames are the packet's frames before
// encryption; last is the STREAM frame behind them, or nil.
func (t *Trace) Sent(now time.Time, p *Packet, frames []byte, last *StreamFrame) {
	if t.on() {
		t.packet(now, "transport:packet_sent", p, frames, last)
	}
}

// Received is transport:packet_received. frames are the packet's contents.
func (t *Trace) Received(now time.Time, p *Packet, frames []byte) {
	if t.on() {
		t.packet(now, "transport:packet_received", p, frames, nil)
	}
}

func (t *Trace) packet(now time.Time, name string, p *Packet, frames []byte, last *StreamFrame) {
	b := appendHeader(t.begin(now, name), p)
	b = append(b, `,"raw":{`...)
	if p.Size > 0 {
		b = append(appendInt(append(b, `"length":`...), p.Size), ',')
	}
	b = appendInt(append(b, `"payload_length":`...), p.Payload)
	b = append(b, `},"frames":[`...)
	at := len(b)
	b = appendFrames(b, frames, len(t.buf)+recordSize-512)
	if last != nil {
		if len(b) > at {
			b = append(b, ',')
		}
		b = append(appendStream(append(b, `{"frame_type":"stream"`...), last), '}')
	}
	t.end(append(b, ']'))
}

func appendHeader(b []byte, p *Packet) []byte {
	b = append(b, `"header":{"packet_type":"`...)
	b = append(b, p.Type.String()...)
	b = append(b, '"')
	b = addUint(b, "packet_number", p.PN)
	if p.Type == wire.Packet1RTT {
		phase := uint64(0)
		if p.KeyPhase {
			phase = 1
		}
		b = addUint(b, "key_phase", phase)
	} else {
		b = addHex(b, "scid", p.Src.Append(nil))
		b = addHex(b, "dcid", p.Dst.Append(nil))
	}
	return append(b, '}')
}

// Lost is recovery:packet_lost. trigger: reordering_threshold,
// time_threshold, pto_expired.
func (t *Trace) Lost(now time.Time, typ wire.PacketType, pn uint64, trigger string) {
	if !t.on() {
		return
	}
	b := t.begin(now, "recovery:packet_lost")
	b = append(b, `"header":{"packet_type":"`...)
	b = append(b, typ.String()...)
	b = append(b, '"')
	b = addUint(b, "packet_number", pn)
	b = append(b, '}')
	if trigger != "" {
		b = addString(b, "trigger", trigger)
	}
	t.end(b)
}

// Dropped is transport:packet_dropped. trigger is the label of the
// endpoint's counter: decrypt, duplicate, no-keys, ... A size of 0 is not known.
func (t *Trace) Dropped(now time.Time, size int, trigger string) {
	if !t.on() {
		return
	}
	b := append(t.begin(now, "transport:packet_dropped"), `"raw":{`...)
	if size > 0 {
		b = appendInt(append(b, `"length":`...), size)
	}
	b = append(b, '}')
	t.end(addString(b, "trigger", trigger))
}

// Parameters is transport:parameters_set.
func (t *Trace) Parameters(now time.Time, local bool, p *wire.TransportParams) {
	if !t.on() {
		return
	}
	b := t.begin(now, "transport:parameters_set")
	if local {
		b = append(b, `"owner":"local"`...)
	} else {
		b = append(b, `"owner":"remote"`...)
	}
	if p.HasOriginalDst {
		b = addHex(b, "original_destination_connection_id", p.OriginalDst.Append(nil))
	}
	if p.HasInitialSrc {
		b = addHex(b, "initial_source_connection_id", p.InitialSrc.Append(nil))
	}
	if p.HasRetrySrc {
		b = addHex(b, "retry_source_connection_id", p.RetrySrc.Append(nil))
	}
	b = addBool(b, "disable_active_migration", p.DisableActiveMigration)
	b = addUint(b, "max_idle_timeout", uint64(p.MaxIdleTimeout.Milliseconds()))
	b = addUint(b, "max_udp_payload_size", p.MaxUDPPayload)
	b = addUint(b, "ack_delay_exponent", p.AckDelayExponent)
	b = addUint(b, "max_ack_delay", uint64(p.MaxAckDelay.Milliseconds()))
	b = addUint(b, "active_connection_id_limit", p.ActiveConnIDLimit)
	b = addUint(b, "initial_max_data", p.InitialMaxData)
	b = addUint(b, "initial_max_stream_data_bidi_local", p.InitialMaxStreamDataBidiLocal)
	b = addUint(b, "initial_max_stream_data_bidi_remote", p.InitialMaxStreamDataBidiRemote)
	b = addUint(b, "initial_max_stream_data_uni", p.InitialMaxStreamDataUni)
	b = addUint(b, "initial_max_streams_bidi", p.InitialMaxStreamsBidi)
	b = addUint(b, "initial_max_streams_uni", p.InitialMaxStreamsUni)
	b = addUint(b, "max_datagram_frame_size", p.MaxDatagram)
	t.end(addBool(b, "grease_quic_bit", p.GreaseBit))
}
