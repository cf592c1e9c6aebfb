package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// VersionInfo is the value of the version_information transport parameter
// (RFC 9368, Section 3): the version its sender uses, and those it could use
// in descending order of preference.
type VersionInfo struct {
	Chosen    Version
	Available []Version
}

// maxVersions bounds how many available versions are kept.
const maxVersions = 64

// ParseVersionInfo reads a version_information value, sent by a server if
// fromServer. Only the first 64 available versions are kept. Any error is a
// TRANSPORT_PARAMETER_ERROR.
func ParseVersionInfo(v []byte, fromServer bool) (VersionInfo, error) {
	var info VersionInfo
	// RFC 9368, Section 4: "then the endpoint MUST close the connection; if the
	// connection was using QUIC version 1, that connection closure MUST use a
	// transport error of type TRANSPORT_PARAMETER_ERROR."
	if len(v) < 4 || len(v)%4 != 0 {
		return info, fmt.Errorf("version information of %d bytes, want a multiple of 4", len(v))
	}
	// RFC 9368, Section 4: "If an endpoint receives a Chosen Version equal to
	// zero, or any Available Version equal to zero, it MUST treat it as a
	// parsing failure."
	info.Chosen = Version(binary.BigEndian.Uint32(v))
	if info.Chosen == 0 {
		return info, errors.New("version information chooses version 0")
	}
	info.Available = make([]Version, 0, min(len(v)/4-1, maxVersions))
	included := false
	for v = v[4:]; len(v) > 0; v = v[4:] {
		version := Version(binary.BigEndian.Uint32(v))
		if version == 0 {
			return info, errors.New("version information offers version 0")
		}
		included = included || version == info.Chosen
		if len(info.Available) < maxVersions {
			info.Available = append(info.Available, version)
		}
	}
	// RFC 9368, Section 4: "If a server receives Version Information where the
	// Chosen Version is not included in Available Versions, it MUST treat it as
	// a parsing failure." A server may well be about to retire what it chose.
	if !included && !fromServer {
		return info, errors.New("version information does not offer the version the client chose")
	}
	return info, nil
}

// Append appends the value of the version_information parameter.
func (i *VersionInfo) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(i.Chosen))
	for _, v := range i.Available {
		b = binary.BigEndian.AppendUint32(b, uint32(v))
	}
	return b
}
