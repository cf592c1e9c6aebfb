// Package config turns the YAML file that the user writes into a checked,
// normalised Config. It is the only package that knows YAML.
//
// The struct tags below are the one description of the format: the decoder,
// the printer, the JSON schema (docs/config.schema.json) and the reference
// (docs/config.md) all read them. Tags:
//
//	yaml     the key
//	doc      one sentence for people
//	default  what an absent key means, in the file's own notation
//	enum     the values allowed, separated by |
//	min,max  bounds, inclusive, in the file's own notation
package config

import (
	"path/filepath"

	"encoding/asn1"

	"github.com/quic-fsgw/quic-fsgw/gateway/access"
)

// Config is a whole, checked file. Parse fills every field: an absent key has
// its default. The zero Config is not valid.
type Config struct {
	Listen []Listen              `yaml:"listen" doc:"UDP addresses to serve on; absent: one entry, :443"`
	Tlshd  Tlshd                 `yaml:"tlshd" doc:"The handshake helper, the only process that reads private keys"`
	Access map[string]AccessRule `yaml:"access" doc:"Named access rules; the name public is built in and means no certificate is asked for"`
	Tags   map[string][]Filter   `yaml:"tags" doc:"Named filters on client certificates, for access rules and the audit log; a client has a tag if its own certificate passes every filter"`
	Routes []Route               `yaml:"routes" doc:"First match wins; a connection that matches none is refused"`
	HTTPS  *HTTPS                `yaml:"https" doc:"Services on TCP; absent: none. A process of its own ends their TLS, the only one beside the handshake helper that reads private keys"`
	QUIC   QUIC                  `yaml:"quic" doc:"Transport settings"`
	Limits Limits                `yaml:"limits" doc:"Bounds on what clients can take"`
	Admin  Admin                 `yaml:"admin" doc:"Metrics, health and the admin socket"`
	Log    Log                   `yaml:"log" doc:"Logs"`
	RunAs  RunAs                 `yaml:"run_as" doc:"Who the packet process is when root starts serve"`
	Client *Client               `yaml:"client" doc:"Trust and identity of the client commands (connect, ls, cat, cp, rm, mkdir, df)"`

	tags     []*access.Tag // compiled, by name
	warnings []Problem
	dec      *decoder                     // knows where everything stands in the file
	read     func(string) ([]byte, error) // of NamedFiles; nil: from the file system
}

// TagsOf lists the tags of a client in the order of their names.
func (c *Config) TagsOf(chain *access.Chain) []string {
	var out []string
	for _, t := range c.tags {
		if t.Of(chain) {
			out = append(out, t.Name())
		}
	}
	return out
}

// Warnings are the problems that do not keep the file from being used.
func (c *Config) Warnings() []Problem { return c.warnings }

// Listen is one UDP address.
type Listen struct {
	UDP    Addr `yaml:"udp" doc:"Address and port, such as :443 (all addresses, IPv4 and IPv6), 192.0.2.1:443 or [2001:db8::1]:443"`
	Shards Auto `yaml:"shards" default:"auto" min:"1" max:"64" doc:"Sockets on this address, one reader each; auto: one per CPU, at most 64"`
}

// Tlshd configures the handshake helper.
type Tlshd struct {
	Mode         string        `yaml:"mode" default:"spawn" enum:"spawn|socket" doc:"spawn: serve starts the helper; socket: the helper is a service of its own"`
	Socket       Path          `yaml:"socket" default:"/run/quic-fsgw/tlshd.sock" doc:"Where the helper listens in mode socket"`
	User         string        `yaml:"user" default:"" doc:"Account a spawned helper becomes after it has read its files, when root starts serve; empty: it begins as quic-fsgw-tlshd, or a number that nobody has, and can read the files of root"`
	Group        string        `yaml:"group" default:"" doc:"Group of the spawned helper; the key files must be readable by it"`
	Certificates []Certificate `yaml:"certificates" doc:"Server certificates, chosen by the name the client asks for"`
	ClientCA     []Path        `yaml:"client_ca" doc:"CA certificates that client certificates must chain to; PEM or DER"`
	CRL          []Path        `yaml:"crl" doc:"Revocation lists for client certificates; PEM or DER"`
	CRLExpired   string        `yaml:"crl_expired" default:"refuse" enum:"refuse|warn" doc:"What a list past its nextUpdate does to the clients of that CA"`
	Groups       []string      `yaml:"groups" enum:"X25519MLKEM768|SecP256r1MLKEM768|SecP384r1MLKEM1024|X25519|P-256|P-384|P-521" doc:"Key exchanges that clients may use; empty: those that Go prefers, X25519MLKEM768 among them; names with MLKEM alone: post-quantum only"`
	TicketKeys   Path          `yaml:"ticket_keys" default:"" doc:"File of session ticket keys shared by several gateways; empty: made at start, kept by the helper"`
	UnsafeKeyLog Path          `yaml:"unsafe_key_log" default:"" doc:"File that the TLS secrets of all connections are appended to, as SSLKEYLOGFILE has them: who reads it can read all traffic. For finding faults only; the environment variable is never looked at"`
}

