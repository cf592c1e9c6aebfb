package nfs3

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv3"
)

const (
	nfsProgram   = nfsv3.NFS_PROGRAM_PROGRAM_NUMBER
	nfsVersion   = 3
	maxName      = 255
	maxPath      = 4096
	firstJukebox = 100 * time.Millisecond
)

// Procedure numbers, RFC 1813 section 3.
const (
	procNull        = 0
	procGetattr     = 1
	procSetattr     = 2
	procLookup      = 3
	procAccess      = 4
	procReadlink    = 5
	procRead        = 6
	procWrite       = 7
	procCreate      = 8
	procMkdir       = 9
	procSymlink     = 10
	procRemove      = 12
	procRmdir       = 13
	procRename      = 14
	procLink        = 15
	procReaddir     = 16
	procReaddirplus = 17
	procFsstat      = 18
	procFsinfo      = 19
	procPathconf    = 20
	procCommit      = 21
)

// CheckName reports whether name may stand for one directory entry: 1 to 255
// octets, no slash, no NUL, neither "." nor "..". Names a server sends are
// held to it too: they become local file names.
func CheckName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > maxName || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%w: %q is no file name", ErrMalformed, name)
	}
	return nil
}

// checkOwnName is CheckName for a name of the caller's.
func checkOwnName(op, name string) error {
	if len(name) > maxName {
		return &Error{Op: op, Name: name, Status: nfsv3.NFS3ERR_NAMETOOLONG}
	}
	if CheckName(name) != nil {
		return &Error{Op: op, Name: name, Status: nfsv3.NFS3ERR_INVAL}
	}
	return nil
}

// do runs one procedure whose result begins with a status, and returns a
// decoder behind a status of NFS3_OK. The buffer goes back to the pool.
func (c *Conn) do(ctx context.Context, op, name string, p *[]byte) (*decoder, error) {
	defer c.buffers.Put(p)
	d := new(decoder)
	err := c.retry(ctx, op, name, func() (uint32, error) {
		cl := &call{limit: c.cfg.MaxReply}
		if err := c.roundTrip(ctx, *p, nil, cl); err != nil {
			return 0, err
		}
		*d = decoder{b: cl.reply}
		status := d.uint32()
		return status, d.err
	})
	return d, err
}

// retry runs try until its status is not "try later", for up to the
// connection's timeout.
//
// RFC 1813, Section 2.6, NFS3ERR_JUKEBOX: "The client should wait a while
// and then try the request with a new RPC transaction ID."
func (c *Conn) retry(ctx context.Context, op, name string, try func() (uint32, error)) error {
	giveUp := time.Now().Add(c.cfg.Timeout)
	for wait := firstJukebox; ; wait = min(2*wait, 5*time.Second) {
		status, err := try()
		if err != nil {
			return wrapCall(op, name, err)
		}
		if status != uint32(nfsv3.NFS3ERR_JUKEBOX) || time.Now().Add(wait).After(giveUp) {
			return statusError(op, name, status)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return wrapCall(op, name, ctx.Err())
		}
	}
}

func wrapCall(op, name string, err error) error {
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	if name == "" {
		return fmt.Errorf("nfs %s: %w", op, err)
	}
	return fmt.Errorf("nfs %s %q: %w", op, name, err)
}

func finish(op, name string, d *decoder) error {
	if err := d.end(); err != nil {
		return wrapCall(op, name, err)
	}
	return nil
}

func (c *Conn) nfs(proc uint32, h Handle) *[]byte {
	p := c.begin(nfsProgram, nfsVersion, proc)
	*p = appendOpaque(*p, h)
	return p
}

// Null does nothing: is the service there?
func (c *Conn) Null(ctx context.Context) error { return c.null(ctx, nfsProgram, nfsVersion) }

func (c *Conn) null(ctx context.Context, prog, vers uint32) error {
	p := c.begin(prog, vers, procNull)
	defer c.buffers.Put(p)
	cl := &call{limit: c.cfg.MaxReply}
	if err := c.roundTrip(ctx, *p, nil, cl); err != nil {
		return wrapCall("null", "", err)
	}
	return finish("null", "", &decoder{b: cl.reply})
}

