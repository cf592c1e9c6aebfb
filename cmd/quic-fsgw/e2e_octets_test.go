//go:build linux

package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"io"
)

// octets yields random octets without end, at gigabytes a second.
type octets struct{ cipher.Stream }

func newOctets() io.Reader {
	var key [32]byte
	rand.Read(key[:])
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the key has the right size
	}
	return octets{cipher.NewCTR(block, make([]byte, aes.BlockSize))}
}

func (o octets) Read(b []byte) (int, error) {
	clear(b)
	o.XORKeyStream(b, b)
	return len(b), nil
}
