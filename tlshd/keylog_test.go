package tlshd

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var keyLogLine = regexp.MustCompile(`^[A-Z_0-9]+ [0-9a-f]{64} [0-9a-f]{64,96}$`)

// A helper process writes the secrets of a connection where it was told to, and
// says so; the file is nobody else's.
func TestUnsafeKeyLog(t *testing.T) {
	s := newSite(t)
	s.cfg.UnsafeKeyLog = filepath.Join(t.TempDir(), "keys")
	_, c, log := startHelper(t, s.cfg)
	shake(t, viaHelper(c, serverRequest(nil)), viaHelper(c, clientRequest("files.example.com", "smb"))).ok()
	if !strings.Contains(log.String(), "UNSAFE") || !strings.Contains(log.String(), s.cfg.UnsafeKeyLog) {
		t.Errorf("no warning in the log: %s", log)
	}
	b, err := os.ReadFile(s.cfg.UnsafeKeyLog)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	labels := map[string]int{}
	for _, l := range lines {
		if !keyLogLine.MatchString(l) {
			t.Errorf("a line that nobody can read: %q", l)
		}
		labels[strings.Fields(l)[0]]++
	}
	for _, want := range []string{"CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_HANDSHAKE_TRAFFIC_SECRET", "CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"} {
		if labels[want] != 2 { // both roles were this helper's
			t.Errorf("%s: %d times", want, labels[want])
		}
	}
	if st, err := os.Stat(s.cfg.UnsafeKeyLog); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

// The environment variable that others obey is nothing here.
func TestNoKeyLogByEnvironment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	t.Setenv("SSLKEYLOGFILE", file)
	s := newSite(t)
	shakeOnce := func(c *Client) {
		shake(t, viaHelper(c, serverRequest(nil)), viaHelper(c, clientRequest("files.example.com", "smb"))).ok()
	}
	_, c, log := startHelper(t, s.cfg)
	shakeOnce(c)
	shakeOnce(startLocal(t, s.cfg).Client)
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("%s was written: %v", file, err)
	}
	if strings.Contains(log.String(), "UNSAFE") {
		t.Error(log)
	}
}

func TestKeyLogIsRefused(t *testing.T) {
	s := newSite(t)
	for name, path := range map[string]string{
		"readable by others": replaceFile(t, filepath.Join(t.TempDir(), "keys"), []byte("x\n")),
		"a folder":           t.TempDir(),
		"nowhere":            filepath.Join(t.TempDir(), "none", "keys"),
		"a device":           os.DevNull,
	} {
		if name == "readable by others" {
			if err := os.Chmod(path, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		cfg := s.cfg
		cfg.UnsafeKeyLog = path
		if l, err := NewLocal(cfg, nil); err == nil {
			_ = l.Close()
			t.Errorf("taken: %s", name)
		}
		if p, err := Spawn(testContext(t), spawnConfig(cfg, &logBuffer{})); err == nil {
			_ = p.Stop(testContext(t))
			t.Errorf("taken by a process: %s", name)
		}
	}
	l := startLocal(t, s.cfg)
	cfg := s.cfg
	cfg.UnsafeKeyLog = filepath.Join(t.TempDir(), "keys")
	if err := l.Server.Reload(cfg); err == nil || !strings.Contains(err.Error(), "restart") {
		t.Errorf("switched on while it runs: %v", err)
	}
}

// A disk that takes no more keeps nobody out.
func TestKeyLogThatFails(t *testing.T) {
	s := newSite(t)
	s.cfg.UnsafeKeyLog = filepath.Join(t.TempDir(), "keys")
	var log bytes.Buffer
	full, err := os.Open(os.DevNull) // for reading: nothing can be written
	if err != nil {
		t.Fatal(err)
	}
	k := newKeyLog(s.cfg.UnsafeKeyLog, full, slog.New(slog.NewJSONHandler(&log, nil)))
	defer k.close()
	for range 3 {
		if n, err := k.Write([]byte("line\n")); n != 5 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	if n := strings.Count(log.String(), "secrets are missing"); n != 1 {
		t.Errorf("said %d times: %s", n, log.String())
	}
}
