package quic

import (
	"github.com/quic-fsgw/quic-fsgw/quic/protect"
)

// Sealing in parallel. With WithSealers the batches that a connection has to send
// at one time are sealed by several goroutines, and sent in the order in which
// they were built:
//
//  1. A batch is offered to the endpoint's sealers, which share a channel; if
//     they are all busy, it is sealed here.
//  2. The next one is built meanwhile, up to sealAhead of them.
//  3. sendLine waits for the oldest, and sends it.
//
// The connection is held all the time, so what a batch is sealed from and with
// can't go away. Two batches that touch the same chunk are not sealed at once:
// headers are written into it for the moment of sealing (protect.Packet).

// sealAhead is how many batches may be sealed and not yet sent.
const sealAhead = 4

// A sealJob is a batch on its way through a sealer.
type sealJob struct {
	sealer *protect.Sealer
	flow   *protect.Flow
	batch  *outBatch
}

// WithSealers has n goroutines seal batches of packets beside those that build
// them. The default is 0. It pays only where processors are idle, and a
// connection has several batches to send at once: see docs/bulk.md.
func WithSealers(n int) EndpointOption {
	return func(e *Endpoint) { e.sealers = max(0, n) }
}

// startSealers starts the sealers, which end with the endpoint.
func (e *Endpoint) startSealers() {
	if e.sealers == 0 {
		return
	}
	e.sealJobs = make(chan sealJob)
	for range e.sealers {
		e.readers.Add(1)
		go func() {
			defer e.readers.Done()
			for {
				select {
				case j := <-e.sealJobs:
					j.batch.done <- j.sealer.Seal(j.flow, &j.batch.plain)
				case <-e.closed:
					return
				}
			}
		}()
	}
}

// sendBatch has a batch sealed and sent, now or when its turn comes: at once if
// no more follow, as there is nothing to do meanwhile. It reports whether more may
// be sent.
func (c *Conn) sendBatch(b *outBatch, more bool) bool {
	if c.ep.sealJobs == nil || !c.path.validated || !more && len(c.line) == 0 {
		// Before an address is validated what is sent there counts at once.
		n := b.count
		ok := c.sendLine(0) && c.sealBatch(b) && c.transmit(b)
		c.countSealed(n)
		return ok
	}
	if b.done == nil {
		b.done = make(chan error, 1)
	}
	for _, k := range b.chunks {
		k.sealing = true
	}
	c.app.tx.Wake() // not by two sealers at once
	b.plain.Stride, b.path, b.waits = b.segment-protect.TagLen, c.path.id, true
	c.line = append(c.line, b)
	select {
	case c.ep.sealJobs <- sealJob{&c.ep.sealer, c.app.flow, b}:
		c.stats.BatchesSealedAside++
	default:
		b.done <- c.ep.sealer.Seal(c.app.flow, &b.plain)
	}
	return len(c.line) < sealAhead || c.sendLine(sealAhead/2)
}

// uses notes that a batch is sealed from a chunk.
func (b *outBatch) uses(k *chunk) {
	if n := len(b.chunks); k != nil && (n == 0 || b.chunks[n-1] != k) {
		b.chunks = append(b.chunks, k)
	}
}

// await waits until a batch is sealed.
func (b *outBatch) await() {
	if b.waits {
		b.failed, b.waits = <-b.done, false
		for i, k := range b.chunks {
			k.sealing, b.chunks[i] = false, nil
		}
		b.chunks = b.chunks[:0]
		b.sealed()
	}
}

// awaitSealed waits until all batches in line are sealed.
func (c *Conn) awaitSealed() {
	for _, b := range c.line {
		b.await()
	}
}

// sendLine sends the oldest batches in line until keep are left, or the socket
// takes no more: then all are sealed, and wait for it. It reports whether the
// socket would take more.
func (c *Conn) sendLine(keep int) bool {
	for len(c.line) > keep && c.blocked == nil {
		b := c.line[0]
		n := copy(c.line, c.line[1:])
		c.line[n] = nil
		c.line = c.line[:n]
		b.await()
		c.sealedInLine += b.count
		switch {
		case b.failed != nil:
			c.log().Error("a batch was not sealed, and dropped", "err", b.failed)
			c.ep.stats.DropEncrypt.Add(int64(b.count))
			b.release()
		case b.path != c.path.id:
			b.release()
		default:
			c.transmit(b)
		}
	}
	if c.blocked != nil {
		c.awaitSealed()
	}
	return c.blocked == nil
}

// endLine sends all that is in line.
func (c *Conn) endLine() {
	if c.ep.sealJobs == nil {
		return
	}
	c.sendLine(0)
	n := c.sealedInLine
	c.sealedInLine = 0
	c.countSealed(n) // not before: a key update takes the key away
}

// dropLine forgets what was not sent.
func (c *Conn) dropLine() {
	c.awaitSealed()
	for _, b := range c.line {
		b.release()
	}
	c.line = nil
}