// Certificate is one server certificate: either Cert and Key, or PFX.
type Certificate struct {
	Names []string `yaml:"names" doc:"Server names this certificate is for; *.example.com for one label below"`
	Cert  Path     `yaml:"cert" default:"" doc:"Certificate chain, leaf first; PEM or DER"`
	Key   Path     `yaml:"key" default:"" doc:"Private key; PEM or DER"`
	PFX   Path     `yaml:"pfx" default:"" doc:"PKCS #12 file instead of cert and key"`

	PFXPassword Path `yaml:"pfx_password_file" default:"" doc:"File whose first line is the password of pfx; empty: no password"`
}

// AccessRule is a named rule. Rule is its compiled form.
type AccessRule struct {
	ClientCertificate string    `yaml:"client_certificate" enum:"required|optional|none" doc:"required; optional: none given is anonymous, one given must pass; none: never asked for"`
	Allow             []Matcher `yaml:"allow" doc:"At least one must match, unless a deny does"`
	Deny              []Matcher `yaml:"deny" doc:"One match anywhere in the chain refuses"`
	ClientCA          []Path    `yaml:"client_ca" doc:"Instead of tlshd.client_ca, for routes with this rule"`
	CRL               []Path    `yaml:"crl" doc:"Instead of tlshd.crl, for routes with this rule"`

	Rule *access.Rule `yaml:"-"`
}

// OwnTrust reports whether clients under this rule are verified by other CAs or
// lists than those of tlshd.
func (r *AccessRule) OwnTrust() bool { return len(r.ClientCA)+len(r.CRL) > 0 }

// Matcher is one entry of allow or deny; exactly one field is set.
type Matcher struct {
	Issuer string `yaml:"issuer" default:"" doc:"Distinguished name (RFC 4514) of an issuer at any position in the chain"`
	SHA256 string `yaml:"sha256" default:"" doc:"SHA-256 of a certificate, 64 hex digits, colons allowed; in allow the client's own, in deny any of its chain"`
	SAN    string `yaml:"san" default:"" doc:"Subject alternative name of the client's own certificate: dns:, email:, upn:, uri: or ip: and a value; * and ip prefixes allowed"`
	Tag    string `yaml:"tag" default:"" doc:"One of tags"`
	Any    bool   `yaml:"any" default:"false" doc:"In allow only: every certificate that chains to the client CA"`
}

// Filter is one condition of a tag.
type Filter struct {
	Field string `yaml:"field" doc:"subject, issuer, subject.TYPE or issuer.TYPE (CN, O, OU, DC ...), serial, version, not_before, not_after, signature_algorithm, public_key, key_usage, extended_key_usage, san, sha256, self_signed"`
	Match string `yaml:"match" doc:"Pattern for any of the field's values, * for any run of characters, no regard to case; subject and issuer: a whole name (RFC 4514); not_before and not_after also < or > and a date"`
	Not   bool   `yaml:"not" default:"false" doc:"No value may match"`
}

