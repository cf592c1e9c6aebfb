package devserver

import (
	"container/list"
	"crypto/rand"
	"encoding/binary"
	"slices"
	"strings"
	"sync"
)

// maxHandles bounds the handles that are known at once; the one unused for
// longest becomes stale. The root's is never dropped.
const maxHandles = 1 << 18

// handles gives paths their file handles: 8 random octets of this process,
// so that a handle of another one is stale, and a number.
type handles struct {
	key [8]byte

	mu     sync.Mutex
	next   uint64
	byPath map[string]*list.Element
	byID   map[uint64]*list.Element
	recent list.List // of *handleEntry, latest first
}

type handleEntry struct {
	id   uint64
	path string // elements joined by slashes, "" is the root
}

func newHandles() *handles {
	h := &handles{byPath: map[string]*list.Element{}, byID: map[uint64]*list.Element{}}
	rand.Read(h.key[:])
	return h
}

func (h *handles) handle(p []string) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := strings.Join(p, "/")
	e := h.byPath[key]
	if e == nil {
		if len(h.byID) >= maxHandles {
			h.drop(h.recent.Back())
		}
		h.next++
		e = h.recent.PushFront(&handleEntry{h.next, key})
		h.byPath[key], h.byID[h.next] = e, e
	}
	h.touch(e)
	return binary.BigEndian.AppendUint64(slices.Clone(h.key[:]), e.Value.(*handleEntry).id)
}

// touch marks e as used, the root always as used last of all.
func (h *handles) touch(e *list.Element) {
	h.recent.MoveToFront(e)
	if root := h.byPath[""]; root != nil {
		h.recent.MoveToFront(root)
	}
}

// path returns the elements of a handle's path in a slice of its own.
func (h *handles) path(b []byte) ([]string, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(b) != 16 || string(b[:8]) != string(h.key[:]) {
		return nil, false
	}
	e := h.byID[binary.BigEndian.Uint64(b[8:])]
	if e == nil {
		return nil, false
	}
	h.touch(e)
	if p := e.Value.(*handleEntry).path; p != "" {
		return slices.Clip(strings.Split(p, "/")), true
	}
	return []string{}, true
}

func (h *handles) drop(e *list.Element) {
	x := e.Value.(*handleEntry)
	h.recent.Remove(e)
	delete(h.byID, x.id)
	delete(h.byPath, x.path)
}

// forget makes the handle of a removed path stale.
func (h *handles) forget(p []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e := h.byPath[strings.Join(p, "/")]; e != nil && len(p) > 0 {
		h.drop(e)
	}
}

// rename lets the handles of from, and of all below it, stand for to.
func (h *handles) rename(from, to []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	old, now := strings.Join(from, "/"), strings.Join(to, "/")
	if old == now {
		return
	}
	var moved []*list.Element
	for key, e := range h.byPath {
		switch {
		case key == now || strings.HasPrefix(key, now+"/"):
			h.drop(e)
		case key == old || strings.HasPrefix(key, old+"/"):
			moved = append(moved, e)
		}
	}
	for _, e := range moved {
		x := e.Value.(*handleEntry)
		delete(h.byPath, x.path)
		x.path = now + x.path[len(old):]
		h.byPath[x.path] = e
	}
}
