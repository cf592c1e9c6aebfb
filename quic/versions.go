package quic

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	mrand "math/rand/v2"
	"slices"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// Version negotiation (RFC 9368), and what both ends do so that nobody gets
// used to the bits that may change: reserved versions, reserved transport
// parameters, the QUIC bit (RFC 9287).
//
//   - Compatible: the client's first flight is understood in any version here.
//     The server learns from its version_information what else it speaks, takes
//     the version it likes best itself, and answers in that. It costs nothing.
//   - Incompatible: the server does not speak the client's first version. It
//     answers with a Version Negotiation packet, and the client starts over.
//
// The transport parameters, which TLS authenticates, then show whether
// somebody in between has steered the choice.

// Version is a QUIC version number.
type Version = wire.Version

// The QUIC versions spoken here.
const (
	Version1 = wire.Version1 // RFC 9000
	Version2 = wire.Version2 // RFC 9369
)

// RFC 9368, Section 2.2: "Implementations MUST NOT assume compatibility between
// versions unless explicitly specified."
var defaultVersions = []Version{Version1, Version2}

// versionState is what version negotiation has to remember.
type versionState struct {
	original  Version      // of the client's first flight; after Version Negotiation, of the second
	fixed     bool         // client: the server has shown which version it took
	reacted   bool         // client: original is the choice from a Version Negotiation packet
	initialRx *protect.Key // server: opens Initials of the original version, where another was taken
}

func (v *versionState) drop() {
	if v.initialRx != nil {
		v.initialRx.Zero()
		v.initialRx = nil
	}
}

// versions are the versions of a Config, best first.
func (c *Config) versions() []Version {
	if len(c.Versions) == 0 {
		return defaultVersions
	}
	return c.Versions
}

// firstVersion is what a client begins with, and whether that is allowed.
func (c *Config) firstVersion() (v Version, ok bool) {
	if c.FirstVersion == 0 {
		return c.versions()[0], true
	}
	return c.FirstVersion, slices.Contains(c.versions(), c.FirstVersion)
}

// firstOf returns the first of the wanted versions that is offered, 0 if none is.
func firstOf(wanted, offered []Version) Version {
	for _, v := range wanted {
		if v.Known() && slices.Contains(offered, v) {
			return v
		}
	}
	return 0
}

// Version returns the QUIC version in use. It is final once the handshake is complete.
func (c *Conn) Version() Version {
	c.lock()
	defer c.unlock()
	return c.version
}

// versionInfo is the version_information parameter: the version in use, and
// all that may be asked for, with a reserved one among them.
//
// RFC 9368, Section 3: "Note that the version in the Chosen Version field MUST
// be included in this list to allow the client to communicate the Chosen
// Version's preference."
//
// RFC 9369, Section 4: "Any QUIC endpoint that supports QUIC version 2 MUST
// send, process, and validate the version_information transport parameter
// specified in [QUIC-VN] to prevent version downgrade attacks."
func (c *Conn) versionInfo() []byte {
	var random [5]byte
	_, _ = rand.Read(random[:]) // never fails
	all := slices.Clone(c.cfg.versions())
	all = slices.Insert(all, int(random[4])%(len(all)+1), wire.ReservedVersion(binary.BigEndian.Uint32(random[:4])))
	if !slices.Contains(all, c.version) {
		all = append(all, c.version)
	}
	info := wire.VersionInfo{Chosen: c.version, Available: all}
	return info.Append(nil)
}

// greaseParams adds what a peer has to ignore to our transport parameters.
func greaseParams(p *wire.TransportParams) {
	var random [8 + 8]byte
	_, _ = rand.Read(random[:]) // never fails
	p.GreaseID = max(binary.BigEndian.Uint64(random[:]), 1)
	p.GreaseData = random[8:] // always as long, so that simulations repeat themselves
}

