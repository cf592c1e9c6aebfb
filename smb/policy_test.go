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

const (
	cmdWrite = 9
	cmdIoctl = 11
)

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
	// packed is a compressed message with a header in the clear, which 2 octets of
	// what is compressed follow.
	packed := func(command uint16, next uint32, flags, algorithm uint16) []byte {
		clear := element(header{command: command}, make([]byte, 48)...)
		binary.LittleEndian.PutUint32(clear[20:], next)
		b := append([]byte("\xfcSMB"), 0xff, 0xff, 0xff, 0x7f) // the size of a bomb
		b = binary.LittleEndian.AppendUint16(b, algorithm)
		b = binary.LittleEndian.AppendUint16(b, flags)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(clear)))
		b = append(append(b, clear...), 1, 2)
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
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
		{"compressed logon beside another", Options{KerberosOnly: true}, []step{{'<', plain(loggedOn(0))}, {'>', packed(cmdSessionSetup, 0, 0, 0)}}, ReasonNTLM},
		{"compressed logon in a chain", Options{KerberosOnly: true, AllowNamedPipes: true}, []step{{'>', packed(cmdWrite, 112, 0, 0)}}, ReasonNTLM},
		{"compressed out of sight", Options{}, []step{{'>', message("\xfcSMB", 100)}}, ReasonNone},
		{"compressed, too short to show anything", Options{KerberosOnly: true}, []step{{'>', message("\xfcSMB", 20)}}, ReasonNTLM},
		{"compressed create", Options{}, []step{{'>', packed(cmdCreate, 0, 0, 0)}}, ReasonNamedPipe},
		{"compressed tree connect", Options{Shares: []string{"a"}, AllowNamedPipes: true}, []step{{'>', packed(cmdTreeConnect, 0, 0, 0)}}, ReasonShare},
		{"compressed write", Options{Shares: []string{"a"}, KerberosOnly: true}, []step{{'>', packed(cmdWrite, 0, 0, 0)}, {'>', plain(connect(1, `\\s\b`))}}, ReasonShare},
		{"compressed write, chained", Options{}, []step{{'>', packed(cmdWrite, 0, 1, 0)}}, ReasonNone},
		{"compressed from its beginning", Options{KerberosOnly: true}, []step{{'>', packed(cmdWrite, 0, 1, 4)}}, ReasonNTLM},
		{"compressed, with flags that nobody knows", Options{KerberosOnly: true}, []step{{'>', packed(cmdWrite, 0, 2, 0)}}, ReasonNTLM},
		{"compressed, no rule", Options{AllowNamedPipes: true}, []step{{'>', message("\xfcSMB", 100)}, {'>', packed(cmdCreate, 0, 0, 0)}}, ReasonNone},
		{"response from a client", Options{}, []step{{'>', plain(answer(1, 5, 1))}}, ReasonClientFraming},
	} {
		err := play(c.o, c.steps)
		if got := reasonOf(err, ReasonNone); got != c.want {
			t.Errorf("%s: %s (%v), want %s", c.name, got, err, c.want)
		}
	}
}

// Trees that are connected and disconnected for weeks are no more than those that
// are there, and a number that a server gives again is another tree.
func TestPolicyForgetsTrees(t *testing.T) {
	o := Options{}
	p := newPolicy(&o)
	up, down := NewInspector(ToBackend, 0), NewInspector(ToClient, 0)
	up.walk, down.walk = p.requests(), p.responses(func(uint32) error { return nil })
	pass := func(in *Inspector, msg []byte) {
		t.Helper()
		if _, err := in.Inspect(msg); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint64(3 * maxTrees) {
		path, kind, tree := `\\s\IPC$`, byte(2), uint32(i/2)
		if i%2 == 1 {
			path, kind = `\\s\share`, 1
		}
		pass(up, plain(element(header{command: cmdTreeConnect, messageID: i, sessionID: 7}, treeConnectBody(path)...)))
		pass(down, plain(element(header{command: cmdTreeConnect, flags: flagResponse, messageID: i, sessionID: 7, treeID: tree}, 16, 0, kind, 0)))
		if i%2 == 1 { // the number was a pipe share's before
			pass(up, plain(element(header{command: cmdCreate, messageID: i, sessionID: 7, treeID: tree}, make([]byte, 56)...)))
		}
		pass(up, plain(element(header{command: cmdTreeDisconnect, messageID: i, sessionID: 7, treeID: tree}, 4, 0, 0, 0)))
		pass(down, plain(element(header{command: cmdTreeDisconnect, flags: flagResponse, messageID: i, sessionID: 7, treeID: tree}, 4, 0, 0, 0)))
	}
	for i := range uint64(100) {
		pass(up, plain(element(header{command: cmdTreeConnect, messageID: i, sessionID: 7}, treeConnectBody(`\\s\share`)...)))
		pass(down, plain(element(header{command: cmdTreeConnect, flags: flagResponse, messageID: i, sessionID: 7, treeID: uint32(i)}, 16, 0, 1, 0)))
	}
	pass(down, plain(element(header{command: cmdLogoff, flags: flagResponse, sessionID: 7}, 4, 0, 0, 0)))
	if len(p.trees)+len(p.pending) != 0 {
		t.Errorf("%d trees are remembered", len(p.trees)+len(p.pending))
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
