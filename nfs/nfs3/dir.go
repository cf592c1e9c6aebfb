package nfs3

import (
	"context"
	"fmt"
)

// DirEntry is one entry of a directory. Attr is nil and Handle "" where the
// server did not send them.
type DirEntry struct {
	Name   string
	Fileid uint64
	Cookie uint64
	Attr   *Attr
	Handle Handle
}

// DirPage is one reply of READDIR or READDIRPLUS, without "." and "..".
type DirPage struct {
	Entries []DirEntry
	Cookie  uint64 // where the next page begins
	Verf    [8]byte
	EOF     bool
}

// ReaddirPlus reads a part of a directory from cookie on; both cookie and
// verf are zero at first, and those of the last page after it. size is the
// largest reply wanted, in octets.
func (c *Conn) ReaddirPlus(ctx context.Context, dir Handle, cookie uint64, verf [8]byte, size uint32) (*DirPage, error) {
	p := c.nfs(procReaddirplus, dir)
	*p = append(appendUint64(*p, cookie), verf[:]...)
	*p = appendUint32(appendUint32(*p, size), size)
	return c.readdir(ctx, "readdirplus", p, cookie, true)
}

// Readdir is [Conn.ReaddirPlus] without attributes and handles, for servers
// that do not offer it.
func (c *Conn) Readdir(ctx context.Context, dir Handle, cookie uint64, verf [8]byte, size uint32) (*DirPage, error) {
	p := c.nfs(procReaddir, dir)
	*p = append(appendUint64(*p, cookie), verf[:]...)
	*p = appendUint32(*p, size)
	return c.readdir(ctx, "readdir", p, cookie, false)
}

func (c *Conn) readdir(ctx context.Context, op string, p *[]byte, cookie uint64, plus bool) (*DirPage, error) {
	d, err := c.do(ctx, op, "", p)
	if err != nil {
		return nil, err
	}
	page := d.dirPage(plus)
	if err := finish(op, "", d); err != nil {
		return nil, err
	}
	if page.Cookie == 0 {
		page.Cookie = cookie
	}
	// Without progress the caller would ask for ever.
	if !page.EOF && page.Cookie == cookie {
		return nil, wrapCall(op, "", fmt.Errorf("%w: a page without progress", ErrMalformed))
	}
	return page, nil
}

func (d *decoder) dirPage(plus bool) *DirPage {
	d.optAttr()
	page := &DirPage{Verf: d.verifier()}
	for d.bool() {
		e := DirEntry{Fileid: d.uint64(), Name: string(d.opaque(maxPath)), Cookie: d.uint64()}
		if plus {
			e.Attr, e.Handle = d.optAttr(), d.optHandle()
		}
		if d.err != nil {
			return page
		}
		page.Cookie = e.Cookie
		if e.Name == "." || e.Name == ".." {
			continue
		}
		if err := CheckName(e.Name); err != nil {
			d.err = err
			return page
		}
		page.Entries = append(page.Entries, e)
	}
	page.EOF = d.bool()
	return page
}
