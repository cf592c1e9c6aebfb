package tlshd

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// remoteSigner is a crypto.Signer whose key is behind a connection: a request is
// hash u8, salt i32, length u32 and the digest, an answer length u32 and the
// signature, empty if it was refused.
type remoteSigner struct {
	public crypto.PublicKey
	mu     sync.Mutex
	conn   net.Conn
}

func (s *remoteSigner) Public() crypto.PublicKey { return s.public }

func (s *remoteSigner) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	salt := int32(-100)
	if pss, ok := opts.(*rsa.PSSOptions); ok {
		salt = int32(pss.SaltLength)
	}
	req := append([]byte{byte(opts.HashFunc())}, binary.BigEndian.AppendUint32(nil, uint32(salt))...)
	req = append(binary.BigEndian.AppendUint32(req, uint32(len(digest))), digest...)
	if _, err := s.conn.Write(req); err != nil {
		return nil, err
	}
	var n [4]byte
	if _, err := io.ReadFull(s.conn, n[:]); err != nil {
		return nil, err
	}
	sig := make([]byte, binary.BigEndian.Uint32(n[:]))
	if _, err := io.ReadFull(s.conn, sig); err != nil || len(sig) == 0 {
		return nil, errors.Join(errors.New("the signer refused"), err)
	}
	return sig, nil
}

// serveSigner answers a remoteSigner until its connection ends.
func serveSigner(conn net.Conn, key crypto.Signer, signed *atomic.Int64) {
	for {
		var head [9]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return
		}
		digest := make([]byte, binary.BigEndian.Uint32(head[5:]))
		if _, err := io.ReadFull(conn, digest); err != nil {
			return
		}
		var opts crypto.SignerOpts = crypto.Hash(head[0])
		if salt := int32(binary.BigEndian.Uint32(head[1:])); salt != -100 {
			opts = &rsa.PSSOptions{SaltLength: int(salt), Hash: crypto.Hash(head[0])}
		}
		sig, err := key.Sign(rand.Reader, digest, opts)
		if err != nil {
			sig = nil
		}
		signed.Add(1)
		if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(sig))), sig...)); err != nil {
			return
		}
	}
}

// A key that the helper never has: it signs at the other end of a connection, for
// both kinds of keys. A signer that is gone fails handshakes and
// nothing else.
func TestRemoteSigner(t *testing.T) {
	s := newSite(t)
	leakCheck(t)
	keys := map[string]crypto.Signer{"ec": ecKey(t), "rsa": rsaKey(t)}
	var signed atomic.Int64
	var conns []net.Conn
	var served sync.WaitGroup
	RegisterSigner("remote", func(name string, public crypto.PublicKey) (crypto.Signer, error) {
		key := keys[name]
		if key == nil {
			return nil, errors.New("no such key")
		}
		ours, theirs := net.Pipe()
		conns = append(conns, ours)
		served.Go(func() { serveSigner(theirs, key, &signed) })
		return &remoteSigner{public: key.Public(), conn: ours}, nil
	})
	t.Cleanup(func() {
		signers.mu.Lock()
		delete(signers.by, "remote")
		signers.mu.Unlock()
		for _, c := range conns {
			_ = c.Close()
		}
		served.Wait()
	})
	s.cfg.Certificates = nil
	for name, key := range keys {
		leaf := s.serverCA.leaf(t, key, forServer(name+".example.com"))
		file := replaceFile(t, filepath.Join(s.dir, name+".pem"), pemOf("CERTIFICATE", leaf.Certificate...))
		s.cfg.Certificates = append(s.cfg.Certificates, Certificate{Cert: file, Key: "remote:" + name})
	}
	srv, err := NewServer(s.cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = srv.Close()
	l := startLocal(t, s.cfg)
	for _, name := range []string{"ec", "rsa"} {
		before := signed.Load()
		shake(t, viaHelper(l.Client, serverRequest(func(r *Request) { r.ServerName = name + ".example.com" })), viaHelper(l.Client, clientRequest(name+".example.com", "smb"))).ok()
		if signed.Load() != before+1 {
			t.Errorf("%s: %d signatures for a handshake", name, signed.Load()-before)
		}
	}
	for _, c := range conns {
		_ = c.Close()
	}
	shake(t, viaHelper(l.Client, serverRequest(func(r *Request) { r.ServerName = "ec.example.com" })), viaHelper(l.Client, clientRequest("ec.example.com", "smb"))).
		refused(StatusEACCES, alertInternalError, ReasonTLS)

	bad := s.cfg
	bad.Certificates = []Certificate{{Cert: s.cfg.Certificates[0].Cert, Key: "remote:none"}}
	if err := l.Server.Reload(bad); err == nil || !strings.Contains(err.Error(), "no such key") {
		t.Errorf("a key that is not there: %v", err)
	}
	keys["other"] = ecKey(t)
	bad.Certificates = []Certificate{{Cert: s.cfg.Certificates[0].Cert, Key: "remote:other"}}
	if err := l.Server.Reload(bad); !errors.Is(err, errKeyMismatch) {
		t.Errorf("the key of another certificate: %v", err)
	}
}
