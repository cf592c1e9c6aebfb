package tlshd

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// isolationLevels is the most isolation that a start is tried with, then less:
// a container may not let even root make a network namespace or change users.
const isolationLevels = isolateUser | isolateNetwork

// The bits of an isolation level.
const (
	isolateNetwork = 1 << iota
	isolateUser
)

// sysProcAttr puts the helper into a process group of its own, so that a
// terminal's Ctrl-C is the supervisor's to handle, makes it die with the
// supervisor, and, for root, takes the network and, where no user is configured,
// root away from it.
func sysProcAttr(level int, cfg *Config) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		return a
	}
	if level&isolateNetwork != 0 {
		a.Cloneflags = syscall.CLONE_NEWNET
	}
	if level&isolateUser != 0 && cfg.User == "" && cfg.Group == "" {
		helperCredential(a)
	}
	return a
}

// restrictHelperThread makes the calling thread, and so the helper that it
// starts, unable to change any file. It may read all that its user may: the next
// reload can name files anywhere.
func restrictHelperThread() error { return FileRules{ReadAll: true}.RestrictThread() }

// unlimitLocking lets a helper that is not root keep its memory out of swap.
func unlimitLocking(pid int) {
	if os.Geteuid() == 0 {
		inf := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
		_ = unix.Prlimit(pid, unix.RLIMIT_MEMLOCK, &inf, nil) // harden reports whether it holds
	}
}

// noNewPrivsThread applies to the calling thread and what it starts.
func noNewPrivsThread() {
	_ = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) // harden reports whether it holds
}

// helperNice is how much the helper yields to the packet process where both want a
// processor: a flood of handshakes then gets a quarter of it, and the packets of
// live connections the rest. Where there is processor to spare it changes nothing.
const helperNice = 5

// yieldThread applies to the calling thread and what it starts.
func yieldThread() {
	if n, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil {
		// The system call's own numbers: 20 less the nice value.
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, min(20-n+helperNice, 19))
	}
}

// harden gives up what a process that has read its keys does not need, and
// returns the names of what is in force. It fails if the user it should become
// can not be become, and otherwise does what the system lets it do. exec and new
// sockets are gone afterwards in a spawned helper.
func harden(cfg Config, spawned bool) ([]string, error) {
	var steps []string
	did := func(name string, err error) {
		if err == nil {
			steps = append(steps, name)
		}
	}
	did("no-core", unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}))
	did("mlock", lockMemory(cfg.User == "" && cfg.Group == ""))
	switch err := becomeUser(cfg.User, cfg.Group); {
	case err != nil:
		return steps, err
	case os.Geteuid() != 0:
		steps = append(steps, "unprivileged")
	}
	// After the change of user, which sets it anew.
	did("no-dump", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
	did("no-new-privs", noNewPrivs())
	if spawned {
		did("seccomp", restrictSyscalls(forbiddenSpawned))
	} else {
		did("landlock", FileRules{ReadAll: true}.restrictProcess())
		did("seccomp", restrictSyscalls(forbiddenHelper))
	}
	return steps, nil
}

// HardenPacketProcess takes from the process on the network what it does not
// need: it can start no program or process, listen nowhere new, trace nobody and
// leave no core dump with its traffic secrets. Whoever started it has chosen its
// user and its FileRules. The names of what is in force are returned.
func HardenPacketProcess() []string {
	var steps []string
	did := func(name string, err error) {
		if err == nil {
			steps = append(steps, name)
		}
	}
	if os.Geteuid() != 0 {
		steps = append(steps, "unprivileged")
	}
	did("no-core", unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}))
	did("no-dump", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
	did("no-new-privs", noNewPrivs())
	did("seccomp", restrictSyscalls(forbiddenPacket))
	return steps
}

// Harden is for a helper that runs as a service of its own: it drops root to
// cfg's user and gives up what the process does not need, once everything is
// open. The names of what is in force are returned.
func Harden(cfg Config) ([]string, error) { return harden(cfg, false) }

// lockMemory keeps keys out of swap. Without a limit only, or with the capability
// that stands above it, if that stays: later allocations would fail at the limit,
// and take the process along.
func lockMemory(staysItself bool) error {
	var lim unix.Rlimit
	inf := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &lim); err != nil {
		return err
	}
	if lim.Cur != inf.Cur && !(staysItself && hasCapability(unix.CAP_IPC_LOCK)) {
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &inf); err != nil {
			return err
		}
	}
	return unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
}

// noNewPrivs makes it so for every thread, or finds it inherited.
func noNewPrivs() error {
	if v, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err == nil && v == 1 {
		return nil
	}
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// becomeUser changes all ids of all threads. Only root can; for everybody else
// being that user already is enough.
func becomeUser(name, group string) error {
	if name == "" && group == "" {
		return nil
	}
	uid, gid, err := lookup(name, group)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		if uid == os.Geteuid() && (group == "" || gid == os.Getegid()) {
			return nil
		}
		return fmt.Errorf("tlshd: become user %q, group %q: only root can (start as root, or leave user and group empty)", name, group)
	}
	if err := syscall.Setgroups([]int{gid}); err != nil {
		return fmt.Errorf("tlshd: give up supplementary groups: %w", err)
	}
	if err := syscall.Setresgid(gid, gid, gid); err != nil {
		return fmt.Errorf("tlshd: become group %d: %w", gid, err)
	}
	if err := syscall.Setresuid(uid, uid, uid); err != nil {
		return fmt.Errorf("tlshd: become user %d: %w", uid, err)
	}
	if uid != 0 && syscall.Setuid(0) == nil {
		return errors.New("tlshd: root came back after it was given up")
	}
	return nil
}

func lookup(name, group string) (uid, gid int, err error) {
	uid, gid = os.Geteuid(), os.Getegid()
	if name != "" {
		u, err := user.Lookup(name)
		if err != nil {
			if u, err = user.LookupId(name); err != nil {
				if uid, err = strconv.Atoi(name); err != nil || uid < 0 {
					return 0, 0, fmt.Errorf("tlshd: there is no user %q", name)
				}
				if group == "" {
					return 0, 0, fmt.Errorf("tlshd: user %d has no entry, so its group has to be named", uid)
				}
			}
		}
		if u != nil {
			// Numbers on every Unix.
			uid, _ = strconv.Atoi(u.Uid)
			gid, _ = strconv.Atoi(u.Gid)
		}
	}
	if group != "" {
		id := group
		if g, err := user.LookupGroup(group); err == nil {
			id = g.Gid
		}
		if gid, err = strconv.Atoi(id); err != nil || gid < 0 {
			return 0, 0, fmt.Errorf("tlshd: there is no group %q", group)
		}
	}
	return uid, gid, nil
}
