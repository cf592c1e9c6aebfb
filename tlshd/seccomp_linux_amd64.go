package tlshd

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_X86_64

// archForbidden are the older forms of forbidden calls.
var archForbidden = []uint32{unix.SYS_FORK, unix.SYS_VFORK, unix.SYS_MKNOD, unix.SYS_LINK, unix.SYS_SYMLINK, unix.SYS_CHMOD, unix.SYS_CHOWN, unix.SYS_LCHOWN, unix.SYS_KEXEC_FILE_LOAD}
