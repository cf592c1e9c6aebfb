package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/perf"
	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// The floor: what any Go program pays that seals datagrams, masks their headers
// and sends them in batches, or receives batches, unmasks and opens them. There
// is no protocol: nothing is acknowledged, remembered, ordered or sent again.

const (
	floorHeader = 13 // first byte, 10 bytes of connection ID, 2 of packet number
	floorPNLen  = 2
	suiteAES128 = 0x1301
)

func floorKey() (*protect.Key, error) {
	return protect.NewKey(wire.Version1, suiteAES128, make([]byte, 32))
}

// floorClient sends o.upload bytes and then says that it is done.
func floorClient(ctx context.Context, o *options) (*perf.Result, error) {
	key, err := floorKey()
	if err != nil {
		return nil, err
	}
	to, err := netip.ParseAddrPort(o.addr)
	if err != nil {
		return nil, err
	}
	sock, err := udp.ListenOne(netip.MustParseAddrPort("127.0.0.1:0"), udp.Config{})
	if err != nil {
		return nil, err
	}
	defer sock.Close()
	segments := min(udp.MaxPayload/o.payload, sock.Caps().MaxSegments)
	per := o.payload - floorHeader - protect.TagLen
	batch, plain := make([]byte, segments*o.payload), make([]byte, segments*per)
	var m perf.Meter
	m.Start(nil)
	var sent, packets uint64
	for sent < o.upload && ctx.Err() == nil {
		for i := range segments {
			slot := batch[i*o.payload : i*o.payload : (i+1)*o.payload]
			slot = append(slot, 0x41, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, byte(packets>>8), byte(packets))
			slot = key.Seal(slot, plain[i*per:(i+1)*per], slot, packets&0xffff)
			key.ProtectHeader(slot, floorHeader-floorPNLen, floorPNLen)
			packets++
		}
		if err := floorSend(sock, &udp.SendMsg{Data: batch, SegmentSize: o.payload, Remote: to}); err != nil {
			return nil, err
		}
		sent += uint64(segments * per)
	}
	r := m.Stop(nil, "client", sent, time.Time{})
	r.Packets, r.PacketsSent, r.DatagramSize, r.PerBatch, r.GSO = packets, packets, o.payload, float64(segments), segments > 1
	return r, floorSend(sock, &udp.SendMsg{Data: []byte{0}, Remote: to})
}

func floorSend(sock *udp.Socket, m *udp.SendMsg) error {
	for {
		err := sock.Send(m)
		if !errors.Is(err, udp.ErrWouldBlock) {
			return err
		}
		again := make(chan struct{})
		sock.OnWritable(func() { close(again) })
		<-again
	}
}

// floorServer receives until it is told that all was sent.
func floorServer(ctx context.Context, o *options) error {
	key, err := floorKey()
	if err != nil {
		return err
	}
	addr, err := netip.ParseAddrPort(o.addr)
	if err != nil {
		return err
	}
	sock, err := udp.ListenOne(addr, udp.Config{})
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = sock.Close() })
	ready(sock.LocalAddr())
	buf := make([]byte, udp.MinRecvBuffer)
	var m perf.Meter
	var bytes, packets uint64
	for {
		msg := udp.RecvMsg{Buf: buf}
		if err := sock.Recv(&msg); err != nil {
			return ctx.Err()
		}
		if packets == 0 {
			m.Start(nil)
		}
		if msg.N == 1 {
			r := m.Stop(nil, "server", bytes, time.Time{})
			r.Packets, r.PacketsReceived, r.DatagramSize, r.GRO = packets, packets, o.payload, sock.Caps().GRO
			if err := r.Write(os.Stdout, true); err != nil {
				return err
			}
			bytes, packets = 0, 0
			continue
		}
		for data := msg.Buf[:msg.N]; len(data) > 0; {
			b := data[:min(msg.SegmentSize, len(data))]
			data = data[len(b):]
			n, err := floorOpen(key, b)
			if err != nil {
				return err
			}
			bytes += uint64(n)
			packets++
		}
	}
}

func floorOpen(key *protect.Key, b []byte) (int, error) {
	_, pn, ok := key.UnprotectHeader(b, floorHeader-floorPNLen)
	if !ok {
		return 0, errors.New("short datagram")
	}
	payload, err := key.Open(b[floorHeader:floorHeader], b[floorHeader:], b[:floorHeader], pn)
	if err != nil {
		return 0, fmt.Errorf("packet %d: %w", pn, err)
	}
	return len(payload), nil
}
