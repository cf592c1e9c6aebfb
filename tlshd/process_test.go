//go:build linux

package tlshd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// HOSTILE 45: the helper is killed. Connections that are done go on, those in
// the handshake fail with a clear error, and new ones work again within two
// seconds.
func TestHelperKilled(t *testing.T) {
	s := newSite(t)
	leakCheck(t)
	c := NewClient(ClientOptions{})
	defer c.Close()
	log := &logBuffer{}
	sv, err := Supervise(testContext(t), spawnConfig(s.cfg, log), func(p *Process) error {
		conn, err := p.Connect(testContext(t))
		if err != nil {
			return err
		}
		return c.Attach(conn)
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	defer sv.Close()
	both := func() *pair {
		return shake(t, viaHelper(c, serverRequest(nil)), viaHelper(c, clientRequest("files.example.com", "smb"))).ok()
	}
	live := both()
	failed := make(chan Event, 4)
	inFlight := c.Start(serverRequest(nil), func(e Event) { failed <- e })
	inFlight.Crypto(LevelInitial, []byte{1, 0, 1, 0})
	if _, err := c.ServerStats(testContext(t)); err != nil { // the helper has seen it
		t.Fatal(err)
	}
	old := sv.Current().Pid()
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	e := <-failed
	he, ok := errors.AsType[*Error](e.Err)
	if e.Kind != EventFailed || !ok || he.Reason != ReasonHelperGone || he.Status != StatusEIO || !errors.Is(e.Err, ErrHelperGone) {
		t.Errorf("in flight: %+v", e)
	}
	both() // begun while there is none: it waits
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("new handshakes work after %v", d)
	}
	if pid := sv.Current().Pid(); pid == old {
		t.Error("the same helper")
	}
	// The connection from before: a ticket is of no use any more, a session
	// ticket of its server is passed over, nothing fails.
	live.server.shaker.(*Handshake).Ticket()
	live.client.shaker.Crypto(LevelApp, []byte{typeNewSessionTicket, 0, 0, 1, 0})
	select {
	case ev := <-live.events:
		t.Errorf("an event on a live connection: %+v", ev)
	default:
	}
	if sv.Restarts() == 0 || c.Stats().Lost == 0 {
		t.Errorf("restarts %d, client %+v", sv.Restarts(), c.Stats())
	}
}

// HOSTILE 45: the helper hangs.
func TestHelperHangs(t *testing.T) {
	s := newSite(t)
	leakCheck(t)
	c := NewClient(ClientOptions{})
	defer c.Close()
	log := &logBuffer{}
	sc := spawnConfig(s.cfg, log)
	sc.HealthInterval = 200 * time.Millisecond
	sv, err := Supervise(testContext(t), sc, func(p *Process) error {
		conn, err := p.Connect(testContext(t))
		if err != nil {
			return err
		}
		return c.Attach(conn)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sv.Close()
	p, detached := sv.Current(), c.Detached()
	if err := syscall.Kill(p.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	failed := make(chan Event, 1)
	c.Start(serverRequest(func(r *Request) { r.Timeout = 50 * time.Millisecond }), func(e Event) { failed <- e })
	if he, ok := errors.AsType[*Error]((<-failed).Err); !ok || he.Status != StatusETIMEDOUT && he.Status != StatusEIO {
		t.Errorf("a handshake with a helper that hangs: %v", he)
	}
	select {
	case <-p.Done():
	case <-time.After(testWait):
		t.Fatal("it is left hanging")
	}
	<-detached
	shake(t, viaHelper(c, serverRequest(nil)), viaHelper(c, clientRequest("files.example.com", "smb"))).ok()
}

// The supervisor's end takes the helper along.
func TestHelperEndsWithItsSupervisor(t *testing.T) {
	s := newSite(t)
	p, _, log := startHelper(t, s.cfg)
	_ = p.sock.close()
	select {
	case <-p.Done():
		if p.Err() != nil {
			t.Errorf("%v\n%s", p.Err(), log)
		}
	case <-time.After(testWait):
		t.Fatal("it stays")
	}
}

func TestSpawnErrors(t *testing.T) {
	leakCheck(t)
	log := &logBuffer{}
	_, err := Spawn(testContext(t), spawnConfig(Config{Certificates: []Certificate{{Cert: "/nowhere/x.crt"}}}, log))
	if err == nil || !strings.Contains(err.Error(), "/nowhere/x.crt") {
		t.Errorf("missing file: %v", err)
	}
	_, err = Spawn(testContext(t), SpawnConfig{Path: "/bin/false", Stderr: log})
	if err == nil || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("a helper that ends: %v", err)
	}
	_, err = Spawn(testContext(t), SpawnConfig{Path: "/nowhere/helper", Stderr: log})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a helper that is not there: %v", err)
	}
	sc := SpawnConfig{Path: "/bin/sleep", Args: []string{"60"}, Stderr: log, StartTimeout: 100 * time.Millisecond}
	if _, err = Spawn(testContext(t), sc); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a helper that says nothing: %v", err)
	}
}

// HOSTILE 46: the helper is in a sandbox.
func TestSandbox(t *testing.T) {
	s := newSite(t)
	root := os.Geteuid() == 0
	if root {
		for dir := s.dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(s.cfg.Certificates[0].Key, 0o600); err != nil {
			t.Fatal(err)
		}
		s.cfg.User = "nobody"
	}
	p, c, log := startHelper(t, s.cfg)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"NoNewPrivs:\t1", "Seccomp:\t2"}
	if root {
		nobody, err := user.Lookup("nobody")
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, "Uid:\t"+strings.Repeat(nobody.Uid+"\t", 3)+nobody.Uid, "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000")
		ours, _ := os.Readlink("/proc/self/ns/net")
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", p.Pid()))
		if err != nil || ours == theirs {
			t.Errorf("network namespace %s, ours %s: %v", theirs, ours, err)
		}
	}
	for _, w := range want {
		if !strings.Contains(string(status), w+"\n") {
			t.Errorf("no %q in\n%s", w, status)
		}
	}
	// Every thread, not only the first.
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.Pid()))
	for _, f := range tasks {
		if b, err := os.ReadFile(f); err == nil && !strings.Contains(string(b), "Seccomp:\t2\n") {
			t.Errorf("%s is not restricted", f)
		}
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", p.Pid()))
	if err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "core file size 0 0") {
		t.Errorf("core dumps: %s %v", limits, err)
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.Pid()))
	if err != nil || len(environ) != 0 {
		t.Errorf("environment %q %v", environ, err)
	}
	for _, step := range []string{"no-core", "no-dump", "no-new-privs", "seccomp"} {
		if !strings.Contains(strings.Join(p.Hardening(), " ")+" ", step+" ") {
			t.Errorf("%s is missing in %q", step, p.Hardening())
		}
	}
	shake(t, viaHelper(c, serverRequest(nil)), viaHelper(c, clientRequest("files.example.com", "smb"))).ok()
	if !root {
		return
	}
	// The key is root's alone: read at the start, not any more. The old one
	// stays in use.
	if err := p.Reload(testContext(t), s.cfg); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("reload with a key that only root can read: %v", err)
	}
	shake(t, viaHelper(c, serverRequest(nil)), viaHelper(c, clientRequest("files.example.com", "smb"))).ok()
	if err := os.Chmod(s.cfg.Certificates[0].Key, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := p.Reload(testContext(t), s.cfg); err != nil {
		t.Errorf("%v\n%s", err, log)
	}
}

