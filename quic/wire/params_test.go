package wire

import (
	"bytes"
	"math"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

// fullParams sets everything that a server or client may send.
func fullParams(isServer bool) TransportParams {
	p := TransportParams{
		InitialSrc: connID(8, 1), HasInitialSrc: true,
		MaxIdleTimeout: 30 * time.Second,
		MaxUDPPayload:  1452,
		InitialMaxData: 1 << 20, InitialMaxStreamDataBidiLocal: 1 << 18, InitialMaxStreamDataBidiRemote: 1 << 19,
		InitialMaxStreamDataUni: 1 << 17, InitialMaxStreamsBidi: 100, InitialMaxStreamsUni: MaxStreamCount,
		AckDelayExponent: 0, MaxAckDelay: 0, DisableActiveMigration: true, ActiveConnIDLimit: 8,
		MaxDatagram: 65535, GreaseBit: true,
		VersionInfo: (&VersionInfo{Chosen: Version1, Available: []Version{Version2, Version1}}).Append(nil),
	}
	if isServer {
		p.OriginalDst, p.HasOriginalDst = connID(20, 2), true
		p.RetrySrc, p.HasRetrySrc = connID(0, 0), true
		p.ResetToken, p.HasResetToken = [16]byte{1, 2, 15: 3}, true
		p.PreferredAddress = &PreferredAddress{
			IPv4: netip.MustParseAddrPort("192.0.2.1:443"), IPv6: netip.MustParseAddrPort("[2001:db8::1]:4433"),
			ID: connID(9, 7), ResetToken: [16]byte{5},
		}
	}
	return p
}

func TestTransportParams(t *testing.T) {
	for _, isServer := range []bool{false, true} {
		for name, p := range map[string]TransportParams{"full": fullParams(isServer), "default": DefaultTransportParams()} {
			b := p.Append(nil, isServer)
			got, err := ParseTransportParams(b, isServer)
			if err != nil || !reflect.DeepEqual(got, p) {
				t.Errorf("%s, server %v: %v\n got %+v\nwant %+v", name, isServer, err, got, p)
			}
			if name == "default" && len(b) != 0 {
				t.Errorf("defaults are written: %x", b)
			}
			// Reserved parameters make no difference.
			p.GreaseID, p.GreaseData = 1<<40, []byte("grease")
			g, err := ParseTransportParams(p.Append(nil, isServer), isServer)
			if err != nil || !reflect.DeepEqual(g, got) {
				t.Errorf("%s, server %v, with a reserved parameter: %v\n got %+v\nwant %+v", name, isServer, err, g, got)
			}
		}
	}
}

// A client never sends what only servers may, even if the fields are set.
func TestTransportParamsClientOmits(t *testing.T) {
	p := fullParams(true)
	if _, err := ParseTransportParams(p.Append(nil, false), false); err != nil {
		t.Error(err)
	}
}

// Every truncation fails or ends between two parameters.
func TestTransportParamsTruncated(t *testing.T) {
	p := fullParams(true)
	b := p.Append(nil, true)
	ends := map[int]bool{0: true}
	for at := 0; at < len(b); ends[at] = true {
		_, n := ConsumeVarint(b[at:])
		_, m := consumeVarintBytes(b[at+n:])
		at += n + m
	}
	for n := range b {
		if _, err := ParseTransportParams(b[:n:n], true); (err == nil) != ends[n] {
			t.Errorf("%d of %d bytes: %v", n, len(b), err)
		}
	}
	// The same within each parameter whose length is right.
	for at := 0; at < len(b); {
		id, n := ConsumeVarint(b[at:])
		value, m := consumeVarintBytes(b[at+n:])
		at += n + m
		for cut := range value {
			_, err := ParseTransportParams(appendBytesParam(nil, id, value[:cut]), true)
			connID := id == paramOriginalDst || id == paramInitialSrc || id == paramRetrySrc
			versions := id == paramVersionInfo && cut > 0 && cut%4 == 0
			if (err == nil) != (connID || versions) {
				t.Errorf("parameter %#x cut to %d of %d bytes: %v", id, cut, len(value), err)
			}
		}
	}
}

func uintTestParam(id, v uint64) []byte { return appendUintParam(nil, id, v, v+1) }

func TestTransportParamsErrors(t *testing.T) {
	token := make([]byte, 16)
	preferred := (&PreferredAddress{ID: connID(8, 1)}).append(nil)
	noID := (&PreferredAddress{}).append(nil)
	longID := append(append(append(make([]byte, 24), 21), make([]byte, 21)...), token...)
	for _, c := range []struct {
		name   string
		b      []byte
		server bool
		want   string // "": taken
	}{
		{"udp payload 1199", uintTestParam(paramMaxUDPPayload, 1199), true, "not in 1200"},
		{"udp payload 1200", uintTestParam(paramMaxUDPPayload, 1200), true, ""},
		{"udp payload of 2^62-1", uintTestParam(paramMaxUDPPayload, MaxVarint), true, ""},
		{"ack delay exponent 20", uintTestParam(paramAckDelayExponent, 20), true, ""},
		{"ack delay exponent 21", uintTestParam(paramAckDelayExponent, 21), true, "not in 0 to 20"},
		{"max ack delay 2^14-1", uintTestParam(paramMaxAckDelay, 1<<14-1), true, ""},
		{"max ack delay 2^14", uintTestParam(paramMaxAckDelay, 1<<14), true, "16384"},
		{"connection ID limit 1", uintTestParam(paramActiveConnIDLimit, 1), true, "not in 2"},
		{"streams 2^60", uintTestParam(paramMaxStreamsBidi, MaxStreamCount), true, ""},
		{"streams 2^60+1", uintTestParam(paramMaxStreamsBidi, MaxStreamCount+1), true, "0x08"},
		{"uni streams 2^60+1", uintTestParam(paramMaxStreamsUni, MaxStreamCount+1), true, "0x09"},
		{"idle timeout 2^62-1", uintTestParam(paramMaxIdleTimeout, MaxVarint), true, ""},
		{"integer with a byte behind", appendBytesParam(nil, paramMaxData, []byte{1, 2}), true, "not one integer"},
		{"integer without bytes", appendBytesParam(nil, paramMaxData, nil), true, "not one integer"},
		{"migration with a value", appendBytesParam(nil, paramDisableMigration, []byte{1}), true, "want none"},
		{"grease bit with a value", appendBytesParam(nil, paramGreaseBit, []byte{1}), true, "want none"},
		{"connection ID of 21", appendBytesParam(nil, paramInitialSrc, make([]byte, 21)), true, "at most 20"},
		{"token of 15", appendBytesParam(nil, paramResetToken, token[:15]), true, "want 16"},
		{"token of 17", appendBytesParam(nil, paramResetToken, append(token, 0)), true, "want 16"},
		{"token from a client", appendBytesParam(nil, paramResetToken, token), false, "servers only"},
		{"original ID from a client", appendBytesParam(nil, paramOriginalDst, nil), false, "servers only"},
		{"retry ID from a client", appendBytesParam(nil, paramRetrySrc, nil), false, "servers only"},
		{"preferred address from a client", appendBytesParam(nil, paramPreferredAddress, preferred), false, "servers only"},
		{"preferred address", appendBytesParam(nil, paramPreferredAddress, preferred), true, ""},
		{"preferred address without ID", appendBytesParam(nil, paramPreferredAddress, noID), true, "connection ID of 0"},
		{"preferred address with ID of 21", appendBytesParam(nil, paramPreferredAddress, longID), true, "connection ID of 21"},
		{"preferred address with a byte behind", appendBytesParam(nil, paramPreferredAddress, append(preferred, 0)), true, "wrong length"},
		{"twice", append(uintTestParam(paramMaxData, 1), uintTestParam(paramMaxData, 1)...), true, "sent twice"},
		{"unknown", appendBytesParam(nil, 0x1234, make([]byte, 100)), true, ""},
		{"unknown below 64", appendBytesParam(nil, 0x3f, nil), true, ""},
		{"unknown twice", append(appendBytesParam(nil, 0x1234, nil), appendBytesParam(nil, 0x1234, token)...), true, "sent twice"},
		{"unknown twice below 64", append(appendBytesParam(nil, 0x3f, nil), appendBytesParam(nil, 0x3f, token)...), true, "sent twice"},
		{"grease bit twice", append(appendBytesParam(nil, paramGreaseBit, nil), appendBytesParam(nil, paramGreaseBit, nil)...), true, "sent twice"},
		{"version 0 chosen", appendBytesParam(nil, paramVersionInfo, []byte{0, 0, 0, 0}), true, "version 0"},
		{"version 0 offered", appendBytesParam(nil, paramVersionInfo, []byte{0, 0, 0, 1, 0, 0, 0, 0}), true, "version 0"},
		{"versions of 7 bytes", appendBytesParam(nil, paramVersionInfo, make([]byte, 7)), true, "multiple of 4"},
		{"no versions", appendBytesParam(nil, paramVersionInfo, nil), true, "multiple of 4"},
		{"client's choice not offered", appendBytesParam(nil, paramVersionInfo, []byte{0, 0, 0, 1, 0, 0, 0, 2}), false, "does not offer"},
		{"server's choice not offered", appendBytesParam(nil, paramVersionInfo, []byte{0, 0, 0, 1, 0, 0, 0, 2}), true, ""},
		{"too long", make([]byte, 1<<16), true, "at most 65535"},
	} {
		_, err := ParseTransportParams(c.b, c.server)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestTransportParamsIdleTimeoutClamped(t *testing.T) {
	p, err := ParseTransportParams(uintTestParam(paramMaxIdleTimeout, MaxVarint), true)
	if err != nil || p.MaxIdleTimeout <= 0 || p.MaxIdleTimeout < math.MaxInt64-time.Millisecond {
		t.Errorf("%v, %v", p.MaxIdleTimeout, err)
	}
}

// Result and input are independent: the input is a receive buffer.
func TestTransportParamsCopied(t *testing.T) {
	want := fullParams(true)
	b := want.Append(nil, true)
	p, err := ParseTransportParams(b, true)
	if err != nil {
		t.Fatal(err)
	}
	clear(b)
	if !reflect.DeepEqual(p, want) {
		t.Errorf("changed with its input: %+v", p)
	}
}

func TestPreferredAddressOneFamily(t *testing.T) {
	for _, a := range []PreferredAddress{
		{IPv4: netip.MustParseAddrPort("192.0.2.1:443"), ID: connID(4, 1)},
		{IPv6: netip.MustParseAddrPort("[::1]:443"), ID: connID(20, 1)},
		{IPv6: netip.MustParseAddrPort("[::ffff:192.0.2.1]:443"), ID: connID(1, 1)},
	} {
		p := DefaultTransportParams()
		p.PreferredAddress = &a
		got, err := ParseTransportParams(p.Append(nil, true), true)
		if err != nil || *got.PreferredAddress != a {
			t.Errorf("%+v: %v, want %+v", got.PreferredAddress, err, a)
		}
	}
}

func TestVersionInfo(t *testing.T) {
	in := VersionInfo{Chosen: Version2, Available: []Version{Version2, ReservedVersion(7), Version1}}
	got, err := ParseVersionInfo(in.Append(nil), false)
	if err != nil || !reflect.DeepEqual(got, in) {
		t.Errorf("%+v, %v; want %+v", got, err, in)
	}
	// What is beyond the cap is not kept, but counts.
	long := VersionInfo{Chosen: Version1}
	for i := range 2 * maxVersions {
		long.Available = append(long.Available, Version(1000+i))
	}
	long.Available = append(long.Available, Version1)
	got, err = ParseVersionInfo(long.Append(nil), false)
	if err != nil || len(got.Available) != maxVersions {
		t.Errorf("%d versions kept, %v", len(got.Available), err)
	}
}

func FuzzTransportParams(f *testing.F) {
	for _, isServer := range []bool{false, true} {
		p := fullParams(isServer)
		f.Add(p.Append(nil, isServer), isServer)
		p.GreaseID = 12345
		f.Add(p.Append(nil, isServer), isServer)
	}
	f.Fuzz(func(t *testing.T, b []byte, server bool) {
		p, err := ParseTransportParams(b, server)
		if err != nil {
			return
		}
		out := p.Append(nil, server)
		again, err := ParseTransportParams(out, server)
		if err != nil || !reflect.DeepEqual(p, again) {
			t.Fatalf("%+v became %+v, %v", p, again, err)
		}
		if !bytes.Equal(out, again.Append(nil, server)) {
			t.Fatal("the same parameters are written in two ways")
		}
	})
}

func BenchmarkParseTransportParams(b *testing.B) {
	p := fullParams(true)
	block := p.Append(nil, true)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseTransportParams(block, true); err != nil {
			b.Fatal(err)
		}
	}
}