// greaseBit clears the QUIC bit of a packet's first byte half of the time.
// RFC 9287, Section 3.1: "Endpoints that receive the grease_quic_bit transport
// parameter from a peer SHOULD set the QUIC Bit to an unpredictable value unless
// another extension assigns specific meaning to the value of the bit." "An
// endpoint MUST NOT set the QUIC Bit to 0 without knowing whether the peer
// supports the extension."
//
// RFC 9287, Section 3.1: "However, a client MUST NOT set the QUIC Bit to 0
// unless the Initial packets it sends include a token provided by the server in
// a NEW_TOKEN frame (Section 19.7 of [QUIC])"
func (c *Conn) greaseBit(first *byte) {
	if c.greases && mrand.Uint32()&1 == 0 {
		wire.ClearFixedBit(first)
	}
}

// greaseBits says for the packets of a batch, one bit each, which QUIC bits to set to 0.
func (c *Conn) greaseBits() uint64 {
	if c.greases {
		return mrand.Uint64()
	}
	return 0
}

// errVersion is a failure of version negotiation.
type errVersion string

func (e errVersion) Error() string { return string(e) }

// errNoService: the client's QUIC versions are not those of the service that it
// asks for.
var errNoService = errors.New("no QUIC version in common for this service")

// negotiateVersion applies the peer's version_information.
//
// RFC 9368, Section 4: "Both endpoints MUST parse their peer's Version
// Information during the handshake."
//
// RFC 9368, Section 8: "Note that implementations that wish to use version
// negotiation to negotiate versions other than QUIC version 1 MUST implement
// the version negotiation mechanism defined in this document."
func (c *Conn) negotiateVersion(p *wire.TransportParams) error {
	var info wire.VersionInfo
	if p.VersionInfo != nil {
		var err error
		if info, err = wire.ParseVersionInfo(p.VersionInfo, !c.server); err != nil {
			return err
		}
	}
	if c.server {
		return c.chooseVersion(&info)
	}
	return c.checkVersion(&info)
}

// chooseVersion takes the version that this server likes best of those that
// the client offers.
//
// RFC 9001, Section 8.1: "Servers MUST select an application protocol
// compatible with the QUIC version that the client has selected."
//
// RFC 9368, Section 2.3: "In order to perform compatible version negotiation,
// the server MUST select one of these versions that it (1) supports and (2)
// knows the client's Chosen Version is compatible with."
func (c *Conn) chooseVersion(info *wire.VersionInfo) error {
	offered := []Version{c.ver.original}
	if info.Chosen != 0 {
		// RFC 9368, Section 4: "the server MUST validate that the client's Chosen
		// Version matches the version in use for the connection. If the two differ,
		// the server MUST close the connection with a version negotiation error."
		//
		// RFC 9368, Section 4: "the server MUST close the connection with a
		// version negotiation error."
		if info.Chosen != c.ver.original {
			return errVersion("the client's packets are not of the version it says it chose")
		}
		offered = info.Available
	}
	v := firstOf(c.cfg.versions(), offered)
	if v == 0 {
		// RFC 9368, Section 2.3: "If the first flight is correctly formatted,
		// then this conversion process cannot fail by definition of the first
		// flight being compatible; if the server is unable to convert the first
		// flight, it MUST abort the handshake."
		return errNoService
	}
	if v == c.version {
		return nil
	}
	// RFC 9369, Section 4.1: "The server MUST NOT discard its original version
	// Initial receive keys until it successfully processes a Handshake packet with
	// the negotiated version."
	old := c.keys[recovery.Initial]
	c.ver.initialRx = old.rx
	if old.tx != nil {
		old.tx.Zero()
	}
	c.version = v
	// RFC 9369, Section 4.1: "The server MUST send all CRYPTO frames using the
	// negotiated version."
	//
	// RFC 9369, Section 4.1: "Both endpoints MUST send Handshake and 1-RTT
	// packets using the negotiated version."
	c.keys[recovery.Initial] = initialKeys(v, c.firstDst, true)
	return nil
}

