package qlog

import (
	"encoding/hex"
	"strconv"
	"time"
	"unicode/utf8"
)

// addKey appends a comma and a key, which needs no escapes.
func addKey(b []byte, key string) []byte {
	b = append(b, ',', '"')
	b = append(b, key...)
	return append(b, '"', ':')
}

func addString(b []byte, key, v string) []byte { return appendString(addKey(b, key), v) }

func addUint(b []byte, key string, v uint64) []byte {
	return strconv.AppendUint(addKey(b, key), v, 10)
}

func addBool(b []byte, key string, v bool) []byte { return strconv.AppendBool(addKey(b, key), v) }

func addHex(b []byte, key string, v []byte) []byte {
	b = append(addKey(b, key), '"')
	return append(hex.AppendEncode(b, v), '"')
}

// appendMillis appends a time in milliseconds, to the microsecond.
func appendMillis(b []byte, d time.Duration) []byte {
	if d < 0 {
		d = 0
	}
	us := d.Microseconds()
	b = strconv.AppendInt(b, us/1000, 10)
	if r := us % 1000; r != 0 {
		b = append(b, '.', byte('0'+r/100), byte('0'+r/10%10), byte('0'+r%10))
	}
	return b
}

// appendString appends a JSON string. It may be what a peer sent: everything
// outside printable ASCII that is not valid UTF-8 is escaped or replaced.
func appendString(b []byte, s string) []byte {
	const digits = "0123456789abcdef"
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ' || r >= 0x7f && r < 0xa0:
			b = append(b, '\\', 'u', '0', '0', digits[r>>4], digits[r&15])
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}
