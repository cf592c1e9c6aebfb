package protect

// Rest lets go of the expanded cipher keys, which are larger than everything
// else a Key holds. They are made again, once, when the key is used next.
func (k *Key) Rest() {
	if k.secret != nil && k.suite != suiteChaCha20Poly1305 {
		k.aead = nil
		k.header.block = nil
	}
}

// Wake undoes Rest ahead of the next use.
func (k *Key) Wake() {
	if k.secret == nil {
		return // zeroed
	}
	k.wakeAEAD()
	k.header.wake()
}

// WakeLike is Wake for a key of another phase than awake, whose header protection
// is the same (RFC 9001, Section 5.4).
func (k *Key) WakeLike(awake *Key) {
	if k.secret == nil {
		return
	}
	k.wakeAEAD()
	k.header.block = awake.header.block
}

func (k *Key) wakeAEAD() {
	if k.aead != nil {
		return
	}
	var err error
	if k.aead, err = newAEAD(k.suite, k.key); err != nil {
		panic("quic/protect: a key that a cipher was made of before is good for no other: " + err.Error())
	}
}
