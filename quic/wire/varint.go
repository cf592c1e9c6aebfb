package wire

// MaxVarint is the largest value a variable-length integer can carry,
// 2^62-1 (RFC 9000, Section 16).
const MaxVarint = 1<<62 - 1

// RFC 9000, Section 16: "The QUIC variable-length integer encoding reserves
// the two most significant bits of the first byte to encode the base-2
// logarithm of the integer encoding length in bytes."
const (
	max1 = 1<<6 - 1
	max2 = 1<<14 - 1
	max4 = 1<<30 - 1
)

// VarintLen returns how many bytes AppendVarint writes for v: 1, 2, 4 or 8.
// v must not exceed MaxVarint.
func VarintLen(v uint64) int {
	switch {
	case v <= max1:
		return 1
	case v <= max2:
		return 2
	case v <= max4:
		return 4
	default:
		return 8
	}
}

// AppendVarint appends the shortest encoding of v to b. A v beyond MaxVarint
// is a bug of the caller: it cannot be expressed, and only its low 62 bits
// are written.
func AppendVarint(b []byte, v uint64) []byte {
	switch {
	case v <= max1:
		return append(b, byte(v))
	case v <= max2:
		return append(b, 0x40|byte(v>>8), byte(v))
	case v <= max4:
		return append(b, 0x80|byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
	default:
		return append(b, 0xc0|byte(v>>56), byte(v>>48), byte(v>>40), byte(v>>32),
			byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
	}
}

// ConsumeVarint reads the variable-length integer at the start of b and
// returns it and its encoded length; n is -1 when b is too short. Encodings
// longer than needed are accepted: RFC 9000, Section 16: "Values do not need
// to be encoded on the minimum number of bytes necessary, with the sole
// exception of the Frame Type field".
func ConsumeVarint(b []byte) (v uint64, n int) {
	if len(b) == 0 {
		return 0, -1
	}
	switch b[0] >> 6 {
	case 0:
		return uint64(b[0]), 1
	case 1:
		if len(b) < 2 {
			return 0, -1
		}
		return uint64(b[0]&0x3f)<<8 | uint64(b[1]), 2
	case 2:
		if len(b) < 4 {
			return 0, -1
		}
		return uint64(b[0]&0x3f)<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3]), 4
	default:
		if len(b) < 8 {
			return 0, -1
		}
		return uint64(b[0]&0x3f)<<56 | uint64(b[1])<<48 | uint64(b[2])<<40 | uint64(b[3])<<32 |
			uint64(b[4])<<24 | uint64(b[5])<<16 | uint64(b[6])<<8 | uint64(b[7]), 8
	}
}

// consumeVarintBytes reads a variable-length integer and that many bytes
// after it, which alias b. n is -1 when b is too short for either.
func consumeVarintBytes(b []byte) (data []byte, n int) {
	size, n := ConsumeVarint(b)
	if n < 0 || size > uint64(len(b)-n) {
		return nil, -1
	}
	end := n + int(size)
	return b[n:end:end], end
}

// appendVarintBytes appends data preceded by its length.
func appendVarintBytes(b, data []byte) []byte {
	b = AppendVarint(b, uint64(len(data)))
	return append(b, data...)
}
