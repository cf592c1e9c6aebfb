package client

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/quic"
)

// What a gateway ends a stream with is named, and counts as not reached.
func TestConnectError(t *testing.T) {
	smbURL, err := ParseURL("smb://alice@files.example.com/share")
	if err != nil {
		t.Fatal(err)
	}
	nfsURL, err := ParseURL("nfs://files.example.com/export")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		url  *RemoteURL
		err  error
		want string // "": is left as it is
	}{
		{smbURL, &quic.StreamError{Code: 3, Remote: true}, "backend unreachable"},
		{smbURL, &quic.ApplicationError{Code: 6, Remote: true}, "shutdown"},
		{nfsURL, &quic.StreamError{Code: 2, Remote: true}, "RPC_SERVER_BUSY"},
		{nfsURL, &quic.TransportError{Code: quic.CryptoErrorBase + 116, Remote: true}, "--cert"},
		{smbURL, &quic.StreamError{Code: 3}, ""},
		{smbURL, &quic.StreamError{Code: 77, Remote: true}, ""},
		{smbURL, errors.New("the password is wrong"), ""},
	} {
		got := connectError(c.url, fmt.Errorf("logon: %w", c.err))
		var ce *ConnectError
		if errors.As(got, &ce) != (c.want != "") || !strings.Contains(got.Error(), c.want) {
			t.Errorf("%s, %v: %v, want %q", c.url.Scheme, c.err, got, c.want)
		}
	}
}