// checkVersion makes sure, at a client, that the version in use is the one that
// both ends would have taken with nobody in between.
//
// RFC 9368, Section 4: "If the client received and acted on a Version
// Negotiation packet, the client MUST validate the server's Available Versions
// field."
func (c *Conn) checkVersion(info *wire.VersionInfo) error {
	available := info.Available
	if info.Chosen == 0 {
		// RFC 9368, Section 4: "If a client has reacted to a Version
		// Negotiation packet and the server's Version Information was
		// missing, the client MUST close the connection with a version
		// negotiation error."
		//
		// Section 8: "if a client is starting a QUIC version 1
		// connection in response to a received Version Negotiation
		// packet and the version_information transport parameter is
		// missing from the server's transport parameters, then the
		// client SHALL proceed as if the server's transport parameters
		// contained a version_information transport parameter with a
		// Chosen Version set to 0x00000001 and an Available Version
		// list containing exactly one version set to 0x00000001."
		//
		// RFC 9368, Section 4: "Clients MUST NOT complete the handshake if they
		// are reacting to a Version Negotiation packet and the Version
		// Information is missing, but MAY do so otherwise."
		if c.version != c.ver.original || c.ver.reacted && c.version != Version1 {
			return errVersion("the server sends no version information")
		}
		available = []Version{Version1}
	} else if info.Chosen != c.version {
		// RFC 9368, Section 4: "If a client receives Version Information where
		// the server's Chosen Version was not sent by the client as part of its
		// Available Versions, the client MUST close the connection with a
		// version negotiation error."
		//
		// RFC 9368, Section 4: "clients MUST validate that the server's
		// Chosen Version is equal to the Negotiated Version; if they do
		// not match, the client MUST close the connection with a
		// version negotiation error."
		return errVersion("the server's packets are not of the version it says it chose")
	}
	if !c.ver.reacted {
		return nil
	}
	// RFC 9368, Section 4: "the client would have selected the same version if
	// it received a Version Negotiation packet that listed the versions in the
	// server's Available Versions field, plus the Negotiated Version. If the
	// client would have selected a different version, the client MUST close the
	// connection with a version negotiation error." "In particular, if the
	// client reacted to a Version Negotiation packet and the server's Available
	// Versions field is empty, the client MUST close the connection".
	if len(available) == 0 || firstOf(c.cfg.versions(), append(slices.Clone(available), c.version)) != c.ver.original {
		return errVersion("the Version Negotiation packet was not what the server offers")
	}
	return nil
}

// closeOnParams closes the connection for transport parameters that were refused.
//
// RFC 9001, Section 8.1: "The server MUST treat the inability to select a
// compatible application protocol as a connection error of type 0x0178
// (no_application_protocol)."
func (c *Conn) closeOnParams(err error) {
	var v errVersion
	if errors.As(err, &v) {
		_ = c.fail(VersionNegotiationError, 0, err.Error())
		return
	}
	if err == errNoService {
		_ = c.fail(CryptoErrorBase+TransportErrorCode(AlertNoApplicationProtocol), 0, err.Error())
		return
	}
	_ = c.fail(TransportParameterError, 0, err.Error())
}

// longKey is the key that may open an Initial or Handshake packet; nil, if
// there is none (any more, or yet). other reports that opening the packet makes
// a client take its version.
//
// RFC 9000, Section 5.2.1: "If a client receives a packet that uses a different
// version than it initially selected, it MUST discard that packet."
//
// RFC 9369, Section 4.1: "An endpoint MUST drop packets using any other
// version."
func (c *Conn) longKey(h *wire.LongHeader, space recovery.Space) (key *protect.Key, other, ok bool) {
	if h.Version == c.version {
		return c.keys[space].rx, false, true
	}
	if c.server {
		return c.ver.initialRx, false, space == recovery.Initial && h.Version == c.ver.original && c.ver.initialRx != nil
	}
	// RFC 9369, Section 4.1: "The client learns the negotiated version by
	// observing the first long header Version field that differs from the
	// original version. If the client receives a CRYPTO frame from the
	// server in the original version, it indicates that the negotiated
	// version is equal to the original version."
	if c.ver.fixed || c.keys[recovery.Initial].rx == nil || !slices.Contains(c.cfg.versions(), h.Version) {
		return nil, false, false
	}
	if space != recovery.Initial {
		return nil, true, true // to be kept until the version is known
	}
	rx, _ := initialPair(h.Version, c.ids.initial, false)
	return rx, true, rx != nil
}

