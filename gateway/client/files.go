package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// maxDepth bounds directory trees: a server could nest them without end.
const maxDepth = 512

// PrintableName escapes what a file name could do to a terminal.
func PrintableName(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
		q := strconv.Quote(name)
		return q[1 : len(q)-1]
	}
	return name
}

// checkEntry holds a name from a server to what one name may be.
func checkEntry(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("the server sent %q as a file name", name)
	}
	return nil
}

// ListOptions are those of ls.
type ListOptions struct {
	Long  bool // type, permissions, size, time
	Human bool // sizes as 1.5 MiB
	All   bool // names that begin with a dot too
}

// List writes what ls shows of p: the entries of a directory by name, or the file.
func List(ctx context.Context, w io.Writer, f FileSystem, p string, o ListOptions) error {
	i, err := f.Stat(ctx, p)
	if err != nil {
		if i, err = f.Lstat(ctx, p); err != nil { // a dangling link is there too
			return err
		}
	}
	list, dir := []fs.FileInfo{i}, path.Dir(path.Clean("/"+p))
	if i.IsDir() {
		dir = p
		if list, err = f.ReadDir(ctx, p); err != nil {
			return err
		}
	}
	slices.SortFunc(list, func(a, b fs.FileInfo) int { return cmp.Compare(a.Name(), b.Name()) })
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', tabwriter.AlignRight)
	for _, e := range list {
		if err := checkEntry(e.Name()); err != nil && i.IsDir() {
			return err
		}
		if strings.HasPrefix(e.Name(), ".") && !o.All && i.IsDir() {
			continue
		}
		if !o.Long {
			fmt.Fprintln(w, PrintableName(e.Name()))
			continue
		}
		size := strconv.FormatInt(e.Size(), 10)
		if o.Human {
			size = HumanSize(uint64(max(e.Size(), 0)))
		}
		name := PrintableName(e.Name())
		if e.Mode()&fs.ModeSymlink != 0 {
			if text, err := f.Readlink(ctx, path.Join(dir, e.Name())); err == nil {
				name += " -> " + PrintableName(text)
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t %s\n", e.Mode(), size, e.ModTime().Format("2006-01-02 15:04"), name)
	}
	return t.Flush()
}

// Cat writes a file's content to w and checks that all of it came.
func Cat(ctx context.Context, w io.Writer, f FileSystem, p string) error {
	r, err := f.Open(ctx, p)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(w, r)
	return err
}

// MkdirAll makes p and its parents; directories that exist are fine.
func MkdirAll(ctx context.Context, f FileSystem, p string, perm fs.FileMode) error {
	p = path.Clean("/" + p)
	for i := 1; i <= len(p); i++ {
		if i < len(p) && p[i] != '/' || p == "/" {
			continue
		}
		err := f.Mkdir(ctx, p[1:i], perm)
		if err == nil {
			continue
		}
		// Where it exists, some servers report a missing right first.
		if info, e := f.Stat(ctx, p[1:i]); e == nil && info.IsDir() {
			continue
		}
		return err
	}
	return nil
}

// RemoveAll removes p, with recursive also a directory and all below it.
// Symbolic links are removed, not followed. It goes on after errors and
// returns them all.
func RemoveAll(ctx context.Context, f FileSystem, p string, recursive bool) error {
	if path.Clean("/"+p) == "/" {
		return errors.New("rm: refusing to remove the whole share or export")
	}
	i, err := f.Lstat(ctx, p)
	if err != nil {
		return err
	}
	if !i.IsDir() {
		return f.Remove(ctx, p)
	}
	if !recursive {
		return fmt.Errorf("rm %q: is a directory (use -r)", p)
	}
	return removeTree(ctx, f, p, 0)
}

func removeTree(ctx context.Context, f FileSystem, p string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("rm %q: nested more than %d deep", p, maxDepth)
	}
	list, err := f.ReadDir(ctx, p)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range list {
		if err := checkEntry(e.Name()); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		child := path.Join(p, e.Name())
		if e.IsDir() {
			err = removeTree(ctx, f, child, depth+1)
		} else {
			err = f.Remove(ctx, child)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 { // the directory can't be empty
		return errors.Join(errs...)
	}
	return f.Rmdir(ctx, p)
}

// DF writes the space of the file system that p is on. name is what stands
// in the first column.
func DF(ctx context.Context, w io.Writer, f FileSystem, p, name string, human bool) error {
	s, err := f.StatFS(ctx, p)
	if err != nil {
		return err
	}
	size := func(n uint64) string {
		if human {
			return HumanSize(n)
		}
		return strconv.FormatUint(n/1024, 10)
	}
	head := "1K-blocks"
	if human {
		head = "Size"
	}
	used := s.Total - min(s.Free, s.Total)
	percent := "-"
	if all := used + s.Available; all > 0 && all >= used {
		percent = fmt.Sprintf("%.0f%%", float64(used)/float64(all)*100)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "%s\tUsed\tAvailable\tUse%%\t  Filesystem\n", head)
	fmt.Fprintf(t, "%s\t%s\t%s\t%s\t  %s\n", size(s.Total), size(used), size(s.Available), percent, PrintableName(name))
	return t.Flush()
}

// cleanupTime bounds the removal of a temporary file after a failure.
const cleanupTime = 10 * time.Second
