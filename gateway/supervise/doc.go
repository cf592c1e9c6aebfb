// Package supervise runs the processes of a gateway. The supervisor holds the
// UDP sockets and parses nothing from the network; it starts the packet
// process, which parses all of it and holds no key, and the handshake helper,
// which holds the keys, and starts each again when it dies.
//
// It is for Linux only, as the gateway is.
package supervise

// ProfileFD names the descriptor of Config.Profile's file in the environment of a
// packet process.
const ProfileFD = "QUIC_FSGW_CPUPROFILE_FD"
