package quic

import "github.com/quic-fsgw/quic-fsgw/quic/udp"

// Explicit congestion notification (RFC 9000, Section 13.4). What is known of
// a path's treatment of marks is kept and judged by recovery.ECN; here marks
// are put on what is sent.
//
// All datagrams of a batch carry the same mark, because it is an argument of
// the one call that sends them. Probes of all kinds carry none: what they are
// to find out must not depend on how a path treats marks.

// testECN begins to mark on a new path. RFC 9000, Section 13.4.2: "To ensure
// connectivity in the presence of such devices, an endpoint validates the ECN
// counts for each network path and disables the use of ECN on that path if
// errors are detected."
func (c *Conn) testECN() {
	if c.shard().conn().Caps().ECN {
		c.loss.EnableECN()
	}
}

// markBatch begins a batch: it decides whether its packets carry ECT(0).
func (c *Conn) markBatch(b *outBatch) {
	c.marking, c.batched = c.loss.ECNMark(), false
	b.ecn = udp.NotECT
	if c.marking {
		b.ecn = udp.ECT0
	}
}