// Route sends one kind of connection to one service: exactly one of SMB, NFS
// and Forward is set.
type Route struct {
	Name    string   `yaml:"name" doc:"Name in logs and metrics: letters, digits, - and _, at most 64"`
	Match   Match    `yaml:"match" doc:"What a connection must look like"`
	Access  string   `yaml:"access" default:"" doc:"Name of an access rule, or public; required for smb and nfs"`
	SMB     *SMB     `yaml:"smb" doc:"SMB over QUIC to SMB servers on TCP"`
	NFS     *NFS     `yaml:"nfs" doc:"RPC over QUIC to an NFS server on TCP"`
	Forward *Forward `yaml:"forward" doc:"Give the connection to another process, which handshakes itself"`
}

// Kind is smb, nfs or forward.
func (r *Route) Kind() string {
	switch {
	case r.SMB != nil:
		return "smb"
	case r.NFS != nil:
		return "nfs"
	}
	return "forward"
}

// Match selects connections; every field that is set must match.
type Match struct {
	ALPN       string `yaml:"alpn" default:"" doc:"Application protocol the client offers; smb routes: smb, nfs routes: sunrpc"`
	ServerName Names  `yaml:"server_name" doc:"A name, *.suffix (any name below it), or a list; required for smb and nfs"`
	Listen     Addrs  `yaml:"listen" doc:"Only connections to these listen addresses; one or a list"`
}

// SMB is a route to SMB servers.
type SMB struct {
	Backends   []string      `yaml:"backends" doc:"host:port of the SMB servers; port 445 where none is given"`
	Policy     string        `yaml:"policy" default:"failover" enum:"failover|sticky" doc:"failover: the first that answers; sticky: a client keeps its server"`
	MinDialect string        `yaml:"min_dialect" default:"3.1.1" enum:"2.0.2|2.1|3.0|3.0.2|3.1.1" doc:"Lowest SMB dialect let through"`
	NTLM       string        `yaml:"ntlm" default:"allow" enum:"allow|deny" doc:"deny: no logon but by Kerberos passes, so that nobody's NTLM logon can be relayed to these servers"`
	NamedPipes string        `yaml:"named_pipes" default:"deny" enum:"deny|allow" doc:"Named pipes, where the traffic can be seen"`
	Shares     []string      `yaml:"shares" doc:"Shares that may be used, where the traffic can be seen; empty: all"`
	ShareMap   []ShareRow    `yaml:"share_map" doc:"Clients that may use other shares or backends than the rest; the first row that matches decides"`
	MaxMessage Size          `yaml:"max_message" default:"16777215" min:"65536" max:"16777215" doc:"Longest SMB message, in bytes; the framing's maximum is the default"`
	Protection string        `yaml:"protection" default:"any" enum:"any|signing|encryption" doc:"What sessions must have: any: what client and server agree on; signing: a server that requires it; encryption: nothing but negotiation and logon passes in the clear"`
	Proxy      string        `yaml:"proxy_protocol" default:"off" enum:"off|v2" doc:"v2: connections to backends begin with a PROXY protocol header that names the client; only for servers that expect it"`
	Probe      Probe         `yaml:"probe" doc:"How backends are checked"`
	Limits     BackendLimits `yaml:"limits" doc:"Bounds on what one backend gets, shared fairly by its clients"`
}

// ShareRow is what one client may use; exactly one of SAN, SHA256 and Tag is set.
type ShareRow struct {
	SAN      string   `yaml:"san" default:"" doc:"As in access rules, such as dns:*.corp.example.com"`
	SHA256   string   `yaml:"sha256" default:"" doc:"SHA-256 of the client's own certificate"`
	Tag      string   `yaml:"tag" default:"" doc:"One of tags"`
	Shares   []string `yaml:"shares" doc:"Shares it may use, where the traffic can be seen, instead of the route's; empty: those"`
	Backends []string `yaml:"backends" doc:"Those of the route's backends that it may have; empty: all"`

	Matcher access.Matcher `yaml:"-"`
}

// Probe is the SMB health check.
type Probe struct {
	Interval     Duration `yaml:"interval" default:"10s" min:"0s" max:"24h" doc:"Time between two checks of a backend; 0s: none, a backend is tried when a client comes"`
	Timeout      Duration `yaml:"timeout" default:"5s" min:"100ms" max:"5m" doc:"Time for one check"`
	User         string   `yaml:"user" default:"" doc:"Account that the check logs on with (NTLMv2); empty: NEGOTIATE only"`
	PasswordFile Path     `yaml:"password_file" default:"" doc:"File that holds its password; its first line counts"`
	Share        string   `yaml:"share" default:"" doc:"Share that the check connects to after the logon; empty: none"`
}