// The filter does what it says, in a process of its own.
func TestHelperCannotBeToldMore(t *testing.T) {
	s := newSite(t)
	p, _, _ := startHelper(t, s.cfg)
	// A packet process may not configure the helper.
	conn, err := p.Connect(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	sock := newSocket(conn)
	defer sock.close()
	hello(t, sock, rolePacket)
	var b body
	b.str(attrJSON, "{}")
	if err := sock.write(msgReload, 1, false, b); err != nil {
		t.Fatal(err)
	}
	if m, err := sock.read(); err == nil {
		t.Errorf("RELOAD of a packet process is answered with %v", m.typ)
	}
	// Nor does the supervisor get away with a wrong descriptor.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	as, err := p.ask(testContext(t), msgAttach, nil, unix.UnixRights(int(r.Fd())))
	if err == nil {
		err = replyError(as)
	}
	if err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a pipe as a connection: %v", err)
	}
	as, err = p.ask(testContext(t), msgAttach, nil, unix.UnixRights(int(r.Fd()), int(w.Fd())))
	if err == nil {
		err = replyError(as)
	}
	if err == nil || !strings.Contains(err.Error(), "2 descriptors") {
		t.Errorf("two descriptors: %v", err)
	}
	if fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Pid())); err != nil || len(fds) > 12 {
		t.Errorf("%d descriptors open in the helper: %v", len(fds), err)
	}
	if _, err := p.Stats(testContext(t)); err != nil {
		t.Error(err)
	}
}

