package protect

// Next derives the key of the next key phase. k stays usable: packets of the
// old phase may still be on their way.
//
// RFC 9001, Section 6.1: "secret_<n+1> = HKDF-Expand-Label(secret_<n>, "quic
// ku", "", Hash.length)" "The header protection key is not updated."
func (k *Key) Next() (*Key, error) {
	if k.secret == nil {
		return nil, ErrZeroed
	}
	p, err := paramsOf(k.version)
	if err != nil {
		return nil, err
	}
	s, err := suiteOf(k.suite)
	if err != nil {
		return nil, err
	}
	secret, err := s.expand(k.secret, p.kuLabel, s.hashLen)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	next, err := newPayloadKey(k.version, k.suite, secret)
	if err != nil {
		return nil, err
	}
	next.header = k.header.clone()
	return next, nil
}
