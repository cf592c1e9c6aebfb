package nfs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	vmwarenfs "github.com/vmware/go-nfs-client/nfs"
	"github.com/vmware/go-nfs-client/nfs/rpc"
	"github.com/vmware/go-nfs-client/nfs/util"
)

// The library writes what servers say to the process's standard logger, unescaped. Its errors say enough.
func init() { util.DefaultLogger = silent{} }

type silent struct{}

func (silent) SetDebug(bool)         {}
func (silent) Errorf(string, ...any) {}
func (silent) Debugf(string, ...any) {}
func (silent) Infof(string, ...any)  {}

// ProbeNull calls the NULL procedure of an RPC program at address (host:port, TCP). It returns how
// long connect and answer took together. The context must have a deadline or be cancelled some time.
func ProbeNull(ctx context.Context, address string, program, version uint32) (time.Duration, error) {
	start := time.Now()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return 0, fmt.Errorf("nfs: probe %s: %w", address, err)
	}
	defer conn.Close()
	if err := callNull(ctx, conn, program, version); err != nil {
		return 0, fmt.Errorf("nfs: probe %s: program %d version %d: %w", address, program, version, err)
	}
	return time.Since(start), nil
}

func callNull(ctx context.Context, conn net.Conn, program, version uint32) error {
	msg, err := roundTrip(ctx, conn, appendCall(nil, rand.Uint32(), program, version, 0, anonymous, nil), 4096)
	if err != nil {
		return err
	}
	_, err = successResults(msg)
	return err
}

// BackendState is what Probe found out about one backend.
type BackendState struct {
	Address string        // host:port of NFS
	V3, V4  error         // NULL call of that NFS version; nil: it answered
	Mount   error         // NULL call of mountd version 3; nil: it answered
	Time    time.Duration // dial and answer of the faster NFS version; 0: none answered

	err error // why it counts as failed; nil: it does not
}

// Up reports whether the backend serves any version of NFS.
func (b BackendState) Up() bool { return b.V3 == nil || b.V4 == nil }

// Probe calls the NULL procedures of every backend, all backends at once, and marks them by the outcome:
// those that do not serve NFS are tried last by new connections. Each call is bounded by Config.DialTimeout.
func (s *Service) Probe(ctx context.Context) []BackendState {
	states := make([]BackendState, len(s.targets))
	var wg sync.WaitGroup
	for i, b := range s.targets {
		wg.Go(func() { states[i] = s.probe(ctx, b, nil) })
	}
	wg.Wait()
	return states
}

// Check is Probe of the backend at addr. With an export, it counts as failed also where id
// may not mount it.
func (s *Service) Check(ctx context.Context, addr, export string, id *Identity) (BackendState, error) {
	b := s.target(addr)
	if b == nil {
		return BackendState{}, fmt.Errorf("nfs: %q is not one of the backends", addr)
	}
	st := s.probe(ctx, b, func() error {
		if export == "" {
			return nil
		}
		return s.probeMount(ctx, b, export, id)
	})
	return st, st.err
}

// probeMount mounts an export and lets it go.
func (s *Service) probeMount(ctx context.Context, b *target, export string, id *Identity) error {
	conn, err := s.dial(ctx, b, serviceMount, nil)
	if err != nil {
		return err
	}
	defer s.hangUp(b, conn, nil)
	args := appendOpaque(nil, export)
	call := func(procedure uint32) ([]byte, error) {
		msg, err := roundTrip(ctx, conn, appendCall(nil, rand.Uint32(), ProgMount, 3, procedure, id.cred, args), 4096)
		if err != nil {
			return nil, err
		}
		return successResults(msg)
	}
	results, err := call(mountMNT)
	if err == nil {
		d := decoder{b: results}
		if status := d.uint32(); d.bad || status != 0 {
			err = fmt.Errorf("MNT status %d", status)
		} else {
			_, err = call(mountUMNT)
		}
	}
	if err != nil {
		return fmt.Errorf("nfs: mount of %s from %s as %s: %w", export, b, id, err)
	}
	return nil
}

// probe makes the NULL calls, then more, and marks the backend.
func (s *Service) probe(ctx context.Context, b *target, more func() error) BackendState {
	st := BackendState{Address: b.String()}
	for _, v := range []struct {
		err     *error
		svc     service
		program uint32
		version uint32
	}{
		{&st.V3, serviceNFS, ProgNFS, 3},
		{&st.V4, serviceNFS, ProgNFS, 4},
		{&st.Mount, serviceMount, ProgMount, 3},
	} {
		start := time.Now()
		*v.err = s.probeService(ctx, b, v.svc, v.program, v.version)
		took := time.Since(start)
		if *v.err == nil && v.svc == serviceNFS && (st.Time == 0 || took < st.Time) {
			st.Time = took
		}
	}
	if !st.Up() {
		st.err = errors.Join(st.V3, st.V4)
	} else if more != nil {
		st.err = more()
	}
	if !errors.Is(ctx.Err(), context.Canceled) && !errors.Is(st.err, errOverload) {
		s.set.Probed(b.addr, st.Time, st.err, time.Now())
	}
	return st
}

