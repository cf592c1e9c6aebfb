package client

import (
	"fmt"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
)

// DefaultPort is the UDP port where a URL names none.
const DefaultPort = 443

// maxPasswordFile bounds a password file in octets.
const maxPasswordFile = 64 << 10

// RemoteURL names a place on a gateway:
// smb://[user[:password]@]host[:port]/share/path or nfs://host[:port]/export/path.
type RemoteURL struct {
	Scheme      string // "smb" or "nfs"
	Host        string // without brackets
	Port        uint16
	User        string // smb only; DOMAIN\user is taken apart by Account
	Password    string
	HasPassword bool
	Path        string // decoded, begins with a slash, no trailing slash except for "/"
}

// IsRemote reports whether a command's argument is meant as a URL.
func IsRemote(arg string) bool {
	scheme, _, ok := strings.Cut(arg, "://")
	return ok && scheme != "" && !strings.ContainsAny(scheme, "/\\.")
}

// ParseURL parses a remote URL.
func ParseURL(raw string) (*RemoteURL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		// The error of url.Parse repeats the URL, which may hold a password.
		return nil, fmt.Errorf("url: not a valid URL (percent-encode special characters: %%20 space, %%23 #, %%25 %%, %%3F ?)")
	}
	r := &RemoteURL{Scheme: strings.ToLower(u.Scheme), Host: u.Hostname(), Port: DefaultPort}
	shown := u.Redacted()
	if r.Scheme != "smb" && r.Scheme != "nfs" {
		return nil, fmt.Errorf("url %q: scheme %q is neither smb nor nfs", shown, u.Scheme)
	}
	if r.Host == "" || u.Opaque != "" {
		return nil, fmt.Errorf("url %q: no host (write %s://host/path)", shown, r.Scheme)
	}
	if u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return nil, fmt.Errorf("url %q: ? and # have to be written %%3F and %%23", shown)
	}
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("url %q: port %q is not 1 to 65535", shown, p)
		}
		r.Port = uint16(n)
	}
	if u.User != nil {
		if r.Scheme == "nfs" {
			return nil, fmt.Errorf("url %q: nfs takes no user (the certificate says who you are)", shown)
		}
		r.User = u.User.Username()
		r.Password, r.HasPassword = u.User.Password()
	}
	if strings.ContainsRune(u.Path, 0) {
		return nil, fmt.Errorf("url %q: a NUL octet in the path", shown)
	}
	r.Path = path.Clean("/" + u.Path)
	return r, nil
}

// String writes the URL without its password.
func (r *RemoteURL) String() string {
	u := url.URL{Scheme: r.Scheme, Host: r.hostPort(), Path: r.Path}
	if r.User != "" {
		u.User = url.User(r.User)
	}
	return u.String()
}

func (r *RemoteURL) hostPort() string {
	host := r.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if r.Port == DefaultPort {
		return host
	}
	return host + ":" + strconv.Itoa(int(r.Port))
}

// Share splits the path of an smb URL into the share's name and the rest
// without a leading slash.
func (r *RemoteURL) Share() (share, rest string, err error) {
	share, rest, _ = strings.Cut(strings.TrimPrefix(r.Path, "/"), "/")
	if share == "" {
		return "", "", fmt.Errorf("url %q: no share (write smb://host/share/path)", r)
	}
	return share, rest, nil
}

// Account splits DOMAIN\user or DOMAIN;user.
func (r *RemoteURL) Account() (domain, user string) {
	if i := strings.IndexAny(r.User, `\;`); i >= 0 {
		return r.User[:i], r.User[i+1:]
	}
	return "", r.User
}

// ResolvePassword fills in a password the URL does not have: from file, if
// that is not empty, else from QUIC_FSGW_PASSWORD as getenv returns it.
func (r *RemoteURL) ResolvePassword(file string, getenv func(string) string) error {
	if r.HasPassword || r.Scheme != "smb" {
		return nil
	}
	if file == "" {
		r.Password = getenv("QUIC_FSGW_PASSWORD")
		r.HasPassword = r.Password != ""
		return nil
	}
	info, err := os.Stat(file)
	if err == nil && info.Mode().IsRegular() && info.Size() > maxPasswordFile {
		err = fmt.Errorf("%d octets are no password (at most %d)", info.Size(), maxPasswordFile)
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(file)
	}
	if err != nil {
		return fmt.Errorf("password file: %w", err)
	}
	r.Password, r.HasPassword = strings.TrimRight(string(b), "\r\n"), true
	return nil
}
