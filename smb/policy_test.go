package smb

import (
	"encoding/binary"
	"strings"
	"testing"
)

// treeConnectBody is the body of a TREE_CONNECT request for path.
func treeConnectBody(path string) []byte {
	b := make([]byte, 8)
	p := encodeUTF16(path)
	binary.LittleEndian.PutUint16(b, 9)
	binary.LittleEndian.PutUint16(b[4:], headerLen+8)
	binary.LittleEndian.PutUint16(b[6:], uint16(len(p)))
	return append(b, p...)
}

const cmdIoctl = 11

// script runs requests ('>') and responses ('<') through one policy.
type step struct {
	dir byte
	msg []byte
}

func play(o Options, steps []step) error {
	p := newPolicy(&o)
	up, down := NewInspector(ToBackend, 0), NewInspector(ToClient, 0)
	up.walk = p.requests()
	down.walk = p.responses(func(uint32) error { return nil })
	for _, s := range steps {
		in := up
		if s.dir == '<' {
			in = down
		}
		if _, err := in.Inspect(s.msg); err != nil {
			return err
		}
	}
	return nil
}

// HOSTILE 55: pipes, told by what the server answers, not by names alone.
func TestPolicy(t *testing.T) {
	connect := func(id uint64, path string) []byte {
		return element(header{command: cmdTreeConnect, messageID: id, sessionID: 7}, treeConnectBody(path)...)
	}
	answer := func(id uint64, tree uint32, kind byte) []byte {
		return element(header{command: cmdTreeConnect, flags: flagResponse, messageID: id, sessionID: 7, treeID: tree}, 16, 0, kind, 0)
	}
	create := func(tree uint32, flags uint32) []byte {
		return element(header{command: cmdCreate, messageID: 9, sessionID: 7, treeID: tree, flags: flags}, make([]byte, 56)...)
	}
	setup := func(flags byte) []byte {
		body := make([]byte, 24)
		body[2] = flags
		return element(header{command: cmdSessionSetup, sessionID: 7}, body...)
	}
	loggedOn := func(status uint32) []byte {
		return element(header{command: cmdSessionSetup, flags: flagResponse, status: status, sessionID: 7}, make([]byte, 8)...)
	}
	for _, c := range []struct {
		name  string
		o     Options
		steps []step
		want  Reason
	}{
		{"file on a disk share", Options{}, []step{{'>', plain(connect(1, `\\s\share`))}, {'<', plain(answer(1, 5, 1))}, {'>', plain(create(5, 0))}}, ReasonNone},
		{"pipe", Options{}, []step{{'>', plain(connect(1, `\\s\IPC$`))}, {'<', plain(answer(1, 5, 2))}, {'>', plain(create(5, 0))}}, ReasonNamedPipe},
		{"pipe, other spelling", Options{}, []step{{'>', plain(connect(1, `\\S\iPc$`))}, {'<', plain(answer(1, 5, 2))}, {'>', plain(create(5, 0))}}, ReasonNamedPipe},
		{"pipe share of another name", Options{}, []step{{'>', plain(connect(1, `\\s\pipes`))}, {'<', plain(answer(1, 5, 2))}, {'>', plain(create(5, 0))}}, ReasonNamedPipe},
		{"pipe, allowed", Options{AllowNamedPipes: true}, []step{{'>', plain(connect(1, `\\s\IPC$`))}, {'<', plain(answer(1, 5, 2))}, {'>', plain(create(5, 0))}}, ReasonNone},
		{"pipe, allowed, with shares", Options{AllowNamedPipes: true, Shares: []string{"a"}}, []step{{'>', plain(connect(1, `\\s\IPC$`))}, {'<', plain(answer(1, 5, 2))}, {'>', plain(create(5, 0))}}, ReasonNone},
		{"guessed tree before the answer", Options{}, []step{{'>', plain(connect(1, `\\s\IPC$`))}, {'>', plain(create(5, 0))}}, ReasonNamedPipe},
		{"compounded", Options{}, []step{{'>', plain(connect(1, `\\s\IPC$`), create(0xffffffff, flagRelated))}}, ReasonNamedPipe},
		{"file while a pipe share connects", Options{}, []step{{'>', plain(connect(1, `\\s\share`))}, {'<', plain(answer(1, 5, 1))}, {'>', plain(connect(2, `\\s\IPC$`))}, {'>', plain(create(5, 0))}}, ReasonNone},
		{"compounded after a disk share", Options{}, []step{{'>', plain(connect(1, `\\s\share`), create(0xffffffff, flagRelated))}}, ReasonNone},
		{"refused share leaves no tree", Options{}, []step{
			{'>', plain(connect(1, `\\s\IPC$`))},
			{'<', plain(element(header{command: cmdTreeConnect, flags: flagResponse, status: 0xC0000022, messageID: 1, sessionID: 7, treeID: 5}, 9, 0, 0, 0))},
			{'>', plain(create(5, 0))},
		}, ReasonNone},
		{"share in the list", Options{Shares: []string{"Office"}}, []step{{'>', plain(connect(1, `\\s\OFFICE`))}}, ReasonNone},
		{"share not in the list", Options{Shares: []string{"office"}}, []step{{'>', plain(connect(1, `\\s\office2`))}}, ReasonShare},
		{"share in a chain", Options{Shares: []string{"office"}}, []step{{'>', plain(connect(1, `\\s\office`), connect(2, `\\s\c$`))}}, ReasonShare},
		{"no share name", Options{Shares: []string{"office"}}, []step{{'>', plain(connect(1, `office`))}}, ReasonShare},
		{"overlong path", Options{}, []step{{'>', plain(connect(1, `\\s\`+strings.Repeat("x", 2000)))}}, ReasonShare},
		{"pipe, by way of the request before in the chain", Options{}, []step{
			{'>', plain(connect(1, `\\s\IPC$`))},
			{'<', plain(answer(1, 5, 2))},
			{'>', plain(element(header{command: cmdIoctl, messageID: 2, sessionID: 7, treeID: 5}, make([]byte, 56)...), create(0xffffffff, flagRelated))},
		}, ReasonNamedPipe},
		{"pipe, two steps into the chain", Options{}, []step{
			{'>', plain(connect(1, `\\s\IPC$`), connect(2, `\\s\share`))},
			{'<', plain(answer(1, 5, 2), answer(2, 6, 1))},
			{'>', plain(element(header{command: cmdIoctl, messageID: 2, sessionID: 7, treeID: 5}, make([]byte, 56)...),
				element(header{command: cmdIoctl, messageID: 3, sessionID: 7, treeID: 6, flags: flagRelated}, make([]byte, 56)...), create(6, flagRelated))},
		}, ReasonNamedPipe},
		{"file, by way of the request before in the chain", Options{}, []step{
			{'>', plain(connect(1, `\\s\IPC$`), connect(2, `\\s\share`))},
			{'<', plain(answer(1, 5, 2), answer(2, 6, 1))},
			{'>', plain(element(header{command: cmdIoctl, messageID: 2, sessionID: 7, treeID: 6}, make([]byte, 56)...), create(5, flagRelated))},
		}, ReasonNone},
		{"asynchronous create", Options{}, []step{{'>', plain(create(5, flagAsync))}}, ReasonClientFraming},
		{"file in a tree that was connected out of sight", Options{}, []step{{'>', plain(setup(0))}, {'>', plain(create(5, 0))}}, ReasonNone},
		{"file in a tree of another channel", Options{}, []step{{'>', plain(setup(sessionBinding))}, {'>', plain(create(5, 0))}}, ReasonNamedPipe},
		{"file in a tree of this channel", Options{}, []step{{'>', plain(setup(sessionBinding))}, {'>', plain(connect(1, `\\s\share`))}, {'<', plain(answer(1, 5, 1))}, {'>', plain(create(5, 0))}}, ReasonNone},
		{"pipes of another channel, allowed", Options{AllowNamedPipes: true, Shares: []string{"a"}}, []step{{'>', plain(setup(sessionBinding))}, {'>', plain(create(5, 0))}}, ReasonNone},
		{"share behind another", Options{Shares: []string{"office"}}, []step{{'>', plain(connect(1, `\\s\secret\office`))}}, ReasonShare},
		{"share without a server", Options{Shares: []string{"office"}}, []step{{'>', plain(connect(1, `\\\office`))}}, ReasonShare},
		{"share with one backslash", Options{Shares: []string{"office"}}, []step{{'>', plain(connect(1, `\s\office`))}}, ReasonShare},
		{"share after a zero", Options{Shares: []string{"office"}}, []step{{'>', plain(connect(1, "\\\\s\\secret\x00\\office"))}}, ReasonShare},
		{"compressed logon", Options{KerberosOnly: true}, []step{{'>', message("\xfcSMB", 100)}}, ReasonNTLM},
		{"compressed logon after one that is refused", Options{KerberosOnly: true}, []step{{'<', plain(loggedOn(0xC0000016))}, {'>', message("\xfcSMB", 100)}}, ReasonNTLM},
		{"compressed after the logon", Options{KerberosOnly: true}, []step{{'<', plain(loggedOn(0))}, {'>', message("\xfcSMB", 100)}}, ReasonNone},
		{"compressed", Options{}, []step{{'>', message("\xfcSMB", 100)}}, ReasonNone},
		{"response from a client", Options{}, []step{{'>', plain(answer(1, 5, 1))}}, ReasonClientFraming},
	} {
		err := play(c.o, c.steps)
		if got := reasonOf(err, ReasonNone); got != c.want {
			t.Errorf("%s: %s (%v), want %s", c.name, got, err, c.want)
		}
	}
}

// What a client can make the gateway remember is bounded.
func TestPolicyTreeLimit(t *testing.T) {
	o := Options{}
	p := newPolicy(&o)
	up := NewInspector(ToBackend, 0)
	up.walk = p.requests()
	for i := range uint64(maxTrees) + 1 {
		_, err := up.Inspect(plain(element(header{command: cmdTreeConnect, messageID: i}, treeConnectBody(`\\s\a`)...)))
		if want := i == maxTrees; (err != nil) != want {
			t.Fatalf("tree %d: %v", i, err)
		}
	}
}