// BackendLimits bound what a backend gets. 0 is no limit.
type BackendLimits struct {
	Connections       int  `yaml:"connections" default:"0" min:"0" max:"10000000" doc:"TCP connections to one backend at a time; 0: no limit"`
	BytesPerSecond    Size `yaml:"bytes_per_second" default:"0" min:"0" max:"1TiB" doc:"Bytes a second to and from one backend, both directions together; 0: no limit"`
	RequestsPerSecond int  `yaml:"requests_per_second" default:"0" min:"0" max:"100000000" doc:"SMB messages or RPC calls a second to one backend; 0: no limit"`
}

// NFS is a route to an NFS server.
type NFS struct {
	Backends       []string      `yaml:"backends" doc:"host:port of the NFS server; port 2049 where none is given; several only if each knows the file handles of the others, as the heads of a cluster do"`
	Policy         string        `yaml:"policy" default:"failover" enum:"failover|sticky" doc:"failover: the first that answers; sticky: a client keeps its server"`
	Ports          Ports         `yaml:"ports" doc:"TCP ports of the programs beside NFS on the backend"`
	Exports        []string      `yaml:"exports" doc:"Paths that MOUNT lets through; not a boundary: see docs/threat-model.md"`
	V4Exports      []string      `yaml:"v4_exports" doc:"Paths of the server's NFSv4 tree that a client may look up from the root; empty: all; not a boundary either"`
	Identity       Identity      `yaml:"identity" doc:"Who the client is to the NFS server; AUTH_SYS is replaced, never trusted"`
	PrivilegedPort bool          `yaml:"privileged_port" default:"false" doc:"Connect to backends from a port below 1024, as exports with the option secure want it; needs CAP_NET_BIND_SERVICE or net.ipv4.ip_unprivileged_port_start at 665"`
	GSS            string        `yaml:"rpcsec_gss" default:"refuse" enum:"refuse|pass" doc:"Calls with Kerberos credentials: refuse, or pass unchanged, where identity and exports bind nobody"`
	Proxy          string        `yaml:"proxy_protocol" default:"off" enum:"off|v2" doc:"v2: connections to backends begin with a PROXY protocol header that names the client; only for servers that expect it"`
	Probe          NFSProbe      `yaml:"probe" doc:"How backends are checked"`
	Limits         BackendLimits `yaml:"limits" doc:"Bounds on what one backend gets, shared fairly by its clients"`
}

// NFSProbe is the NFS health check.
type NFSProbe struct {
	Interval Duration `yaml:"interval" default:"10s" min:"0s" max:"24h" doc:"Time between two checks of a backend, by NULL calls; 0s: none, a backend is tried when a client comes"`
	Timeout  Duration `yaml:"timeout" default:"5s" min:"100ms" max:"5m" doc:"Time for one check"`
	Export   string   `yaml:"export" default:"" doc:"Export that the check mounts, as squash_uid and squash_gid; empty: none"`
}

// Ports are backend ports.
type Ports struct {
	Mount   int `yaml:"mount" default:"20048" min:"0" max:"65535" doc:"mountd, for NFSv3; 0: the backend's portmapper is asked for it"`
	Portmap int `yaml:"portmap" default:"111" min:"0" max:"65535" doc:"The backend's portmapper, asked where mount is 0; clients get answers from the gateway's own; 0: 111"`
	NLM     int `yaml:"nlm" default:"0" min:"0" max:"65535" doc:"Lock manager, for NFSv3 locks; 0: PROG_UNAVAIL"`
	NSM     int `yaml:"nsm" default:"0" min:"0" max:"65535" doc:"Status monitor, for NFSv3 locks; 0: PROG_UNAVAIL"`
	Rquota  int `yaml:"rquota" default:"0" min:"0" max:"65535" doc:"Quotas, for quota(1) at clients; 0: PROG_UNAVAIL"`
}

