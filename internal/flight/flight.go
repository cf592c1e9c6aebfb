// Package flight makes first flights of QUIC clients in advance, for tests that
// send more of them than a client could compute.
package flight

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// size is that of each datagram, bytes.
const size = 1200

// Initials returns the datagrams of n connections, each with its own connection
// ID and all with the ClientHello that cfg makes. The connection ID is "flood"
// and the connection's number, eight bytes.
func Initials(t testing.TB, n int, cfg *tls.Config) (out [][]byte) {
	t.Helper()
	src, _ := wire.MakeConnID([]byte("flooder"))
	hello := clientHello(t, cfg, src)
	for i := range n {
		id := binary.BigEndian.AppendUint64([]byte("flood"), uint64(i))
		out = append(out, initials(id, src, hello)...)
	}
	return out
}

func clientHello(t testing.TB, cfg *tls.Config, src wire.ConnID) (hello []byte) {
	t.Helper()
	q := tls.QUICClient(&tls.QUICConfig{TLSConfig: cfg})
	defer q.Close()
	params := wire.TransportParams{InitialSrc: src, HasInitialSrc: true, InitialMaxData: 1 << 20, ActiveConnIDLimit: 2}
	q.SetTransportParameters(params.Append(nil, false))
	if err := q.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	for e := q.NextEvent(); e.Kind != tls.QUICNoEvent; e = q.NextEvent() {
		if e.Kind == tls.QUICWriteData {
			hello = append(hello, e.Data...)
		}
	}
	return hello
}

// initials are the packets of one connection.
func initials(id []byte, src wire.ConnID, hello []byte) (out [][]byte) {
	const most = 1000 // of the ClientHello in a packet
	dst, _ := wire.MakeConnID(id)
	key, _ := protect.InitialKeys(wire.Version1, id)
	for off, pn := 0, uint64(0); off < len(hello); pn++ {
		b, lengthAt := wire.AppendLong(make([]byte, 0, size), wire.PacketInitial, wire.Version1, dst, src, nil, pn, 2)
		hdr := len(b)
		part := hello[off:min(len(hello), off+most)]
		b = append(wire.AppendCryptoHeader(b, uint64(off), len(part)), part...)
		off += len(part)
		b = wire.AppendPadding(b, size-protect.TagLen-len(b))
		wire.SetLength(b, lengthAt, 2+len(b)-hdr+protect.TagLen)
		b = key.Seal(b[:hdr], b[hdr:], b[:hdr], pn)
		key.ProtectHeader(b, hdr-2, 2)
		out = append(out, b)
	}
	return out
}