// Getattr returns the attributes of h.
func (c *Conn) Getattr(ctx context.Context, h Handle) (*Attr, error) {
	d, err := c.do(ctx, "getattr", "", c.nfs(procGetattr, h))
	if err != nil {
		return nil, err
	}
	a := new(Attr)
	d.attr(a)
	return a, finish("getattr", "", d)
}

// Setattr changes attributes. The attributes afterwards are nil where the
// server did not send them.
func (c *Conn) Setattr(ctx context.Context, h Handle, s SetAttr) (*Attr, error) {
	p := c.nfs(procSetattr, h)
	*p = appendBool(s.append(*p), false) // no guard
	d, err := c.do(ctx, "setattr", "", p)
	if err != nil {
		return nil, err
	}
	a := d.wcc()
	return a, finish("setattr", "", d)
}

// Lookup finds name in dir. The attributes are nil where the server did not send them.
func (c *Conn) Lookup(ctx context.Context, dir Handle, name string) (Handle, *Attr, error) {
	if err := checkOwnName("lookup", name); err != nil {
		return "", nil, err
	}
	p := c.nfs(procLookup, dir)
	*p = appendOpaque(*p, name)
	d, err := c.do(ctx, "lookup", name, p)
	if err != nil {
		return "", nil, err
	}
	h, a := d.handle(), d.optAttr()
	d.optAttr()
	return h, a, finish("lookup", name, d)
}

// Access returns which of the wanted nfsv3.ACCESS3_ bits the server grants.
func (c *Conn) Access(ctx context.Context, h Handle, want uint32) (uint32, error) {
	p := c.nfs(procAccess, h)
	*p = appendUint32(*p, want)
	d, err := c.do(ctx, "access", "", p)
	if err != nil {
		return 0, err
	}
	d.optAttr()
	granted := d.uint32()
	return granted & want, finish("access", "", d)
}

// Readlink returns a symbolic link's text, at most 4096 octets.
func (c *Conn) Readlink(ctx context.Context, h Handle) (string, error) {
	d, err := c.do(ctx, "readlink", "", c.nfs(procReadlink, h))
	if err != nil {
		return "", err
	}
	d.optAttr()
	text := string(d.opaque(maxPath))
	return text, finish("readlink", "", d)
}

// CreateMode says what Create does about a file that exists.
type CreateMode uint32

const (
	Unchecked CreateMode = CreateMode(nfsv3.UNCHECKED) // takes it, truncated where SetAttr.Size says 0
	Guarded   CreateMode = CreateMode(nfsv3.GUARDED)   // fails
	// Exclusive fails too, and a repeated call of the same verifier finds the
	// file it made; the server takes no attributes.
	Exclusive CreateMode = CreateMode(nfsv3.EXCLUSIVE)
)

// Create makes a regular file. verf is used by Exclusive only. The handle is
// "" and the attributes are nil where the server did not send them.
func (c *Conn) Create(ctx context.Context, dir Handle, name string, mode CreateMode, s SetAttr, verf [8]byte) (Handle, *Attr, error) {
	if err := checkOwnName("create", name); err != nil {
		return "", nil, err
	}
	p := c.nfs(procCreate, dir)
	*p = appendUint32(appendOpaque(*p, name), uint32(mode))
	if mode == Exclusive {
		*p = append(*p, verf[:]...)
	} else {
		*p = s.append(*p)
	}
	return c.created(ctx, "create", name, p)
}

// Mkdir makes a directory.
func (c *Conn) Mkdir(ctx context.Context, dir Handle, name string, s SetAttr) (Handle, *Attr, error) {
	if err := checkOwnName("mkdir", name); err != nil {
		return "", nil, err
	}
	p := c.nfs(procMkdir, dir)
	*p = s.append(appendOpaque(*p, name))
	return c.created(ctx, "mkdir", name, p)
}

// Symlink makes a symbolic link that says target.
func (c *Conn) Symlink(ctx context.Context, dir Handle, name, target string, s SetAttr) (Handle, *Attr, error) {
	if err := checkOwnName("symlink", name); err != nil {
		return "", nil, err
	}
	p := c.nfs(procSymlink, dir)
	*p = appendOpaque(s.append(appendOpaque(*p, name)), target)
	return c.created(ctx, "symlink", name, p)
}

func (c *Conn) created(ctx context.Context, op, name string, p *[]byte) (Handle, *Attr, error) {
	d, err := c.do(ctx, op, name, p)
	if err != nil {
		return "", nil, err
	}
	h, a := d.optHandle(), d.optAttr()
	d.wcc()
	return h, a, finish(op, name, d)
}

