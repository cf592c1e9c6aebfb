package nfs

import (
	"encoding/binary"
	"path"
	"strings"
)

// A limit on paths for NFSv4, which has no MOUNT: the names that a client looks
// up from the root in the COMPOUND that begins there. Like the limit on MOUNT it
// is for usability, no boundary: who has a file handle, by whatever way, uses it
// (docs/threat-model.md).
//
// A name outside is not answered here, since that would take the place of a
// session's slot in the server. It is overwritten by one that no server looks
// up, and the server refuses it in its turn.

// maxPathCall is how much of a COMPOUND is looked at: the operations from the
// root on come first, and paths are short.
const maxPathCall = 2048

// Operations of COMPOUND (RFC 7531, RFC 5662) that may stand before or between LOOKUPs.
const (
	procCompound = 1

	opAccess    = 3
	opGetAttr   = 9
	opGetFH     = 10
	opLookup    = 15
	opLookupP   = 16
	opPutRootFH = 24
	opSaveFH    = 32
	opSequence  = 53

	maxComponent = 255
	maxBitmap    = 8
)

// limitWalk judges the beginning of a COMPOUND's arguments. It reports whether
// it has overwritten a name; what it does not understand ends the look.
func (e Exports) limitWalk(args []byte) bool {
	d := decoder{b: args}
	d.opaque(1024) // tag
	d.uint32()     // minor version
	at := ""       // "": not on a walk from the root
	for n := d.uint32(); n > 0 && !d.bad; n-- {
		switch d.uint32() {
		case opSequence:
			for range 8 { // session of 16 octets, sequence, slot, highest slot, cachethis
				d.uint32()
			}
		case opPutRootFH:
			at = "/"
		case opAccess:
			d.uint32()
		case opGetAttr:
			words := d.uint32()
			if words > maxBitmap {
				return false
			}
			for range words {
				d.uint32()
			}
		case opGetFH, opSaveFH:
		case opLookupP:
			at = path.Dir(at)
		case opLookup:
			name := d.opaque(maxComponent)
			if d.bad || at == "" || !plainName(name) {
				return false // the server judges it
			}
			if at = path.Join(at, string(name)); !e.towards(at) {
				for i := range name {
					name[i] = '/'
				}
				return true
			}
		default:
			return false
		}
	}
	return false
}

// plainName reports whether a component names an entry of its directory.
func plainName(b []byte) bool {
	return len(b) > 0 && string(b) != "." && string(b) != ".." && !strings.ContainsAny(string(b), "/\x00")
}

// towards reports whether p is at or below a root, or on the way to one.
func (e Exports) towards(p string) bool {
	for _, root := range e {
		if root == "/" || p == root || strings.HasPrefix(p, root+"/") || strings.HasPrefix(root, p+"/") {
			return true
		}
	}
	return false
}

// limited reports whether the call's paths are looked at.
func (k *callSink) limited(c *Call) bool {
	return c.Program == ProgNFS && c.Version == 4 && c.Procedure == procCompound && k.auth != nil && len(k.s.r.svc.v4) > 0
}

// compound collects the beginning of a COMPOUND and forwards it.
func (k *callSink) compound(p []byte) error {
	k.head = append(k.head, p...)
	if len(k.head) < k.need && k.frame.rem > 0 {
		return nil
	}
	return k.endWalk()
}

// endWalk forwards what was collected, with a name that is outside overwritten.
func (k *callSink) endWalk() error {
	if k.s.r.svc.v4.limitWalk(k.head[k.need-maxPathCall:]) {
		k.s.refused.Add(1)
		k.s.r.svc.log.Debug("nfs LOOKUP outside of v4_exports", "xid", binary.BigEndian.Uint32(k.head))
	}
	k.state = stateForward
	return k.to.queueHead(k.frame.markValue(len(k.head)+int(k.frame.rem)), k.head)
}
