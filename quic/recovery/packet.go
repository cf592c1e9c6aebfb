// Package recovery holds the loss detection, acknowledgment tracking,
// congestion control and pacing of a QUIC connection (RFC 9002, and RFC 9000
// Section 13) as plain state: no goroutines, no timers, no I/O and no clock.
// The time is an argument everywhere, so that a test can replay any history.
//
// None of the types is safe for concurrent use; a connection owns one of each
// and calls them under its own lock. Values are meant to be embedded.
//
// The flow for a sender:
//
//  1. Loss.NextPN names the next packet number, Loss.Full, Controller.CanSend
//     and Pacer.Budget say whether a packet may be sent.
//  2. Loss.Sent, Controller.OnSent and Pacer.Sent record it.
//  3. Loss.Ack takes an ACK frame apart and reports every packet once, as
//     acknowledged or as lost.
//  4. Loss.Deadline is when to call Loss.OnTimeout.
package recovery

import "time"

// Space is a packet number space (RFC 9000, Section 12.3). 0-RTT and 1-RTT
// packets share AppData.
type Space uint8

// The packet number spaces in the order in which a handshake leaves them.
const (
	Initial Space = iota
	Handshake
	AppData
	NumSpaces
)

// String returns the name that logs use.
func (s Space) String() string {
	switch s {
	case Initial:
		return "initial"
	case Handshake:
		return "handshake"
	case AppData:
		return "appdata"
	}
	return "invalid"
}

// AckRange is an inclusive range of packet numbers, Smallest <= Largest.
type AckRange struct{ Smallest, Largest uint64 }

// Record names something a packet carried, so that the transport can send it
// again when the packet is lost or release it when it is acknowledged. Its
// meaning is the transport's: nothing here looks inside.
type Record struct {
	Kind    uint8
	Fin     bool
	Len     uint32
	ID, Off uint64
}

// inlineRecords is the number of records a packet holds without a slice of its
// own. A bulk packet carries one STREAM frame and now and then an ACK and a
// window update.
const inlineRecords = 3

// keepRecords bounds the overflow capacity that an unused ring slot keeps.
const keepRecords = 16

type packetState uint8

const (
	outstanding  packetState = iota // neither acknowledged nor lost
	newlyAcked                      // by the ACK frame being processed
	acknowledged                    // earlier, waiting for older ones to leave the ring
	declaredLost
)

// SendState is what a controller noted of itself when a packet was sent:
// counters that wrap, and times in microseconds that do, because they are
// compared within a few round trips. Its meaning is the controller's.
type SendState struct {
	delivered, lost        uint32 // bytes so far
	deliveredAt, firstSent uint32 // microseconds
	inFlight               uint32 // bytes, with this packet
	appLimited             bool
}

// SentPacket is what a sender remembers of a packet until it is acknowledged
// or lost (RFC 9002, Appendix A.1). The zero value is an empty packet.
type SentPacket struct {
	PN   uint64
	Sent time.Time // set by Loss.Sent
	// Size is the length of the QUIC packet in bytes, header and tag
	// included, IP and UDP headers not.
	Size         uint16
	AckEliciting bool // holds a frame other than ACK, PADDING, CONNECTION_CLOSE
	InFlight     bool // ack-eliciting, or holds PADDING
	PMTUProbe    bool // its loss says nothing about congestion
	ECN          bool // sent with ECT(0)
	Batched      bool // not the first datagram of the send it went out with
	Path         uint8
	state        packetState
	NumRecords   uint16
	KeyPhase     uint32
	SendState    SendState
	inline       [inlineRecords]Record
	more         []Record
}

// Add appends a record. A packet holds at most 65535 of them, more than a UDP
// datagram has room for frames.
func (p *SentPacket) Add(r Record) {
	if p.NumRecords < inlineRecords {
		p.inline[p.NumRecords] = r
	} else {
		p.more = append(p.more, r)
	}
	p.NumRecords++
}

// At returns record i, 0 <= i < NumRecords, in the order of Add.
func (p *SentPacket) At(i int) Record {
	if i < inlineRecords {
		return p.inline[i]
	}
	return p.more[i-inlineRecords]
}

// Ref is At without a copy; what it returns belongs to p.
func (p *SentPacket) Ref(i int) *Record {
	if i < inlineRecords {
		return &p.inline[i]
	}
	return &p.more[i-inlineRecords]
}

// Records calls f for each record in the order of Add.
func (p *SentPacket) Records(f func(Record)) {
	for i := range int(p.NumRecords) {
		f(p.At(i))
	}
}

// Reset empties p for another packet and keeps the memory of its records.
// Loss.Sent copies what it is given, so one SentPacket serves a whole sender.
func (p *SentPacket) Reset() {
	more := p.more[:0]
	*p = SentPacket{}
	p.more = more
}