// The helper as a service, and a packet process that gets its connection from
// another one.
func TestListen(t *testing.T) {
	s := newSite(t)
	leakCheck(t)
	srv, err := NewServer(s.cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	path := filepath.Join(s.dir, "tlshd.sock")
	for round := range 2 { // the second finds a socket left behind
		l, err := Listen(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o660 {
			t.Errorf("mode %v %v", info.Mode(), err)
		}
		ctx, cancel := context.WithCancel(testContext(t))
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := l.Serve(ctx, srv); err != nil {
				t.Error(err)
			}
		})
		if _, err := Listen(path, nil); err == nil {
			t.Error("two listen at one path")
		}
		c := NewClient(ClientOptions{})
		wg.Go(func() {
			c.Maintain(ctx, func(ctx context.Context) (*net.UnixConn, error) {
				conn, err := Dial(ctx, path)
				if err != nil {
					return nil, err
				}
				return passOn(t, conn), nil
			})
		})
		shake(t, viaHelper(c, serverRequest(nil)), viaHelper(c, clientRequest("files.example.com", "smb"))).ok()
		if round == 0 {
			l.path = filepath.Join(s.dir, "another") // so that it stays behind
		}
		cancel()
		c.Close()
		wg.Wait()
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path, nil); err == nil {
		t.Error("a file was replaced")
	}
}

