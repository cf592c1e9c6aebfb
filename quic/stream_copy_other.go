//go:build !unix

package quic

// peek reports every socket readable: the read itself then waits, with a chunk in hand.
func peek(uintptr) (bool, error) { return true, nil }
