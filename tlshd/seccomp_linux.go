//go:build linux && (amd64 || arm64)

package tlshd

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// forbidden are calls that a process which parses what strangers send, or holds
// keys, must not be able to make, whatever happens to it. None of ours needs them.
var forbidden = []uint32{
	unix.SYS_EXECVE, unix.SYS_EXECVEAT, unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV,
	unix.SYS_PIDFD_GETFD, unix.SYS_KCMP, unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_SETNS, unix.SYS_UNSHARE,
	unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_FSOPEN,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD,
	unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL,
	unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_PERSONALITY, unix.SYS_QUOTACTL, unix.SYS_REBOOT, unix.SYS_SWAPON, unix.SYS_SWAPOFF,
	unix.SYS_ACCT, unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_ADJTIMEX,
	unix.SYS_MKNODAT, unix.SYS_LINKAT, unix.SYS_SYMLINKAT, unix.SYS_FCHMODAT, unix.SYS_FCHOWNAT, unix.SYS_TRUNCATE,
}

// forbiddenHelper adds what no helper needs: it talks to nobody that it has to
// look for.
var forbiddenHelper = append([]uint32{unix.SYS_CONNECT, unix.SYS_BIND}, forbidden...)

// forbiddenPacket adds what the process on the network does not need: it
// inherits what it listens on.
var forbiddenPacket = append([]uint32{
	unix.SYS_LISTEN, unix.SYS_SOCKETPAIR,
	unix.SYS_SETUID, unix.SYS_SETGID, unix.SYS_SETREUID, unix.SYS_SETREGID, unix.SYS_SETRESUID, unix.SYS_SETRESGID, unix.SYS_SETGROUPS, unix.SYS_CAPSET,
}, forbidden...)

// forbiddenSpawned adds what only a helper that listens itself has a use for.
var forbiddenSpawned = append([]uint32{
	unix.SYS_SOCKET, unix.SYS_SOCKETPAIR, unix.SYS_LISTEN, unix.SYS_ACCEPT, unix.SYS_ACCEPT4,
	unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_UNLINKAT, unix.SYS_MKDIRAT,
}, forbiddenHelper...)

const (
	seccompErrno = unix.SECCOMP_RET_ERRNO
	cloneThread  = unix.CLONE_THREAD
	x32Bit       = 0x40000000

	// Offsets in struct seccomp_data; the flags of clone are its first argument
	// on the architectures we know.
	offNr   = 0
	offArch = 4
	offArg0 = 16
)

// seccompFilter refuses foreign architectures, the calls given and new processes;
// clone3, whose flags are in memory, does not exist, so that libraries fall back
// to clone.
func seccompFilter(calls []uint32) []unix.SockFilter {
	load := func(off uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: off}
	}
	ret := func(v uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: v} }
	jump := func(op uint16, k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, K: k, Jt: yes, Jf: no}
	}
	eperm, enosys := ret(seccompErrno|uint32(unix.EPERM)), ret(seccompErrno|uint32(unix.ENOSYS))
	f := []unix.SockFilter{
		load(offArch),
		jump(unix.BPF_JEQ, auditArch, 1, 0),
		eperm,
		load(offNr),
		jump(unix.BPF_JGE, x32Bit, 0, 1),
		eperm,
		jump(unix.BPF_JEQ, unix.SYS_CLONE3, 0, 1),
		enosys,
		jump(unix.BPF_JEQ, unix.SYS_CLONE, 0, 4),
		load(offArg0),
		jump(unix.BPF_JSET, cloneThread, 1, 0),
		eperm,
		ret(unix.SECCOMP_RET_ALLOW),
	}
	for _, nr := range append(append([]uint32{}, calls...), archForbidden...) {
		f = append(f, jump(unix.BPF_JEQ, nr, 0, 1), eperm)
	}
	return append(f, ret(unix.SECCOMP_RET_ALLOW))
}

// restrictSyscalls makes the calls fail with EPERM, on every thread and for good.
func restrictSyscalls(calls []uint32) error {
	filter := seccompFilter(calls)
	prog := &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	r, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(prog)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return errno
	}
	if r != 0 {
		return fmt.Errorf("thread %d could not be restricted", r)
	}
	return nil
}
