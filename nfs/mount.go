package nfs

import (
	"bytes"
	"fmt"
	"path"
	"strings"
)

// MOUNT procedures (RFC 1813, Section 5.2; RFC 1094, Appendix A).
const (
	mountNull      = 0
	mountMNT       = 1
	mountDump      = 2
	mountUMNT      = 3
	mountUMNTAll   = 4
	mountExport    = 5
	mountExportAll = 6 // versions 1 and 2
	mountPathconf  = 7 // version 2

	mntErrAccess = 13 // MNT3ERR_ACCES, and NFSERR_ACCES in versions 1 and 2

	maxMountPath = 1024 // MNTPATHLEN
	maxMountName = 255  // MNTNAMLEN
	// maxMountList caps an EXPORT or DUMP reply, which is held whole to be filtered.
	maxMountList = 1 << 20
)

// Exports are the roots that may be mounted, cleaned; none means all.
type Exports []string

// ParseExports checks a configured list of roots.
func ParseExports(list []string) (Exports, error) {
	var e Exports
	for _, p := range list {
		if !strings.HasPrefix(p, "/") || strings.ContainsRune(p, 0) || len(p) > maxMountPath {
			return nil, fmt.Errorf("nfs: export %q is not an absolute path of at most %d bytes", p, maxMountPath)
		}
		e = append(e, path.Clean(p))
	}
	return e, nil
}

// clean returns the path to ask the backend for, and whether it is allowed. What is
// judged is what is sent: the backend never sees a ".." to resolve in its own way.
func (e Exports) clean(dir []byte) (string, bool) {
	if len(dir) == 0 || dir[0] != '/' || bytes.IndexByte(dir, 0) >= 0 {
		return "", false
	}
	p := path.Clean(string(dir))
	if len(e) == 0 {
		return p, true
	}
	for _, root := range e {
		if p == root || root == "/" || strings.HasPrefix(p, root+"/") {
			return p, true
		}
	}
	return "", false
}

// mountAction is what becomes of a MOUNT call.
type mountAction uint8

const (
	mountForward mountAction = iota // send it with the arguments returned
	mountAnswer                     // the reply is complete
	mountList                       // ask the backend, filter what it says
)

// mountCall decides on a MOUNT call whose arguments are complete. It returns the arguments to
// forward, or the reply, a whole record.
func (e Exports) mountCall(c *Call, args []byte) (mountAction, []byte) {
	switch {
	case c.Procedure == mountNull:
		return mountForward, nil
	case c.Procedure == mountMNT, c.Procedure == mountUMNT, c.Procedure == mountPathconf && c.Version == 2:
	case c.Procedure == mountUMNTAll:
		// To the backend all clients of the gateway are one host: this would
		// remove everybody's entries. They are only informative; success is true enough.
		return mountAnswer, AppendSuccess(nil, c.XID, nil)
	case c.Procedure == mountExport, c.Procedure == mountDump, c.Procedure == mountExportAll && c.Version < 3:
		return mountList, nil
	default:
		return mountAnswer, AppendAcceptError(nil, c.XID, AcceptProcUnavail)
	}
	d := decoder{b: args}
	dir := d.opaque(maxMountPath)
	if d.bad || len(d.b) != 0 {
		return mountAnswer, AppendAcceptError(nil, c.XID, AcceptGarbageArgs)
	}
	if p, ok := e.clean(dir); ok {
		return mountForward, appendOpaque(nil, p)
	}
	switch c.Procedure {
	case mountMNT:
		return mountAnswer, AppendSuccess(nil, c.XID, be32(nil, mntErrAccess))
	case mountUMNT: // has no result, and nothing was mounted
		return mountAnswer, AppendSuccess(nil, c.XID, nil)
	}
	return mountAnswer, AppendAcceptError(nil, c.XID, AcceptSystemErr)
}

// filterList rewrites the results of EXPORT or DUMP so that they show allowed paths only.
// Host names are replaced: they describe the backend's network, and to the
// backend this client is the gateway anyway. An export without groups is open to everyone who sees it.
func (e Exports) filterList(procedure uint32, results []byte) ([]byte, error) {
	d := decoder{b: results}
	var out []byte
	for d.uint32() != 0 {
		if procedure == mountDump {
			d.opaque(maxMountName)
		}
		dir := d.opaque(maxMountPath)
		if procedure != mountDump {
			for d.uint32() != 0 {
				d.opaque(maxMountName)
			}
		}
		if d.bad {
			break
		}
		if _, ok := e.clean(dir); !ok {
			continue
		}
		out = be32(out, 1)
		if procedure == mountDump {
			out = appendOpaque(out, machineName)
		}
		out = appendOpaque(out, dir)
		if procedure != mountDump {
			out = be32(out, 0)
		}
	}
	if d.bad || len(d.b) != 0 {
		return nil, fmt.Errorf("nfs: backend's MOUNT list is malformed")
	}
	return be32(out, 0), nil
}
