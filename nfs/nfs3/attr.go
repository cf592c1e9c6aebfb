package nfs3

import (
	"io/fs"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv3"
)

// Handle is a file handle: 1 to 64 octets that only the server understands.
// The empty Handle stands for "none".
type Handle string

// Attr holds the attributes of a file, RFC 1813 fattr3: Mode has the
// permission bits and setuid, setgid, sticky; sizes are octets.
type Attr = nfsv3.Fattr3

// Time converts a protocol time.
func Time(t nfsv3.Nfstime3) time.Time { return time.Unix(int64(t.Seconds), int64(t.Nseconds)) }

// protocolTime clamps t to what 32 unsigned bits of seconds can say
// (1970 to 2106).
func protocolTime(t time.Time) nfsv3.Nfstime3 {
	switch s := t.Unix(); {
	case s < 0:
		return nfsv3.Nfstime3{}
	case s > 1<<32-1:
		return nfsv3.Nfstime3{Seconds: 1<<32 - 1}
	default:
		return nfsv3.Nfstime3{Seconds: uint32(s), Nseconds: uint32(t.Nanosecond())}
	}
}

// FileMode translates type and permissions.
func FileMode(a *Attr) fs.FileMode {
	m := fs.FileMode(a.Mode & 0o777)
	if a.Mode&0o4000 != 0 {
		m |= fs.ModeSetuid
	}
	if a.Mode&0o2000 != 0 {
		m |= fs.ModeSetgid
	}
	if a.Mode&0o1000 != 0 {
		m |= fs.ModeSticky
	}
	switch a.Type {
	case nfsv3.NF3DIR:
		m |= fs.ModeDir
	case nfsv3.NF3LNK:
		m |= fs.ModeSymlink
	case nfsv3.NF3BLK:
		m |= fs.ModeDevice
	case nfsv3.NF3CHR:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case nfsv3.NF3SOCK:
		m |= fs.ModeSocket
	case nfsv3.NF3FIFO:
		m |= fs.ModeNamedPipe
	}
	return m
}

// ProtocolMode is the inverse of [FileMode] for the twelve permission bits.
func ProtocolMode(m fs.FileMode) uint32 {
	v := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		v |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		v |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		v |= 0o1000
	}
	return v
}

// FileInfo describes one file; it is an fs.FileInfo whose Sys is an *Attr.
type FileInfo struct {
	name   string
	attr   Attr
	handle Handle
}

func (i *FileInfo) Name() string       { return i.name }
func (i *FileInfo) Size() int64        { return int64(min(i.attr.Size, 1<<63-1)) }
func (i *FileInfo) Mode() fs.FileMode  { return FileMode(&i.attr) }
func (i *FileInfo) ModTime() time.Time { return Time(i.attr.Mtime) }
func (i *FileInfo) IsDir() bool        { return i.attr.Type == nfsv3.NF3DIR }
func (i *FileInfo) Sys() any           { return &i.attr }

// Handle returns the file's handle.
func (i *FileInfo) Handle() Handle { return i.handle }

// SetAttr says which attributes to change; nil fields stay.
type SetAttr struct {
	Mode         *uint32
	UID, GID     *uint32
	Size         *uint64
	Atime, Mtime *time.Time
}

func appendOptUint32(b []byte, v *uint32) []byte {
	if v == nil {
		return appendBool(b, false)
	}
	return appendUint32(appendBool(b, true), *v)
}

func appendOptTime(b []byte, t *time.Time) []byte {
	if t == nil {
		return appendUint32(b, uint32(nfsv3.DONT_CHANGE))
	}
	p := protocolTime(*t)
	b = appendUint32(b, uint32(nfsv3.SET_TO_CLIENT_TIME))
	return appendUint32(appendUint32(b, p.Seconds), p.Nseconds)
}

func (s *SetAttr) append(b []byte) []byte {
	b = appendOptUint32(b, s.Mode)
	b = appendOptUint32(b, s.UID)
	b = appendOptUint32(b, s.GID)
	if s.Size == nil {
		b = appendBool(b, false)
	} else {
		b = appendUint64(appendBool(b, true), *s.Size)
	}
	b = appendOptTime(b, s.Atime)
	return appendOptTime(b, s.Mtime)
}
