package nfs

import "encoding/binary"

// decoder reads XDR (RFC 4506) from b. After the first error bad is set and every value is zero.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) uint32() uint32 {
	if len(d.b) < 4 {
		d.bad, d.b = true, nil
		return 0
	}
	v := binary.BigEndian.Uint32(d.b)
	d.b = d.b[4:]
	return v
}

// opaque reads a variable-length opaque or string of at most limit bytes; the result aliases the input.
func (d *decoder) opaque(limit int) []byte {
	n := d.uint32()
	if d.bad || uint64(n) > uint64(limit) || pad4(int(n)) > len(d.b) {
		d.bad, d.b = true, nil
		return nil
	}
	v, rest := d.b[:n], d.b[n:]
	pad := pad4(int(n)) - int(n)
	if !allZero(rest[:pad]) {
		d.bad, d.b = true, nil
		return nil
	}
	d.b = rest[pad:]
	return v
}

func be32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }

func appendOpaque[T string | []byte](b []byte, v T) []byte {
	b = be32(b, uint32(len(v)))
	b = append(b, v...)
	for i := len(v); i%4 != 0; i++ {
		b = append(b, 0)
	}
	return b
}
