package nfs3

import (
	"context"
	"fmt"

	"github.com/buildbarn/go-xdr/pkg/protocols/mount"
)

const (
	mountProgram = mount.MOUNT_PROGRAM_PROGRAM_NUMBER
	mountVersion = 3
	mountMnt     = 1
	mountUmnt    = 3
	mountExport  = 5
	maxDirpath   = 1024
	maxExports   = 10000
)

// MountNull asks whether the MOUNT service is there.
func (c *Conn) MountNull(ctx context.Context) error { return c.null(ctx, mountProgram, mountVersion) }

// Mnt returns the handle of an exported path (at most 1024 octets) and the
// authentication flavors the server takes there.
func (c *Conn) Mnt(ctx context.Context, path string) (Handle, []uint32, error) {
	if len(path) > maxDirpath {
		return "", nil, fmt.Errorf("nfs mount: path of %d octets (at most %d are allowed)", len(path), maxDirpath)
	}
	p := c.begin(mountProgram, mountVersion, mountMnt)
	*p = appendOpaque(*p, path)
	d, err := c.do(ctx, "mount", path, p)
	if err != nil {
		return "", nil, err
	}
	h, n := d.handle(), d.uint32()
	if d.err == nil && uint64(n) > uint64(len(d.b)/4) {
		d.fail("more flavors than the reply holds")
	}
	var flavors []uint32
	for i := uint32(0); d.err == nil && i < n; i++ {
		flavors = append(flavors, d.uint32())
	}
	return h, flavors, finish("mount", path, d)
}

// Umnt tells the server that the path is not used any more.
func (c *Conn) Umnt(ctx context.Context, path string) error {
	p := c.begin(mountProgram, mountVersion, mountUmnt)
	defer c.buffers.Put(p)
	*p = appendOpaque(*p, path)
	cl := &call{limit: c.cfg.MaxReply}
	if err := c.roundTrip(ctx, *p, nil, cl); err != nil {
		return wrapCall("umount", path, err)
	}
	return finish("umount", path, &decoder{b: cl.reply})
}

// Export is one exported directory and who may mount it; no groups: anyone.
type Export struct {
	Dir    string
	Groups []string
}

// Exports lists what the server exports, at most 10000 entries.
func (c *Conn) Exports(ctx context.Context) ([]Export, error) {
	p := c.begin(mountProgram, mountVersion, mountExport)
	defer c.buffers.Put(p)
	cl := &call{limit: c.cfg.MaxReply}
	if err := c.roundTrip(ctx, *p, nil, cl); err != nil {
		return nil, wrapCall("exports", "", err)
	}
	d := &decoder{b: cl.reply}
	var list []Export
	for d.bool() {
		e := Export{Dir: string(d.opaque(maxDirpath))}
		for d.bool() {
			e.Groups = append(e.Groups, string(d.opaque(maxName)))
		}
		if list = append(list, e); len(list) > maxExports {
			d.fail("too many exports")
		}
	}
	return list, finish("exports", "", d)
}