// Remove unlinks a file that is no directory.
func (c *Conn) Remove(ctx context.Context, dir Handle, name string) error {
	return c.unlink(ctx, "remove", procRemove, dir, name)
}

// Rmdir removes an empty directory.
func (c *Conn) Rmdir(ctx context.Context, dir Handle, name string) error {
	return c.unlink(ctx, "rmdir", procRmdir, dir, name)
}

func (c *Conn) unlink(ctx context.Context, op string, proc uint32, dir Handle, name string) error {
	if err := checkOwnName(op, name); err != nil {
		return err
	}
	p := c.nfs(proc, dir)
	*p = appendOpaque(*p, name)
	d, err := c.do(ctx, op, name, p)
	if err != nil {
		return err
	}
	d.wcc()
	return finish(op, name, d)
}

// Rename moves a file, replacing what toName was.
func (c *Conn) Rename(ctx context.Context, fromDir Handle, fromName string, toDir Handle, toName string) error {
	if err := errors.Join(checkOwnName("rename", fromName), checkOwnName("rename", toName)); err != nil {
		return err
	}
	p := c.nfs(procRename, fromDir)
	*p = appendOpaque(appendOpaque(appendOpaque(*p, fromName), toDir), toName)
	d, err := c.do(ctx, "rename", fromName, p)
	if err != nil {
		return err
	}
	d.wcc()
	d.wcc()
	return finish("rename", fromName, d)
}

// Link makes a hard link to h.
func (c *Conn) Link(ctx context.Context, h, dir Handle, name string) error {
	if err := checkOwnName("link", name); err != nil {
		return err
	}
	p := c.nfs(procLink, h)
	*p = appendOpaque(appendOpaque(*p, dir), name)
	d, err := c.do(ctx, "link", name, p)
	if err != nil {
		return err
	}
	d.optAttr()
	d.wcc()
	return finish("link", name, d)
}

// FSStat is the space of a file system, in octets and files.
type FSStat = nfsv3.Fsstat3resok

// Fsstat returns the space of h's file system.
func (c *Conn) Fsstat(ctx context.Context, h Handle) (FSStat, error) {
	d, err := c.do(ctx, "fsstat", "", c.nfs(procFsstat, h))
	if err != nil {
		return FSStat{}, err
	}
	d.optAttr()
	s := FSStat{Tbytes: d.uint64(), Fbytes: d.uint64(), Abytes: d.uint64(),
		Tfiles: d.uint64(), Ffiles: d.uint64(), Afiles: d.uint64(), Invarsec: d.uint32()}
	return s, finish("fsstat", "", d)
}

// FSInfo is what a server can do, RFC 1813 FSINFO3resok; sizes are octets.
type FSInfo = nfsv3.Fsinfo3resok

// Fsinfo returns the limits of h's file system as the server states them.
func (c *Conn) Fsinfo(ctx context.Context, h Handle) (FSInfo, error) {
	d, err := c.do(ctx, "fsinfo", "", c.nfs(procFsinfo, h))
	if err != nil {
		return FSInfo{}, err
	}
	d.optAttr()
	i := FSInfo{Rtmax: d.uint32(), Rtpref: d.uint32(), Rtmult: d.uint32(),
		Wtmax: d.uint32(), Wtpref: d.uint32(), Wtmult: d.uint32(), Dtpref: d.uint32(),
		Maxfilesize: d.uint64(), TimeDelta: d.time(), Properties: d.uint32()}
	return i, finish("fsinfo", "", d)
}

// PathConf is RFC 1813 PATHCONF3resok.
type PathConf = nfsv3.Pathconf3resok

// Pathconf returns the naming rules of h's file system.
func (c *Conn) Pathconf(ctx context.Context, h Handle) (PathConf, error) {
	d, err := c.do(ctx, "pathconf", "", c.nfs(procPathconf, h))
	if err != nil {
		return PathConf{}, err
	}
	d.optAttr()
	i := PathConf{Linkmax: d.uint32(), NameMax: d.uint32(), NoTrunc: d.bool(),
		ChownRestricted: d.bool(), CaseInsensitive: d.bool(), CasePreserving: d.bool()}
	return i, finish("pathconf", "", d)
}