// Identity maps certificates to AUTH_SYS credentials.
type Identity struct {
	Map        []MapRow `yaml:"map" doc:"First row that matches decides"`
	MapFile    Path     `yaml:"map_file" default:"" doc:"More rows, one a line, after those of map; read again at a reload"`
	AuthSysOID string   `yaml:"auth_sys_oid" default:"" doc:"Object identifier under which a client's own certificate may carry its uid and gids, as RPCAuthSys of draft-cel-nfsv4-rpc-tls-othername; it counts where no row matches; empty: never. Use a client_ca for such certificates alone"`
	AuthSysMin int      `yaml:"auth_sys_min_uid" default:"1000" min:"1" max:"4294967294" doc:"Lowest uid that a certificate may carry; a client with a lower one is refused"`
	Otherwise  string   `yaml:"otherwise" default:"squash" enum:"squash|refuse" doc:"What happens to a client no row matches"`
	SquashUID  int      `yaml:"squash_uid" default:"65534" min:"1" max:"4294967294" doc:"User of squashed clients"`
	SquashGID  int      `yaml:"squash_gid" default:"65534" min:"1" max:"4294967294" doc:"Group of squashed clients"`

	AuthSys asn1.ObjectIdentifier `yaml:"-"` // AuthSysOID, nil where it is empty
}

// MapRow maps one client to a user; exactly one of SAN, SHA256 and Tag is set.
type MapRow struct {
	SAN      string   `yaml:"san" default:"" doc:"As in access rules, such as email:alice@example.com"`
	SHA256   string   `yaml:"sha256" default:"" doc:"SHA-256 of the client's own certificate"`
	Tag      string   `yaml:"tag" default:"" doc:"One of tags"`
	UID      int      `yaml:"uid" min:"0" max:"4294967294" doc:"User number; 0 only when written here"`
	GID      int      `yaml:"gid" min:"0" max:"4294967294" doc:"Group number"`
	Groups   []int    `yaml:"groups" min:"0" max:"4294967294" doc:"Further groups, at most 16"`
	Exports  []string `yaml:"exports" doc:"What this client may mount, instead of the route's exports; empty: those"`
	Backends []string `yaml:"backends" doc:"Those of the route's backends that it may have; empty: all"`

	Matcher access.Matcher `yaml:"-"`
}

// Forward names the process a connection is given to.
type Forward struct {
	UDP Addr `yaml:"udp" doc:"Address and port of the other process; it sees each client under a source port of its own"`
}

// HTTPS configures the services on TCP.
type HTTPS struct {
	Listen Addr   `yaml:"listen" default:":443" doc:"TCP address and port; certificate authorities ask on port 443"`
	User   string `yaml:"user" default:"" doc:"Account of the process when root starts serve; empty: quic-fsgw-https, or if there is none a number that nobody has"`
	ACME   *ACME  `yaml:"acme" doc:"Fetch and renew server certificates (RFC 8555, TLS-ALPN-01)"`

	KDCProxy *KDCProxy `yaml:"kdc_proxy" doc:"Kerberos for clients outside (MS-KKDCP), at /KdcProxy"`
}

// ACME says which certificates are fetched.
type ACME struct {
	Names       []string `yaml:"names" doc:"Server names to have certificates for; the handshake helper shows them, without an entry in tlshd.certificates"`
	Directory   string   `yaml:"directory" default:"https://acme-v02.api.letsencrypt.org/directory" doc:"URL of the certificate authority"`
	CA          Path     `yaml:"ca" default:"" doc:"CA certificates to trust the directory by; empty: the system's"`
	Email       string   `yaml:"email" default:"" doc:"Where the authority may write to"`
	AcceptTerms bool     `yaml:"accept_terms" default:"false" doc:"You accept the authority's terms of service; must be true"`
	Dir         Path     `yaml:"dir" default:"/var/lib/quic-fsgw/acme" doc:"Directory of the account and the certificates, owned by the process's account; NAME.pem is key and chain, read by the handshake helper"`
	RenewBefore Duration `yaml:"renew_before" default:"0s" min:"0s" max:"8760h" doc:"A certificate is renewed this long before its end, but not in the first half of its life; 0s: by a third of its life, at most 30 days"`
}

