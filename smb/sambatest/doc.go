// Package sambatest runs Samba for tests: smbd as a real SMB server, smbclient
// and smbtorture as real clients, over TCP and over QUIC. It needs Linux, root
// and the tree that testenv/setup-chroot.sh builds (make deps), and fails a test
// that lacks them; it never skips.
//
// Each program runs in a process namespace of its own, so that whatever it
// starts is gone with it, and in a mount namespace in which the test's directory
// is the chroot's /mnt. Servers listen on free loopback ports.
package sambatest

// Chroot's default place, and the variable that names another.
const (
	DefaultChroot = "/var/tmp/quic-fsgw/forky"
	ChrootEnv     = "QUIC_FSGW_CHROOT"
)

// Host is the name Samba's clients find the loopback address under. They never
// try QUIC with an IP address.
const Host = "smbquic.test"

// The share, its user and another one, as every server has them.
const (
	Share     = "share"
	User      = "smbu"
	Password  = "Pa55word!"
	OtherUser = "smbv"
)
