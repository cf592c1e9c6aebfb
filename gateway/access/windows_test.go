package access

import (
	"strings"
	"testing"
)

func TestParseWindowsLine(t *testing.T) {
	hash := strings.Repeat("0aB1", 16)
	for _, tt := range []struct {
		line string
		want WindowsEntry
		ok   bool
	}{
		{`Grant-SmbClientAccessToServer -Name files.example.com -IdentifierType SHA256 -Identifier ` + hash, WindowsEntry{Server: "files.example.com", SHA256: hash}, true},
		{`  PS C:\> block-smbclientaccesstoserver -Identifier "CN=Old CA, O=Example" -IdentifierType:ISSUER -Name 'files' -Force # gone`,
			WindowsEntry{Server: "files", Deny: true, Issuer: "CN=Old CA, O=Example"}, true},
		{"Grant-SmbClientAccessToServer -Name a -IdentifierType ISSUER -Identifier \"CN=50`% `$ CA\"", WindowsEntry{Server: "a", Issuer: `CN=50% $ CA`}, true},
		{`Grant-SmbClientAccessToServer -Name a -IdentifierType ISSUER -Identifier 'CN=O''Neill'`, WindowsEntry{Server: "a", Issuer: "CN=O'Neill"}, true},
		{"", WindowsEntry{}, false},
		{"# Grant-SmbClientAccessToServer", WindowsEntry{}, false},
		{"Get-SmbClientAccessToServer -Name a", WindowsEntry{}, false},
	} {
		got, ok, err := ParseWindowsLine(tt.line)
		if err != nil {
			t.Errorf("%s: %v", tt.line, err)
			continue
		}
		if ok != tt.ok || got != tt.want {
			t.Errorf("%s: %+v %v, want %+v %v", tt.line, got, ok, tt.want, tt.ok)
		}
	}
	for _, line := range []string{
		"Grant-SmbClientAccessToServer -Name a -IdentifierType SHA256 -Identifier abc",
		"Grant-SmbClientAccessToServer -Name a -Identifier " + hash,
		"Grant-SmbClientAccessToServer -Name a -IdentifierType SHA1 -Identifier " + hash,
		"Grant-SmbClientAccessToServer -Name a -IdentifierType SHA256 -Identifier",
		"Grant-SmbClientAccessToServer -Name a -IdentifierType SHA256 -Identifier $hash",
		"Grant-SmbClientAccessToServer -Name 'a",
		"Block-SmbClientAccessToServer -Nmae a",
	} {
		if got, ok, err := ParseWindowsLine(line); err == nil || ok {
			t.Errorf("%s: %+v %v", line, got, ok)
		}
	}
}

func FuzzParseWindowsLine(f *testing.F) {
	f.Add("Grant-SmbClientAccessToServer -Name a -IdentifierType ISSUER -Identifier 'CN=x'")
	f.Fuzz(func(t *testing.T, line string) {
		e, ok, err := ParseWindowsLine(line)
		if ok && (err != nil || (e.Issuer == "") == (e.SHA256 == "")) {
			t.Errorf("%+v, %v", e, err)
		}
	})
}
