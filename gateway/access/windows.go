package access

import (
	"errors"
	"fmt"
	"strings"
)

// WindowsEntry is a line of Grant-SmbClientAccessToServer or
// Block-SmbClientAccessToServer, or a row that Get-SmbClientAccessToServer
// prints as a list, as an entry of a rule.
type WindowsEntry struct {
	Server string // the name it holds for; "": not given
	Deny   bool
	Issuer string // or
	SHA256 string
}

// ParseWindowsLine reads one command. ok is false for lines that grant and block
// nothing: empty ones, comments, prompts and other commands.
func ParseWindowsLine(line string) (e WindowsEntry, ok bool, err error) {
	words, err := powershellWords(line)
	if err != nil {
		return e, false, err
	}
	// What a prompt may have left in front: "PS C:\> ".
	for len(words) > 0 && !isAccessCommand(words[0]) {
		words = words[1:]
	}
	if len(words) == 0 {
		return e, false, nil
	}
	e.Deny = strings.EqualFold(words[0], "Block-SmbClientAccessToServer")
	kind, identifier := "", ""
	for args := words[1:]; len(args) > 0; args = args[1:] {
		flag, value, joined := strings.Cut(args[0], ":")
		var to *string
		switch strings.ToLower(flag) {
		case "-name":
			to = &e.Server
		case "-identifiertype":
			to = &kind
		case "-identifier":
			to = &identifier
		case "-force", "-confirm", "-passthru":
			continue
		default:
			return e, false, fmt.Errorf("unknown word %q", args[0])
		}
		if !joined || value == "" {
			if len(args) < 2 {
				return e, false, fmt.Errorf("%s has no value", flag)
			}
			args = args[1:]
			value = args[0]
		}
		*to = value
	}
	switch strings.ToUpper(kind) {
	case "SHA256":
		e.SHA256 = identifier
		_, err = SHA256(identifier)
	case "ISSUER":
		e.Issuer = identifier
		_, err = Issuer(identifier)
	case "":
		err = errors.New("-IdentifierType is missing")
	default:
		err = fmt.Errorf("-IdentifierType %q is neither SHA256 nor ISSUER", kind)
	}
	return e, err == nil, err
}

func isAccessCommand(word string) bool {
	return strings.EqualFold(word, "Grant-SmbClientAccessToServer") || strings.EqualFold(word, "Block-SmbClientAccessToServer")
}

// powershellWords splits a command into words as PowerShell does for constant
// arguments: quotes of both kinds, doubled inside for themselves, ` before any
// character in double quotes and outside, # for the rest of the line.
func powershellWords(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord, quote := false, rune(0)
	rs := []rune(line)
	for i := 0; i < len(rs); i++ {
		c := rs[i]
		switch {
		case c == '`' && quote != '\'' && i+1 < len(rs):
			i++
			word.WriteRune(rs[i])
			inWord = true
		case quote != 0 && c == quote && i+1 < len(rs) && rs[i+1] == quote:
			i++
			word.WriteRune(c)
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '"' || c == '\'':
			quote, inWord = c, true
		case c == '#' && !inWord:
			return words, nil
		case c == ' ' || c == '\t' || c == '\r':
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		case c == '$' || c == '(' || c == ';' || c == '|':
			return nil, fmt.Errorf("%q: only constant arguments are understood", c)
		default:
			word.WriteRune(c)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a quote %q is not closed", quote)
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}
