package forward

import (
	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// Bounds of one ClientHello being gathered.
const (
	maxHelloDatagrams = 16
	maxHelloCrypto    = 16 << 10 // a ClientHello with post-quantum keys has 2 KiB
)

// hello gathers the ClientHello of one connection from its Initial packets.
type hello struct {
	keys *protect.Key
	data []byte // the CRYPTO stream
	have []bool // which octets of data are there
}

// add takes the CRYPTO frames of an Initial. ok is false if it cannot be
// opened, or breaks a rule: then it is for the endpoint to judge.
func (h *hello) add(pkt []byte, lh *wire.LongHeader) (ok bool) {
	if h.keys == nil {
		h.keys, _ = protect.InitialKeys(lh.Version, lh.Dst.Append(nil))
	}
	b := append([]byte(nil), pkt[:lh.Len]...) // it is opened in place, and the other process wants it as it came
	pnLen, truncated, ok := h.keys.UnprotectHeader(b, lh.PNOffset)
	if !ok {
		return false
	}
	at := lh.PNOffset + pnLen
	frames, err := h.keys.Open(b[at:at], b[at:], b[:at], wire.DecodePacketNumber(-1, truncated, pnLen))
	if err != nil {
		return false
	}
	var ack wire.Ack
	for len(frames) > 0 {
		n := -1
		switch frames[0] {
		case wire.FramePadding:
			n = wire.ConsumePadding(frames)
		case wire.FramePing:
			n = wire.ConsumePing(frames)
		case wire.FrameAck, wire.FrameAckECN:
			n = wire.ConsumeAck(frames, &ack)
		case wire.FrameCrypto:
			var off uint64
			var data []byte
			if off, data, n = wire.ConsumeCrypto(frames); n > 0 && !h.crypto(off, data) {
				return false
			}
		}
		if n <= 0 {
			return false
		}
		frames = frames[n:]
	}
	return true
}

func (h *hello) crypto(off uint64, data []byte) bool {
	end := off + uint64(len(data))
	if end > maxHelloCrypto {
		return false
	}
	if grow := int(end) - len(h.data); grow > 0 {
		h.data = append(h.data, make([]byte, grow)...)
		h.have = append(h.have, make([]bool, grow)...)
	}
	copy(h.data[off:], data)
	for i := off; i < end; i++ {
		h.have[i] = true
	}
	return true
}

// parse reads what has arrived without gaps.
func (h *hello) parse() (ch wire.ClientHello, complete bool, err error) {
	n := 0
	for n < len(h.have) && h.have[n] {
		n++
	}
	return wire.ParseClientHello(h.data[:n])
}
