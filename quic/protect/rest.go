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
	if k.aead == nil {
		aead, iv, err := expand(k.version, k.suite, k.secret)
		if err != nil {
			panic("quic/protect: keys that could be made before cannot be made again: " + err.Error())
		}
		clear(iv)
		k.aead = aead
	}
	k.header.wake()
}
