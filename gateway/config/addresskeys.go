package config

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
)

// maxAddressKeys is how many keys of address tokens may be good at a time.
const maxAddressKeys = 16

// LoadAddressKeys reads the file of quic.address_keys: a key of 64 hexadecimal
// digits a line, at most 16; empty lines and lines that begin with # do not
// count. To rotate, put a new key on the first line and give the file to all that
// share it; a key may go when its tokens have expired, after 24 hours.
func LoadAddressKeys(name string) ([][32]byte, error) {
	text, err := readBounded(name, 64<<10)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	keys, err := parseAddressKeys(text)
	if err != nil {
		return nil, fmt.Errorf("%s:%w", name, err)
	}
	return keys, nil
}

func parseAddressKeys(text []byte) ([][32]byte, error) {
	var keys [][32]byte
	for i, line := range bytes.Split(text, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		var k [32]byte
		if len(line) != hex.EncodedLen(len(k)) {
			return nil, fmt.Errorf("%d: %d characters, want %d hexadecimal digits (openssl rand -hex 32)", i+1, len(line), hex.EncodedLen(len(k)))
		}
		if _, err := hex.Decode(k[:], line); err != nil {
			return nil, fmt.Errorf("%d: not hexadecimal (openssl rand -hex 32)", i+1)
		}
		if keys = append(keys, k); len(keys) > maxAddressKeys {
			return nil, fmt.Errorf("%d: more than %d keys", i+1, maxAddressKeys)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New(" no key in it (openssl rand -hex 32)")
	}
	return keys, nil
}
