package quic

import (
	"testing"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// TestRetiredIDStaysRetired: NEW_CONNECTION_ID repeated by the network, or by a
// peer that missed an acknowledgment, must not lead packets to an ID that the
// peer has forgotten since.
func TestRetiredIDStaysRetired(t *testing.T) {
	_, server := connect(t, serverConfig(), clientConfig())
	server.lock()
	defer server.unlock()
	ids := &server.ids
	for seq := uint64(100); len(ids.remote) < 3; seq++ { // the client's own may be on their way still
		id, _ := wire.MakeConnID([]byte{byte(seq), 2, 3, 4, 5, 6, 7, 8})
		if err := server.addRemote(seq, 0, id, [16]byte{byte(seq)}); err != nil {
			t.Fatal(err)
		}
	}
	spare := append([]remoteID(nil), ids.remote...)
	for range 2 {
		if !server.nextRemote() {
			t.Fatal("no connection ID left")
		}
	}
	for _, r := range spare[1:] {
		if err := server.addRemote(r.seq, 0, r.id, r.token); err != nil {
			t.Fatal(err)
		}
	}
	if len(ids.remote) != len(spare)-2 || ids.remote[0].seq != spare[2].seq {
		t.Errorf("in use: %v, of %v", ids.remote, spare)
	}
	ids.retire = nil // the client never issued what was made up here
}
