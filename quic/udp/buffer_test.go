package udp

import (
	"sync"
	"testing"
)

func TestBufferCountsAndReuse(t *testing.T) {
	start := Outstanding()
	b, batch := NewBuffer(), NewBatch()
	if len(b.Bytes()) != BufferSize || len(batch.Bytes()) != BufferSize {
		t.Fatalf("sizes %d %d", len(b.Bytes()), len(batch.Bytes()))
	}
	if got := Outstanding() - start; got != 2 {
		t.Fatalf("outstanding %d, want 2", got)
	}
	b.Retain()
	b.Release()
	if b.Refs() != 1 || Outstanding()-start != 2 {
		t.Fatalf("a retained buffer was given back early: refs %d", b.Refs())
	}
	b.Release()
	batch.Release()
	if got := Outstanding() - start; got != 0 {
		t.Fatalf("outstanding %d, want 0", got)
	}
	if again := NewBuffer(); again != b {
		t.Error("a released buffer was not reused")
	} else {
		again.Release()
	}
}

func TestBufferMisusePanics(t *testing.T) {
	for name, misuse := range map[string]func(*Buffer){
		"release": (*Buffer).Release,
		"retain":  (*Buffer).Retain,
	} {
		t.Run(name, func(t *testing.T) {
			// Not of the shared pools: a misused buffer must not end up in them.
			p := pool{size: 1, keep: 0}
			b := p.get()
			b.Release()
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			misuse(b)
		})
	}
}

func TestPoolIsBounded(t *testing.T) {
	p := pool{size: 16, keep: 4}
	var all []*Buffer
	for range 20 {
		all = append(all, p.get())
	}
	for _, b := range all {
		b.Release()
	}
	if len(p.free) != 4 || p.out.Load() != 0 {
		t.Fatalf("%d kept, want 4; %d out", len(p.free), p.out.Load())
	}
}

func TestBufferConcurrent(t *testing.T) {
	start := Outstanding()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				b := NewBuffer()
				b.Retain()
				done := make(chan struct{})
				go func() { b.Release(); close(done) }()
				b.Release()
				<-done
			}
		})
	}
	wg.Wait()
	if got := Outstanding(); got != start {
		t.Fatalf("outstanding %d, want %d", got, start)
	}
}