// passOn sends a connection through another socket, as a supervisor does.
func passOn(t *testing.T, conn *net.UnixConn) *net.UnixConn {
	t.Helper()
	defer conn.Close()
	a, b, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	if err := SendConn(a, conn); err != nil {
		t.Fatal(err)
	}
	got, err := RecvConn(b)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// HOSTILE 45: the wrong descriptor.
func TestRecvConnRefuses(t *testing.T) {
	leakCheck(t)
	a, b, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	uf, err := udp.(*net.UDPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer uf.Close()
	for _, send := range []struct {
		data string
		fds  []int
	}{{"C", nil}, {"C", []int{int(null.Fd())}}, {"C", []int{int(uf.Fd())}}, {"C", []int{int(null.Fd()), int(null.Fd())}}, {"X", []int{int(null.Fd())}}} {
		var oob []byte
		if send.fds != nil {
			oob = unix.UnixRights(send.fds...)
		}
		if _, _, err := a.WriteMsgUnix([]byte(send.data), oob, nil); err != nil {
			t.Fatal(err)
		}
		if c, err := RecvConn(b); err == nil {
			c.Close()
			t.Errorf("taken: %q with %d descriptors", send.data, len(send.fds))
		}
	}
	a.Close()
	if _, err := RecvConn(b); err == nil {
		t.Error("no error at the end")
	}
}

func TestPeerUser(t *testing.T) {
	a, b, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	if uid, err := peerUID(a); err != nil || uid != os.Geteuid() {
		t.Errorf("uid %d: %v", uid, err)
	}
	if err := checkPeer(a, nil); err != nil {
		t.Error(err)
	}
	was := ourUID
	defer func() { ourUID = was }()
	ourUID = -1
	if err := checkPeer(a, nil); (err == nil) != (os.Geteuid() == 0) {
		t.Errorf("a stranger: %v", err)
	}
	if err := checkPeer(a, []int{os.Geteuid()}); err != nil {
		t.Error(err)
	}
}

// A helper that root starts without naming a user is never root: it begins as
// its own, reads files that are root's alone, also after a reload, and writes
// nowhere.
func TestHelperIsNeverRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("not root: the helper is whoever we are")
	}
	s := newSite(t)
	for _, dir := range []string{s.dir, filepath.Dir(s.dir)} {
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(s.cfg.Certificates[0].Key, 0o600); err != nil {
		t.Fatal(err)
	}
	p, c, log := startHelper(t, s.cfg)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		uid, gid := Account(helperAccount, helperNumber)
		if uid == 0 || gid == 0 {
			t.Fatalf("account %d, group %d", uid, gid)
		}
		want := uint64(1 << unix.CAP_DAC_READ_SEARCH)
		if len(helperCapabilities()) > 1 {
			want |= 1 << unix.CAP_IPC_LOCK
		}
		caps := fmt.Sprintf("%016x", want)
		for _, w := range []string{
			"Uid:" + strings.Repeat(fmt.Sprintf("\t%d", uid), 4), "Gid:" + strings.Repeat(fmt.Sprintf("\t%d", gid), 4), fmt.Sprintf("Groups:\t%d ", gid),
			"CapEff:\t" + caps, "CapPrm:\t" + caps,
		} {
			if !strings.Contains(string(status), w+"\n") {
				t.Errorf("no %q in\n%s", w, status)
			}
		}
		if !slices.Contains(p.Hardening(), "unprivileged") {
			t.Errorf("in force: %q", p.Hardening())
		}
		// A container may take both capabilities away; then there is nothing to lock with.
		var lim unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &lim); err != nil {
			t.Fatal(err)
		}
		possible := lim.Max == unix.RLIM_INFINITY || hasCapability(unix.CAP_SYS_RESOURCE) || hasCapability(unix.CAP_IPC_LOCK)
		if locked := slices.Contains(p.Hardening(), "mlock"); locked != possible || locked && lockedMemory(t, p.Pid()) < 1<<20 {
			t.Errorf("memory is not locked: %d bytes, in force: %q", lockedMemory(t, p.Pid()), p.Hardening())
		}
	}
	if landlockVersion() > 0 && !slices.Contains(p.Hardening(), "landlock") {
		t.Errorf("in force: %q", p.Hardening())
	}
	shake(t, viaHelper(c, serverRequest(nil)), viaHelper(c, clientRequest("files.example.com", "smb"))).ok()
	if err := p.Reload(testContext(t), s.cfg); err != nil {
		t.Errorf("%v\n%s", err, log)
	}
}

const strangerArg = "tlshd-stranger"

func init() {
	if len(os.Args) > 2 && os.Args[1] == strangerArg { // see TestListenRefusesStrangers
		stranger(os.Args[2])
		os.Exit(0)
	}
}

// stranger asks a helper for its capabilities and prints what became of it.
func stranger(path string) {
	conn, err := Dial(context.Background(), path)
	if err != nil {
		fmt.Print(err)
		return
	}
	sock := newSocket(conn)
	var b body
	b.u8(attrVersion, protoVersion)
	b.u8(attrRole, rolePacket)
	_ = sock.write(msgHello, 0, false, b)
	_ = conn.SetReadDeadline(time.Now().Add(testWait))
	if m, err := sock.read(); err != nil {
		fmt.Print("refused")
	} else {
		fmt.Print(m.typ)
	}
}

