package tlshd

import (
	"os"
	"os/user"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// The account of a helper that root starts without naming one. Where it does
// not exist a number takes its place that nobody has: the range is the one that
// systemd's DynamicUser= takes its numbers from.
const (
	helperAccount = "quic-fsgw-tlshd"
	helperNumber  = 61444
)

// Account returns the ids of an account, or of a number from first up that
// nobody has, if there is no such account.
func Account(name string, first int) (uid, gid int) {
	if u, err := user.Lookup(name); err == nil {
		uid, uidErr := strconv.Atoi(u.Uid)
		gid, gidErr := strconv.Atoi(u.Gid)
		if uidErr == nil && gidErr == nil && uid != 0 {
			return uid, gid
		}
	}
	for n := first; ; n++ {
		_, userErr := user.LookupId(strconv.Itoa(n))
		_, groupErr := user.LookupGroupId(strconv.Itoa(n))
		if userErr != nil && groupErr != nil {
			return n, n
		}
	}
}

// helperCredential lets a helper begin as its own account instead of becoming
// it later: it is never root. One capability of root's is left to it, to read
// files that it may not, so that renewed keys stay root's alone, and a second one
// where it needs that to keep them out of swap.
func helperCredential(a *syscall.SysProcAttr) {
	uid, gid := Account(helperAccount, helperNumber)
	a.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), Groups: []uint32{uint32(gid)}}
	a.AmbientCaps = helperCapabilities()
}

func helperCapabilities() []uintptr {
	caps := []uintptr{unix.CAP_DAC_READ_SEARCH}
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &lim); err == nil && lim.Max != unix.RLIM_INFINITY && !hasCapability(unix.CAP_SYS_RESOURCE) && hasCapability(unix.CAP_IPC_LOCK) {
		caps = append(caps, unix.CAP_IPC_LOCK) // unlimitLocking can't
	}
	return caps
}

// hasCapability reports whether this process has a capability in effect.
func hasCapability(n int) bool {
	var sets [2]unix.CapUserData
	err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &sets[0])
	return err == nil && sets[n/32].Effective&(1<<(n%32)) != 0
}

// ownExecutable is a name for this program that whoever it runs as can
// execute, whatever folders it is in.
func ownExecutable() (string, error) {
	const self = "/proc/self/exe"
	if _, err := os.Stat(self); err == nil {
		return self, nil
	}
	return os.Executable()
}