// takeVersion has a client go on in the version that the server has taken.
func (c *Conn) takeVersion(v Version) {
	c.version, c.ver.fixed = v, true
	old := c.keys[recovery.Initial]
	c.keys[recovery.Initial] = initialKeys(v, c.ids.initial, false)
	old.drop()
}

// onVersionNegotiation has a client start over in a version that the server
// speaks, or give up. RFC 9000, Section 6.2: "A client MUST discard any Version
// Negotiation packet if it has received and successfully processed any other
// packet, including an earlier Version Negotiation packet. A client MUST discard
// a Version Negotiation packet that lists the QUIC version selected by the
// client."
//
// RFC 9368, Section 2.1: "Upon receiving the Version Negotiation packet, the
// client SHALL search for a version it supports in the list provided by the
// server."
func (c *Conn) onVersionNegotiation(h *wire.LongHeader) {
	// RFC 9368, Section 2.1: "Clients MUST NOT send Version Negotiation packets
	// and servers MUST ignore all received Version Negotiation packets."
	//
	// RFC 9368, Section 4: "A client that makes a connection attempt based on
	// information received from a Version Negotiation packet MUST ignore any
	// Version Negotiation packets it receives in response to that connection
	// attempt."
	if c.server || len(c.ids.remote) > 0 || c.retried || c.ver.reacted || !c.ownDst(h.Dst) || h.Src != c.ids.initial {
		return
	}
	var offered []Version
	for i := range h.NumVersions() {
		v := h.VersionAt(i)
		// RFC 9368, Section 4: "Clients MUST ignore any received Version
		// Negotiation packets that contain the Original Version."
		if v == c.version {
			return
		}
		offered = append(offered, v)
	}
	v := firstOf(c.cfg.versions(), offered)
	if v == 0 {
		// RFC 9000, Section 6.2: "A client that supports only this version of
		// QUIC MUST abandon the current connection attempt if it receives a
		// Version Negotiation packet, with the following two exceptions."
		list := make([]uint32, len(offered))
		for i := range offered {
			list[i] = uint32(offered[i])
		}
		// RFC 9368, Section 2.1: "If it doesn't find one, it SHALL abort the
		// connection attempt."
		c.abandon(&VersionError{Versions: list})
		return
	}
	c.restart(v)
}

// restart begins a client's handshake again in another version. Packet numbers
// go on, connection IDs stay: the server has kept nothing.
//
// RFC 9368, Section 2.1: "Otherwise, it SHALL select a mutually supported
// version and send a new first flight with that version -- this version is now
// the Negotiated Version."
//
// RFC 9368, Section 6: "the second connection that is created in response to
// the received Version Negotiation packet MUST restart its application-layer
// protocol negotiation process without taking into account the Original
// Version."
func (c *Conn) restart(v Version) {
	c.log().Debug("starting over", "version", v, "instead", c.version)
	c.hs.Close()
	c.hsEpoch++
	c.beginAgain()
	c.ver.reacted = true
	c.version, c.ver.original = v, v
	c.keys[recovery.Initial] = initialKeys(v, c.ids.initial, false)
	c.loss.OnRetry(func(*recovery.SentPacket) {})
	initial := c.cryptoOf(recovery.Initial)
	*initial = cryptoStream{limit: initial.limit}
	c.probes[recovery.Initial] = 0
	c.token = c.cfg.Tokens.take(c.tokenServer(), v)
	c.lastHeard = c.now()
	c.early.offered = false
	c.startClient()
	c.dirty = true
}
