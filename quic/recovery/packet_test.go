package recovery

import "testing"

func TestSpaceString(t *testing.T) {
	for s, want := range map[Space]string{Initial: "initial", Handshake: "handshake", AppData: "appdata", NumSpaces: "invalid"} {
		if got := s.String(); got != want {
			t.Errorf("Space(%d) = %q, want %q", uint8(s), got, want)
		}
	}
}

// Records come back in order whether they fit the packet or overflow it, and
// what the sender does with its packet afterwards does not touch the copy.
func TestRecords(t *testing.T) {
	for _, n := range []int{0, 1, inlineRecords, inlineRecords + 1, 40} {
		r := newRig(t)
		var p SentPacket
		p.AckEliciting, p.Size = true, 100
		for i := range n {
			p.Add(Record{Kind: 8, ID: uint64(i), Off: 7, Len: 3, Fin: i&1 == 1})
		}
		r.sendPacket(AppData, p)
		p.Reset()
		for range n {
			p.Add(Record{Kind: 99})
		}
		seen := 0
		_, err := r.loss.Ack(r.now, AppData, []AckRange{{0, 0}}, nil, 0, r.state, &r.rtt, r.cc, func(q *SentPacket) {
			q.Records(func(rec Record) {
				if want := (Record{Kind: 8, ID: uint64(seen), Off: 7, Len: 3, Fin: seen&1 == 1}); rec != want {
					t.Errorf("%d records: record %d is %+v, want %+v", n, seen, rec, want)
				}
				if q.At(seen) != rec {
					t.Errorf("At(%d) differs from Records", seen)
				}
				seen++
			})
		}, nil)
		if err != nil || seen != n {
			t.Errorf("saw %d records of %d, error %v", seen, n, err)
		}
	}
}

func TestRing(t *testing.T) {
	var r ring
	pn := uint64(0)
	push := func(n int) {
		for range n {
			r.push(&SentPacket{PN: pn})
			pn += 1 + pn%3/2 // gaps after every third or so
		}
	}
	check := func() {
		t.Helper()
		for i := 1; i < r.n; i++ {
			if r.at(i-1).PN >= r.at(i).PN {
				t.Fatalf("position %d: %d before %d", i, r.at(i-1).PN, r.at(i).PN)
			}
		}
		for want := uint64(0); want < pn+2; want++ {
			i := r.search(want)
			if i < r.n && r.at(i).PN < want || i > 0 && r.at(i-1).PN >= want {
				t.Fatalf("search(%d) = %d of %d", want, i, r.n)
			}
		}
	}
	push(5)
	check()
	for range 3 {
		r.pop()
	}
	push(100) // wraps and grows
	check()
	for r.n > 0 {
		r.pop()
	}
	if got := r.search(7); got != 0 {
		t.Fatalf("search in an empty ring = %d", got)
	}
	big := len(r.buf)
	// A ring that stays nearly empty gives its memory back.
	for range 10 * dryRuns {
		push(1)
		r.pop()
	}
	if len(r.buf) != minRing || big <= minRing {
		t.Fatalf("ring of %d shrank to %d, want %d", big, len(r.buf), minRing)
	}
}