// File is where the certificate for a name is.
func (a *ACME) File(name string) string { return filepath.Join(string(a.Dir), name+".pem") }

// KDCProxy is Kerberos over HTTPS.
type KDCProxy struct {
	Realms  []Realm  `yaml:"realms" doc:"Realms that requests may be for; others are refused"`
	Cert    Path     `yaml:"cert" default:"" doc:"Certificate chain, PEM; empty: those of acme"`
	Key     Path     `yaml:"key" default:"" doc:"Its private key, PEM"`
	Timeout Duration `yaml:"timeout" default:"10s" min:"1s" max:"1m" doc:"Time for the exchange with one server"`
	Limit   int      `yaml:"limit" default:"64" min:"1" max:"65536" doc:"Requests at a time; more are answered 503"`
}

// Realm is a Kerberos realm.
type Realm struct {
	Name      string   `yaml:"name" doc:"Realm, such as CORP.EXAMPLE.COM"`
	KDCs      []string `yaml:"kdcs" doc:"host:port of its KDCs on TCP, tried in order; port 88 where none is given"`
	Passwords []string `yaml:"passwords" doc:"host:port of the password service on TCP; port 464 where none is given; none: changes of passwords are refused"`
}

// QUIC holds transport settings.
type QUIC struct {
	Congestion    string   `yaml:"congestion" default:"cubic" enum:"newreno|cubic|bbr" doc:"Congestion control: cubic shares fairly, bbr keeps its speed under random loss (quic-recovery.md)"`
	Versions      []string `yaml:"versions" default:"v1,v2" enum:"v1|v2" doc:"QUIC versions, best first; of those that a client offers the first is taken; sunrpc is accepted on v1 only"`
	Handshake     Duration `yaml:"handshake_timeout" default:"10s" min:"1s" max:"30s" doc:"A handshake that is not done by then ends"`
	IdleTimeout   Duration `yaml:"idle_timeout" default:"30s" min:"1s" max:"24h" doc:"A silent connection ends after this"`
	Keepalive     Duration `yaml:"keepalive" default:"10s" min:"0s" max:"12h" doc:"PING after this much silence; 0s: none; must be below idle_timeout"`
	Retry         string   `yaml:"retry" default:"auto" enum:"auto|always|never" doc:"Address validation before a handshake; auto: while many handshakes are under way or more than half of limits.handshakes_per_second begin"`
	AddressKeys   Path     `yaml:"address_keys" default:"" doc:"File of keys of Retry and NEW_TOKEN tokens and stateless resets, shared by several gateways: one a line, 64 hexadecimal digits, the first makes tokens and all are accepted; read again at a reload; empty: made at start. Gateways behind one address need a load balancer that keeps each client at its gateway, or one can reset what another serves (RFC 9000, Section 21.11)"`
	MaxUDPPayload Auto     `yaml:"max_udp_payload" default:"auto" min:"1200" max:"65527" doc:"Bytes per datagram; auto: path MTU discovery"`
	GSO           string   `yaml:"gso" default:"auto" enum:"auto|on|off" doc:"Send batches with UDP segmentation offload"`
	GRO           string   `yaml:"gro" default:"auto" enum:"auto|on|off" doc:"Receive batches with UDP receive offload"`
	ZeroCopy      string   `yaml:"zerocopy" default:"auto" enum:"auto|on|off" doc:"MSG_ZEROCOPY for batches from 32 KiB, given up where the kernel copies all the same; auto: not used, see tuning.md"`
	EarlyData     string   `yaml:"early_data" default:"off" enum:"off" doc:"0-RTT; file protocols must not use it, so off is the only value"`
}

