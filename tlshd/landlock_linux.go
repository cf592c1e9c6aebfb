package tlshd

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// FileRules say what a process may still do in the file system, beyond the
// descriptors that it has: Landlock takes the rest from it and from all that it
// starts, whoever it runs as. Paths that do not exist are passed over.
type FileRules struct {
	ReadAll bool
	Read    []string // files, and folders with everything below them
	Write   []string // folders to make, write and remove files in
}

const (
	landlockRead  = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	landlockWrite = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_MAKE_SYM
	// Those that a rule about a file, rather than a folder, may name.
	landlockOfFile = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
)

// landlockVersion is what the kernel offers; 0: nothing.
func landlockVersion() int {
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(v)
}

// ruleset makes the rules, as a descriptor that is the caller's to close. To
// execute programs is not among what they handle: the system-call filter of a
// process that has begun forbids that, and the start of one needs it.
func (r FileRules) ruleset() (int, error) {
	version := landlockVersion()
	if version < 1 {
		return -1, fmt.Errorf("landlock: %w", errors.ErrUnsupported)
	}
	write := uint64(landlockWrite)
	if version >= 2 {
		write |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if version >= 3 {
		write |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: write}
	size := unsafe.Sizeof(attr.Handled_access_fs)
	if !r.ReadAll {
		attr.Handled_access_fs |= landlockRead
	}
	if version >= 5 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if version >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_SIGNAL | unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
		size = unsafe.Offsetof(attr.Scoped) + unsafe.Sizeof(attr.Scoped)
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return -1, fmt.Errorf("landlock: make rules: %w", errno)
	}
	err := allowBelow(int(fd), attr.Handled_access_fs&landlockRead, r.Read)
	if err == nil {
		err = allowBelow(int(fd), (attr.Handled_access_fs&landlockRead)|write, r.Write)
	}
	if err == nil {
		// The Go runtime opens it for a standard descriptor that is missing.
		err = allowBelow(int(fd), attr.Handled_access_fs&landlockOfFile, []string{os.DevNull})
	}
	if err != nil {
		_ = unix.Close(int(fd))
		return -1, err
	}
	return int(fd), nil
}

func allowBelow(ruleset int, access uint64, paths []string) error {
	for _, p := range paths {
		fd, err := unix.Open(p, unix.O_PATH|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("landlock: %s: %w", p, err)
		}
		rule := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(fd)}
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			rule.Allowed_access &= landlockOfFile
		}
		if rule.Allowed_access != 0 {
			_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
			if errno != 0 {
				err = fmt.Errorf("landlock: %s: %w", p, errno)
			}
		}
		_ = unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}

// RestrictThread puts the rules in force for the calling thread and the
// processes that it starts from now on. The goroutine has to be locked to its
// thread, and to stay so until it ends.
func (r FileRules) RestrictThread() error {
	fd, err := r.ruleset()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	noNewPrivsThread()
	if _, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(fd), 0, 0); errno != 0 {
		return fmt.Errorf("landlock: %w", errno)
	}
	return nil
}

// restrictProcess puts the rules in force for every thread. The process has
// given up new privileges.
func (r FileRules) restrictProcess() error {
	fd, err := r.ruleset()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(fd), unix.LANDLOCK_RESTRICT_SELF_TSYNC, 0); errno == 0 {
		return nil
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(fd), 0, 0); errno != 0 {
		return fmt.Errorf("landlock: %w", errno)
	}
	return nil
}
