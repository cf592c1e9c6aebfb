package main

import (
	"context"
	"errors"
	"flag"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"
)

// proxyQueue bounds the datagrams under way in one direction, as a router's
// memory would.
const proxyQueue = 16 << 10

type delayed struct {
	due time.Time
	b   []byte
}

// runProxy carries the datagrams of one client to a server and back. Each
// waits for half of the round trip and may be lost.
func runProxy(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("proxy", flag.ContinueOnError)
	listen := fs.String("listen", "127.0.0.1:0", "`address` for the client")
	to := fs.String("to", "", "`address` of the server")
	rtt := fs.Duration("rtt", 20*time.Millisecond, "round trip that is added")
	loss := fs.Float64("loss", 0, "share of datagrams that are lost, each way")
	if err := fs.Parse(args); err != nil {
		return err
	}
	front, err := net.ListenPacket("udp", *listen)
	if err != nil {
		return err
	}
	back, err := net.Dial("udp", *to)
	if err != nil {
		return errors.Join(err, front.Close())
	}
	context.AfterFunc(ctx, func() { _, _ = front.Close(), back.Close() })
	f, b := front.(*net.UDPConn), back.(*net.UDPConn)
	for _, c := range []*net.UDPConn{f, b} {
		_, _ = c.SetReadBuffer(4<<20), c.SetWriteBuffer(4<<20) // as much as the system gives
	}
	ready(f.LocalAddr())
	var mu sync.Mutex
	var client netip.AddrPort
	var wg sync.WaitGroup
	wg.Go(func() {
		carry(ctx, *rtt/2, *loss, func(p []byte) (int, error) {
			n, from, err := f.ReadFromUDPAddrPort(p)
			mu.Lock()
			client = from
			mu.Unlock()
			return n, err
		}, func(p []byte) { _, _ = b.Write(p) })
	})
	wg.Go(func() {
		carry(ctx, *rtt/2, *loss, b.Read, func(p []byte) {
			mu.Lock()
			to := client
			mu.Unlock()
			_, _ = f.WriteToUDPAddrPort(p, to)
		})
	})
	wg.Wait()
	return ctx.Err()
}

// carry is one direction: datagrams leave in order, each after delay.
func carry(ctx context.Context, delay time.Duration, loss float64, read func([]byte) (int, error), write func([]byte)) {
	queue := make(chan delayed, proxyQueue)
	free := sync.Pool{New: func() any { return new([2048]byte) }}
	go func() {
		defer close(queue)
		for {
			b := free.Get().(*[2048]byte)
			n, err := read(b[:])
			if err != nil {
				if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
					return
				}
				continue // nobody listens there yet
			}
			if rand.Float64() < loss {
				continue
			}
			select {
			case queue <- delayed{time.Now().Add(delay), b[:n]}:
			default: // the queue is full: lost
			}
		}
	}()
	for d := range queue {
		if wait := time.Until(d.due); wait > 0 {
			time.Sleep(wait)
		}
		write(d.b)
		free.Put((*[2048]byte)(d.b[:2048]))
	}
}
