//go:build unix && !linux && !darwin && !freebsd

package udp

// dontFragment: this system has no option for IPv4.
func dontFragment(uintptr, bool, bool) bool { return false }