func (s *Service) probeService(ctx context.Context, b *target, svc service, program, version uint32) error {
	conn, err := s.dial(ctx, b, svc, nil)
	if err != nil {
		return err
	}
	defer s.hangUp(b, conn, nil)
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DialTimeout)
	defer cancel()
	if err := callNull(ctx, conn, program, version); err != nil {
		return fmt.Errorf("nfs: probe %s service of %s: program %d version %d: %w", svc, b, program, version, err)
	}
	return nil
}

// MountState is what ProbeMount saw of an export.
type MountState struct {
	MaxRead  uint32        // bytes: the largest READ
	MaxWrite uint32        // bytes: the largest WRITE
	Time     time.Duration // for everything together
}

// ErrProbeHangs: an earlier ProbeMount of the same host has not come back.
var ErrProbeHangs = errors.New("nfs: an earlier mount probe of this host still hangs")

// hanging holds the hosts whose mount probe is under way.
var hanging = struct {
	sync.Mutex
	hosts map[string]bool
}{hosts: make(map[string]bool)}

// ProbeMount mounts an export the way an NFSv3 client does: portmapper on port 111 of host, mountd, MNT, FSINFO
// of the root, UMNT. It sees what NULL calls do not: exports that this host or uid may not use. Host is a
// name or address without port.
//
// The client library behind it has neither deadlines nor checks of what a server sends: it
// may panic, hang, or reserve (not touch) up to 2 GiB for a length that a server claims. So it works in
// a goroutine of its own, which ends with ctx as far as the caller is concerned, and
// a host that hangs costs one goroutine, not one a probe: ErrProbeHangs until it lets go.
func ProbeMount(ctx context.Context, host, export string, id *Identity) (MountState, error) {
	hanging.Lock()
	if hanging.hosts[host] {
		hanging.Unlock()
		return MountState{}, fmt.Errorf("%w: %s", ErrProbeHangs, host)
	}
	hanging.hosts[host] = true
	hanging.Unlock()

	type result struct {
		state MountState
		err   error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		defer func() {
			if p := recover(); p != nil {
				r.err = fmt.Errorf("server sent what the client library cannot take: %v", p)
			}
			hanging.Lock()
			delete(hanging.hosts, host)
			hanging.Unlock()
			done <- r
		}()
		r.state, r.err = mountOnce(ctx, host, export, id)
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return MountState{}, fmt.Errorf("nfs: mount probe of %s:%s: %w", host, export, r.err)
		}
		return r.state, nil
	case <-ctx.Done():
		return MountState{}, fmt.Errorf("nfs: mount probe of %s:%s: %w", host, export, context.Cause(ctx))
	}
}

// mountOnce does what ProbeMount says. Connections are given the deadline of ctx as soon as the library
// shows them.
func mountOnce(ctx context.Context, host, export string, id *Identity) (MountState, error) {
	start := time.Now()
	if strings.Contains(host, ":") {
		host = "[" + host + "]" // the library appends a colon and the port
	}
	m, err := vmwarenfs.DialMount(host)
	if err != nil {
		return MountState{}, fmt.Errorf("portmapper or mountd: %w", err)
	}
	defer m.Close()
	if deadline, ok := ctx.Deadline(); ok {
		m.SetTimeout(max(time.Until(deadline), time.Millisecond))
	}
	// The library's own AUTH_SYS credential always carries group 0; this one does not.
	target, err := m.Mount(export, id.libraryAuth())
	if err != nil {
		return MountState{}, fmt.Errorf("MNT: %w", err)
	}
	defer target.Close()
	defer m.Unmount()
	if deadline, ok := ctx.Deadline(); ok {
		target.SetTimeout(max(time.Until(deadline), time.Millisecond))
	}
	info, err := target.FSInfo()
	if err != nil {
		return MountState{}, fmt.Errorf("FSINFO: %w", err)
	}
	return MountState{MaxRead: info.RTMax, MaxWrite: info.WTMax, Time: time.Since(start)}, nil
}

// libraryAuth is the identity's credential as the client library takes it; without one, AUTH_NONE.
func (id *Identity) libraryAuth() rpc.Auth {
	if id == nil {
		return rpc.AuthNull
	}
	d := decoder{b: id.cred}
	flavor := d.uint32()
	return rpc.Auth{Flavor: flavor, Body: d.opaque(maxAuthBody)}
}
