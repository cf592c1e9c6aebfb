//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/gateway/supervise"
	"github.com/quic-fsgw/quic-fsgw/tlshd"
)

// What the doctor looks at in the files that the configuration names.

// certificates loads everything as the helper would, and says when it ends.
func (e *examination) certificates() {
	problems, warnings := e.cfg.CheckFiles(e.now)
	e.problems("fail", "certificates", problems)
	e.problems("warn", "certificates", warnings)
	if e.cfg.Tlshd.Mode == "spawn" {
		e.expiries()
	}
	for _, c := range e.cfg.Tlshd.Certificates {
		for _, f := range []config.Path{c.Key, c.PFX} {
			if f != "" {
				e.keyPermissions(string(f))
			}
		}
	}
}

func (e *examination) expiries() {
	hc := supervise.HelperConfig(e.cfg)
	hc.WatchInterval = -1
	if h := e.cfg.HTTPS; h != nil && h.ACME != nil {
		// serve fetches them; before it has run they are not there.
		hc.Certificates = slices.DeleteFunc(hc.Certificates, func(c tlshd.Certificate) bool {
			_, err := os.Stat(c.Cert)
			gone := errors.Is(err, os.ErrNotExist) && c.Cert == c.Key
			if gone {
				e.warn("certificates", "serve fetches it", "%s is not there yet", c.Cert)
			}
			return gone
		})
	}
	srv, err := tlshd.NewServer(hc, nil)
	if err != nil {
		e.fail("certificates", "the handshake helper would not start", "%v", err)
		return
	}
	defer srv.Close()
	for _, x := range srv.Stats().Expiries {
		what := fmt.Sprintf("%s %s: %s ends on %s", x.Kind, x.File, x.Subject, x.At.UTC().Format(time.DateOnly))
		switch left := x.At.Sub(e.now); {
		case left <= 0:
			e.fail("expiry", "renew it: it is reread when it has changed", "%s", what)
		case x.Soon(e.now):
			e.warn("expiry", "renew it: it is reread when it has changed", "%s, in %d days", what, int(left/(24*time.Hour)))
		default:
			e.ok("expiry", "%s, in %d days", what, int(left/(24*time.Hour)))
		}
	}
}

// keyPermissions: nobody but the helper may read a key, and the helper must be
// able to read it again when it has changed.
func (e *examination) keyPermissions(file string) {
	info, err := os.Stat(file)
	if err != nil {
		return // CheckFiles has said so
	}
	if info.Mode().Perm()&0o007 != 0 {
		return // so with this
	}
	t := &e.cfg.Tlshd
	if t.User == "" || t.Mode != "spawn" {
		e.ok("permissions", "%s: mode %#o", file, info.Mode().Perm())
		return
	}
	uid, gids, err := account(t.User, t.Group)
	if err != nil {
		return // accounts says so
	}
	for at := file; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			return
		}
		need, verb := os.FileMode(1), "enter"
		if at == file {
			need, verb = 4, "read"
		}
		if !allowed(info, uid, gids, need) {
			e.fail("permissions", fmt.Sprintf("chgrp %s %s; chmod g+%s %[2]s; and tlshd.group: %[1]s", orText(t.Group, t.User), at, map[os.FileMode]string{1: "x", 4: "r"}[need]),
				"%s can not %s %s once it is %s: a renewed key would not be taken", "the helper", verb, at, t.User)
			return
		}
		if at == "/" || at == "." {
			break
		}
	}
	e.ok("permissions", "%s: %s may read it, mode %#o", file, t.User, info.Mode().Perm())
}

func orText(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// allowed reports whether an account has a right (4 read, 1 enter) by the mode.
func allowed(info os.FileInfo, uid int, gids []int, need os.FileMode) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || uid == 0 {
		return true
	}
	mode := info.Mode().Perm()
	switch {
	case int(st.Uid) == uid:
		return mode>>6&need != 0
	case slices.Contains(gids, int(st.Gid)):
		return mode>>3&need != 0
	}
	return mode&need != 0
}

// account is an account's number and groups.
func account(name, group string) (uid int, gids []int, err error) {
	if uid, err = accountID(name); err != nil {
		return 0, nil, err
	}
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		groups, _ := u.GroupIds()
		for _, g := range groups {
			if n, err := strconv.Atoi(g); err == nil {
				gids = append(gids, n)
			}
		}
	}
	if group != "" {
		g, err := user.LookupGroup(group)
		if err != nil {
			return 0, nil, fmt.Errorf("there is no group %q", group)
		}
		n, _ := strconv.Atoi(g.Gid)
		gids = []int{n} // the helper has no other then
	}
	return uid, gids, nil
}

// accounts looks up those that the configuration names.
func (e *examination) accounts() {
	for _, a := range []struct{ key, user, group string }{
		{"tlshd", e.cfg.Tlshd.User, e.cfg.Tlshd.Group}, {"run_as", e.cfg.RunAs.User, e.cfg.RunAs.Group},
	} {
		if a.user == "" {
			continue
		}
		if _, _, err := account(a.user, a.group); err != nil {
			e.fail("accounts", "useradd --system --no-create-home NAME", "%s.user: %v", a.key, err)
			continue
		}
		e.ok("accounts", "%s.user: %s", a.key, a.user)
	}
}

// helperSocket connects to a helper that is a service of its own.
func (e *examination) helperSocket(ctx context.Context) {
	if e.cfg.Tlshd.Mode != "socket" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	c, err := tlshd.Dial(ctx, string(e.cfg.Tlshd.Socket))
	if err != nil {
		e.fail("helper", "systemctl status quic-fsgw-tlshd", "%s: %v", e.cfg.Tlshd.Socket, err)
		return
	}
	_ = c.Close()
	e.ok("helper", "%s takes connections", e.cfg.Tlshd.Socket)
}
