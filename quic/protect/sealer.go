package protect

import (
	"crypto/aes"
	"encoding/binary"
	"errors"
	"net/netip"
	"sync/atomic"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// Sealing by the batch. A connection registers a flow with its keys; packets
// then go in as plaintext, a batch at a time, and come out sealed. This is the
// shape of the kernel's series on QUIC transmit offload: flows are known by
// address and connection ID, a batch has a stride (the datagram's size less the
// tag), only 1-RTT packets pass. So a kernel or a device can stand behind it.
// What is not to be sealed is not to be sent: the batch is dropped, and its
// memory cleared, before anybody could take it for ciphertext.

// Errors of Sealer.Seal. Each moves SealerStats.TxSwError, and the batch is gone.
var (
	// ErrNoFlow: the flow was never registered here, was removed, or the batch
	// is for another address or connection ID.
	ErrNoFlow = errors.New("quic/protect: batch for a flow that is not registered")

	// ErrPhase: the batch was built for another key phase than the flow is in.
	ErrPhase = errors.New("quic/protect: batch for another key phase")

	// ErrBatch: the packets do not have the stride, or are no 1-RTT packets.
	ErrBatch = errors.New("quic/protect: batch is malformed")
)

// A Sealer seals batches. The zero value is ready. It counts; keys are the flows'.
type Sealer struct {
	current atomic.Int64
	total   atomic.Uint64
	failed  atomic.Uint64
}

// SealerStats are named as the counters of the kernel's series.
type SealerStats struct {
	CurrTxSw  int64  // QuicCurrTxSw: flows that are registered
	TxSw      uint64 // QuicTxSw: flows that ever were
	TxSwError uint64 // QuicTxSwError: batches that were dropped
}

// Stats returns the counters.
func (s *Sealer) Stats() SealerStats {
	return SealerStats{CurrTxSw: s.current.Load(), TxSw: s.total.Load(), TxSwError: s.failed.Load()}
}

// A FlowID names a flow: where its packets go.
type FlowID struct {
	Remote netip.AddrPort
	Dst    wire.ConnID
}

// A Flow is a registered flow. Its owner must not change it while one of its
// batches is being sealed; batches of one flow may be sealed at the same time.
type Flow struct {
	sealer *Sealer
	id     FlowID
	key    *Key
	phase  bool
}

// Add registers a flow whose packets are sealed with key, which stays the
// caller's.
func (s *Sealer) Add(id FlowID, key *Key, phase bool) *Flow {
	s.current.Add(1)
	s.total.Add(1)
	return &Flow{sealer: s, id: id, key: key, phase: phase}
}

// ID returns what the flow is registered as.
func (f *Flow) ID() FlowID { return f.id }

// Update gives the flow the key of the next phase.
func (f *Flow) Update(key *Key, phase bool) { f.key, f.phase = key, phase }

// Remove ends the flow: nothing is sealed for it any more.
func (f *Flow) Remove() {
	if f.sealer != nil {
		f.sealer.current.Add(-1)
		*f = Flow{id: f.id}
	}
}

// A Batch is packets of one flow that are sent together.
type Batch struct {
	Remote  netip.AddrPort
	Phase   bool
	Stride  int // of header and plaintext of each packet; the last may have less
	Packets []Packet

	nonce [nonceLen]byte // scratch: local ones would escape through the ciphers
	mask  [aes.BlockSize]byte
}

// A Packet is a 1-RTT packet to be sealed.
type Packet struct {
	PN uint64

	// Out is where the sealed packet will be, in its whole length. It begins with
	// the header, unprotected, and then as many bytes of plaintext as Front says.
	Out    []byte
	Header uint8 // bytes of the header
	PNLen  uint8 // bytes of the packet number, with which it ends
	Front  uint8 // bytes of plaintext in Out, if Plain is not nil

	// Plain, if not nil, holds the rest of the plaintext where the application's
	// bytes lie, behind Front bytes that are overwritten while the packet is
	// sealed and then put back: the cipher wants one piece, and so reads the
	// payload from where it is. If it is nil, all of the plaintext is in Out.
	Plain []byte
}

// MaxFront is the most that Packet.Front may be.
const MaxFront = 128

// Seal seals a batch of a flow. If it fails, nothing was sealed, and what there
// was of plaintext in the packets' memory is overwritten.
func (s *Sealer) Seal(f *Flow, b *Batch) error {
	if err := s.check(f, b); err != nil {
		s.failed.Add(1)
		for i := range b.Packets {
			clear(b.Packets[i].Out)
		}
		return err
	}
	f.key.sealBatch(b)
	return nil
}

func (s *Sealer) check(f *Flow, b *Batch) error {
	if f == nil || f.sealer != s || f.id.Remote != b.Remote {
		return ErrNoFlow
	}
	if f.phase != b.Phase {
		return ErrPhase
	}
	for i := range b.Packets {
		p := &b.Packets[i]
		size := len(p.Out) - TagLen
		if size > b.Stride || size < b.Stride && i+1 < len(b.Packets) || int(p.Header) != 1+f.id.Dst.Len()+int(p.PNLen) || p.PNLen < 1 || p.PNLen > 4 {
			return ErrBatch
		}
		plain := size - int(p.Header)
		if plain < MinPayload(int(p.PNLen)) || p.Plain != nil && (len(p.Plain) != plain || int(p.Front) > min(plain, MaxFront)) {
			return ErrBatch
		}
		if wire.IsLong(p.Out[0]) {
			return ErrBatch
		}
		if wire.KeyPhase(p.Out[0]) != f.phase {
			return ErrPhase
		}
		if !f.id.Dst.Equal(p.Out[1 : 1+f.id.Dst.Len()]) {
			return ErrNoFlow
		}
	}
	return nil
}

// sealBatch seals packets that were checked.
func (k *Key) sealBatch(b *Batch) {
	k.Wake()
	b.nonce = k.iv
	low := b.nonce[nonceLen-8:]
	iv := binary.BigEndian.Uint64(low)
	for i := range b.Packets {
		p := &b.Packets[i]
		binary.BigEndian.PutUint64(low, iv^p.PN)
		header := p.Out[:p.Header]
		if p.Plain == nil {
			k.aead.Seal(header, b.nonce[:], p.Out[p.Header:len(p.Out)-TagLen], header)
		} else {
			var saved [MaxFront]byte
			lead := p.Plain[:p.Front]
			copy(saved[:], lead)
			copy(lead, p.Out[p.Header:])
			k.aead.Seal(header, b.nonce[:], p.Plain, header)
			copy(lead, saved[:])
		}
		k.header.protect(p.Out, int(p.Header-p.PNLen), int(p.PNLen), &b.mask)
	}
	clear(b.nonce[:])
}
