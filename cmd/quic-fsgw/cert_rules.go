package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/quic-fsgw/quic-fsgw/gateway/access"
)

// maxRuleLine bounds a line of what certRules reads, in bytes.
const maxRuleLine = 64 << 10

// certRules turns Windows' Grant- and Block-SmbClientAccessToServer commands
// into the access rule that means the same. Nothing is written if a line is not
// understood.
func certRules(std stdio, names []string, in io.Reader) error {
	if len(names) > 1 {
		return usagef("cert rules: unexpected %q (one file, or - for standard input)", names[1])
	}
	where := "standard input"
	if len(names) == 1 && names[0] != "-" {
		f, err := os.Open(names[0])
		if err != nil {
			return fmt.Errorf("cert rules: %w", err)
		}
		defer f.Close()
		in, where = f, names[0]
	}
	var allow, deny bytes.Buffer
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxRuleLine)
	for n := 1; lines.Scan(); n++ {
		e, ok, err := access.ParseWindowsLine(lines.Text())
		if err != nil {
			return fmt.Errorf("cert rules: %s:%d: %w", where, n, err)
		}
		if !ok {
			continue
		}
		to, entry := &allow, "issuer: "+strconv.Quote(e.Issuer)
		if e.Deny {
			to = &deny
		}
		if e.SHA256 != "" {
			entry = "sha256: " + strconv.Quote(e.SHA256)
		}
		fmt.Fprintf(to, "      - %s", entry)
		if e.Server != "" {
			fmt.Fprintf(to, " # for %q", e.Server)
		}
		to.WriteByte('\n')
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("cert rules: %s: %w", where, err)
	}
	if allow.Len()+deny.Len() == 0 {
		return fmt.Errorf("cert rules: %s: no Grant- or Block-SmbClientAccessToServer in it", where)
	}
	text := "access:\n  windows:\n    client_certificate: required\n"
	if allow.Len() > 0 {
		text += "    allow:\n" + allow.String()
	} else {
		text += "    allow: [] # nothing was granted: nobody could pass\n"
	}
	if deny.Len() > 0 {
		text += "    deny:\n" + deny.String()
	}
	_, err := io.WriteString(std.out, text)
	return err
}