// Limits bound what clients can take.
type Limits struct {
	Connections                   int      `yaml:"connections" default:"10000" min:"1" max:"10000000" doc:"Connections at a time"`
	ConnectionsPerClient          int      `yaml:"connections_per_client" default:"64" min:"1" max:"10000000" doc:"Connections of one client at a time: of a certificate, or where none is asked for, of a source address (of IPv6: its /64, as everywhere in limits)"`
	HandshakesPerSecond           int      `yaml:"handshakes_per_second" default:"2000" min:"1" max:"10000000" doc:"New handshakes a second; more are refused"`
	HandshakesPerSecondPerAddress int      `yaml:"handshakes_per_second_per_address" default:"50" min:"1" max:"10000000" doc:"New handshakes a second from one address; more are refused; loopback is exempt"`
	FailureDelay                  Duration `yaml:"failure_delay" default:"2s" min:"0s" max:"10s" doc:"Refused handshakes and refused SMB logons are answered this much later, one after the other for a client: for a certificate, or where none was shown for an address; clients that are let in never wait; 0s: at once"`
	StreamsPerClient              int      `yaml:"streams_per_client" default:"0" min:"0" max:"10000000" doc:"RPC streams of one client at a time, over all its connections; 0: no limit"`
	BytesPerSecondPerClient       Size     `yaml:"bytes_per_second_per_client" default:"0" min:"0" max:"1TiB" doc:"Bytes a second of one client, both directions and all its connections together; 0: no limit"`
	RequestsPerSecondPerClient    int      `yaml:"requests_per_second_per_client" default:"0" min:"0" max:"100000000" doc:"SMB messages or RPC calls a second of one client; 0: no limit"`
	Memory                        Size     `yaml:"memory" default:"1GiB" min:"16MiB" max:"16TiB" doc:"Bytes held in buffers: received, or not yet acknowledged by clients (at most half)"`
}

// Admin is the inside view.
type Admin struct {
	Socket Path `yaml:"socket" default:"/run/quic-fsgw/admin.sock" doc:"Unix socket of status, reload and drain; empty: none"`
	HTTP   Addr `yaml:"http" default:"" doc:"Address of /metrics /healthz /readyz /status; empty: none; has no authentication of its own, so keep it on loopback"`
}

// Log says what is written and where.
type Log struct {
	Level  string    `yaml:"level" default:"info" enum:"debug|info|warn|error" doc:"Least severe line that is written"`
	Format string    `yaml:"format" default:"auto" enum:"auto|text|json" doc:"auto: text on a terminal, JSON elsewhere"`
	Access LogTarget `yaml:"access" default:"" doc:"Connections, one JSON line each: a file, or journal; empty: none"`
	Audit  LogTarget `yaml:"audit" default:"" doc:"Access verdicts with certificate details, one JSON line each: a file, or journal; empty: none"`
	Qlog   Path      `yaml:"qlog" default:"" doc:"Existing directory for qlog traces of connections, which the packet process's account can write; empty: none"`

	QlogEvery int `yaml:"qlog_every" default:"1" min:"1" max:"1000000" doc:"Trace one connection in so many; at most 64 at once, 64 MiB each, 1 GiB in all"`
}

// RunAs is the account of the packet process.
type RunAs struct {
	User  string `yaml:"user" default:"" doc:"Account of the packet process when serve is started by root; empty: quic-fsgw, or if there is none a number that nobody has"`
	Group string `yaml:"group" default:"" doc:"Its group; empty: the account's"`
}

// Client is what client commands use where flags say nothing.
type Client struct {
	CA                 Path   `yaml:"ca" default:"" doc:"CA certificates to trust; empty: the system's"`
	CRL                Path   `yaml:"crl" default:"" doc:"Revocation lists for server certificates, PEM or DER; a server whose issuer's list is past its nextUpdate is refused; empty: none"`
	Cert               Path   `yaml:"cert" default:"" doc:"Client certificate chain"`
	Key                Path   `yaml:"key" default:"" doc:"Its private key"`
	ServerName         string `yaml:"server_name" default:"" doc:"Name to ask for and to verify, instead of the URL's host"`
	Congestion         string `yaml:"congestion" default:"cubic" enum:"newreno|cubic|bbr" doc:"Congestion control of what this end sends: bbr where packets are lost on the way (quic-recovery.md)"`
	InsecureSkipVerify bool   `yaml:"insecure_skip_verify" default:"false" doc:"Do not verify the server; for experiments only"`
	UnsafeKeyLog       Path   `yaml:"unsafe_key_log" default:"" doc:"As tlshd.unsafe_key_log, for the connections of client commands"`
}
