// Package gcm is AES-GCM for packets (NIST SP 800-38D with nonces of 12 bytes),
// for processors that encrypt and hash four blocks at once (VAES and VPCLMULQDQ
// with AVX-512): the standard library takes one at a time, which is more than a
// third of all that a bulk transfer costs. Everywhere else, and where FIPS 140 is
// asked for, there is the standard library's.
//
// GODEBUG=cpu.avx512vaes=off in the environment, or the build tag purego, leaves
// all of it to the standard library.
package gcm

import "crypto/cipher"

// New returns AES-GCM with a key of 16 or 32 bytes, or false if the processor
// does not do what this package needs. What New returns may be used by several
// goroutines. Its Seal and Open want bytes that lie exactly over each other, or do
// not overlap at all.
func New(key []byte) (cipher.AEAD, bool) { return newAEAD(key) }