// Whoever may open the socket, only those users are answered who may use it: the
// kernel says who they are.
func TestListenRefusesStrangers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("not root: there is nobody else to come as")
		return
	}
	s := newSite(t)
	for dir := s.dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.Atoi(nobody.Uid)
	if err != nil {
		t.Fatal(err)
	}
	for allowed, want := range map[bool]string{false: "refused", true: msgCaps.String()} {
		srv, err := NewServer(s.cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(s.dir, fmt.Sprintf("%v.sock", allowed))
		var uids []int
		if allowed {
			uids = []int{uid}
		}
		l, err := Listen(path, uids)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o666); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(testContext(t))
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := l.Serve(ctx, srv); err != nil {
				t.Error(err)
			}
		})
		cmd := exec.Command("/proc/self/exe", strangerArg, path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != want {
			t.Errorf("allowed %v: %q, %v; want %s", allowed, out, err, want)
		}
		if n := srv.Stats().RefusedPeers; (n == 1) == allowed {
			t.Errorf("allowed %v: %d were refused", allowed, n)
		}
		cancel()
		wg.Wait()
		srv.Close()
	}
}

// lockedMemory is how much of a process's memory can't be swapped out.
func lockedMemory(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	var kb int64
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmLck:"); ok {
			_, err = fmt.Sscan(rest, &kb)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// What Landlock takes away is gone for the thread that asked, and for nobody else.
func TestFileRules(t *testing.T) {
	if landlockVersion() == 0 {
		if err := (FileRules{}).RestrictThread(); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("a kernel without landlock: %v", err)
		}
		return
	}
	dir := t.TempDir()
	for _, d := range []string{"readable", "writable", "neither"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, d, "f"), []byte("x"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	try := func() map[string]bool {
		out := map[string]bool{}
		for _, d := range []string{"readable", "writable", "neither"} {
			_, err := os.ReadFile(filepath.Join(dir, d, "f"))
			out["read "+d] = err == nil
			out["write "+d] = os.WriteFile(filepath.Join(dir, d, "g"), nil, 0o666) == nil
			out["remove "+d] = os.Remove(filepath.Join(dir, d, "g")) == nil
		}
		return out
	}
	// The goroutine ends locked, and takes its thread along.
	restricted := make(chan map[string]bool)
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := (FileRules{Read: []string{filepath.Join(dir, "readable"), "/none"}, Write: []string{filepath.Join(dir, "writable")}}).RestrictThread(); err != nil {
			failed <- err
			return
		}
		restricted <- try()
	}()
	select {
	case err := <-failed:
		t.Fatal(err)
	case got := <-restricted:
		want := map[string]bool{"read readable": true, "write readable": false, "remove readable": false,
			"read writable": true, "write writable": true, "remove writable": true,
			"read neither": false, "write neither": false, "remove neither": false}
		if !maps.Equal(got, want) {
			t.Errorf("got %v\nwant %v", got, want)
		}
	}
	for what, ok := range try() {
		if !ok {
			t.Errorf("another thread may not %s", what)
		}
	}
}

// A helper yields to the process that started it, with every thread.
func TestHelperYields(t *testing.T) {
	p, _, _ := startHelper(t, newSite(t).cfg)
	nice := func(stat string) int {
		b, err := os.ReadFile(stat)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		n, err := strconv.Atoi(strings.Fields(rest)[16])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	want := min(nice("/proc/thread-self/stat")+helperNice, 19)
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.Pid()))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("%d threads, %v", len(tasks), err)
	}
	for _, task := range tasks {
		if got := nice(task); got != want {
			t.Errorf("%s: nice %d, want %d", task, got, want)
		}
	}
}
