package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/quic-fsgw/quic-fsgw/gateway/client"
)

// The file commands: ls, cat, cp, rm, mkdir, df.

var (
	lsCommand    = command{name: "ls", args: "[-l] [-h] [-a] URL...", summary: "list a folder"}
	catCommand   = command{name: "cat", args: "URL...", summary: "write files to standard output"}
	cpCommand    = command{name: "cp", args: "[-r] FROM... TO", summary: "copy files; each of FROM and TO is a URL, a local path or - "}
	rmCommand    = command{name: "rm", args: "[-r] URL...", summary: "remove files"}
	mkdirCommand = command{name: "mkdir", args: "[-p] URL...", summary: "make folders"}
	dfCommand    = command{name: "df", args: "[-h] URL...", summary: "show the space of a share or export"}
)

func init() {
	lsCommand.run, catCommand.run, cpCommand.run = runLs, runCat, runCp
	rmCommand.run, mkdirCommand.run, dfCommand.run = runRm, runMkdir, runDf
}

// copyStreams is how many streams or sessions a copy uses in parallel.
const copyStreams = 2

// folderMode is that of folders mkdir makes. Servers apply no umask of ours.
const folderMode = 0o755

// fileFlags are the flags that all file commands have.
func fileFlags(c command) (*trustFlags, *flag.FlagSet) {
	fs, t := c.flags(), &trustFlags{}
	t.register(fs)
	t.registerPassword(fs)
	return t, fs
}

// eachRemote runs f for every URL and goes on after errors.
func (t *trustFlags) eachRemote(ctx context.Context, name string, urls []string, f func(*remote, string) error) error {
	if len(urls) == 0 {
		return usagef("%s: which URL?", name)
	}
	var errs []error
	for _, u := range urls {
		if !client.IsRemote(u) {
			return usagef("%s: %q is no URL (write smb://host/share/path or nfs://host/export/path)", name, u)
		}
		r, err := t.openRemote(ctx, u, 1)
		if err == nil {
			err = f(r, u)
			r.stop()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func runLs(ctx context.Context, io stdio, args []string) error {
	t, fs := fileFlags(lsCommand)
	var o client.ListOptions
	fs.BoolVar(&o.Long, "l", false, "type, permissions, size and time too")
	fs.BoolVar(&o.Human, "h", false, "sizes as 1.5 MiB")
	fs.BoolVar(&o.All, "a", false, "names that begin with a dot too")
	urls, err := lsCommand.parse(io, fs, args)
	if err != nil {
		return err
	}
	return t.eachRemote(ctx, "ls", urls, func(r *remote, _ string) error { return client.List(ctx, io.out, r.fs, r.path, o) })
}

func runCat(ctx context.Context, io stdio, args []string) error {
	t, fs := fileFlags(catCommand)
	urls, err := catCommand.parse(io, fs, args)
	if err != nil {
		return err
	}
	return t.eachRemote(ctx, "cat", urls, func(r *remote, _ string) error { return client.Cat(ctx, io.out, r.fs, r.path) })
}

func runRm(ctx context.Context, io stdio, args []string) error {
	t, fs := fileFlags(rmCommand)
	recursive := fs.Bool("r", false, "folders and all below them")
	urls, err := rmCommand.parse(io, fs, args)
	if err != nil {
		return err
	}
	return t.eachRemote(ctx, "rm", urls, func(r *remote, _ string) error { return client.RemoveAll(ctx, r.fs, r.path, *recursive) })
}

func runMkdir(ctx context.Context, io stdio, args []string) error {
	t, fs := fileFlags(mkdirCommand)
	parents := fs.Bool("p", false, "parents too, and no error if it exists")
	urls, err := mkdirCommand.parse(io, fs, args)
	if err != nil {
		return err
	}
	return t.eachRemote(ctx, "mkdir", urls, func(r *remote, _ string) error {
		if *parents {
			return client.MkdirAll(ctx, r.fs, r.path, folderMode)
		}
		return r.fs.Mkdir(ctx, r.path, folderMode)
	})
}

func runDf(ctx context.Context, io stdio, args []string) error {
	t, fs := fileFlags(dfCommand)
	human := fs.Bool("h", false, "sizes as 1.5 MiB")
	urls, err := dfCommand.parse(io, fs, args)
	if err != nil {
		return err
	}
	return t.eachRemote(ctx, "df", urls, func(r *remote, u string) error { return client.DF(ctx, io.out, r.fs, r.path, u, *human) })
}

func runCp(ctx context.Context, io stdio, args []string) error {
	t, fs := fileFlags(cpCommand)
	recursive := fs.Bool("r", false, "folders and all below them")
	names, err := cpCommand.parse(io, fs, args)
	if err != nil {
		return err
	}
	if len(names) < 2 {
		return usagef("cp: from where to where?")
	}
	from, to := names[:len(names)-1], names[len(names)-1]
	if to == "-" {
		return t.copyOut(ctx, io, from)
	}
	dst, err := t.open(ctx, to, true, copyStreams)
	if err != nil {
		return fmt.Errorf("cp: %w", err)
	}
	defer dst.stop()
	if len(from) > 1 {
		if fi, err := dst.fs.Stat(ctx, dst.path); err != nil || !fi.IsDir() {
			return usagef("cp: %q is no folder, and there are several files to copy", to)
		}
	}
	c := &client.Copier{Recursive: *recursive, Progress: client.StartProgress(os.Stderr)}
	defer c.Progress.Stop()
	var errs []error
	for _, name := range from {
		if err := t.copyOne(ctx, c, name, dst); err != nil {
			errs = append(errs, fmt.Errorf("cp: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (t *trustFlags) copyOne(ctx context.Context, c *client.Copier, name string, dst *remote) error {
	if name == "-" {
		return c.FromReader(ctx, os.Stdin, dst.fs, dst.path)
	}
	src, err := t.open(ctx, name, true, copyStreams)
	if err != nil {
		return err
	}
	defer src.stop()
	return c.Copy(ctx, src.fs, src.path, dst.fs, dst.path)
}

// copyOut copies to standard output.
func (t *trustFlags) copyOut(ctx context.Context, io stdio, from []string) error {
	for _, name := range from {
		src, err := t.open(ctx, name, true, copyStreams)
		if err != nil {
			return fmt.Errorf("cp: %w", err)
		}
		err = client.Cat(ctx, io.out, src.fs, src.path)
		src.stop()
		if err != nil {
			return fmt.Errorf("cp: %w", err)
		}
	}
	return nil
}
