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
