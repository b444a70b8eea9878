package raftgroup

import (
	"errors"
	"sync"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

// TestMailboxIsBounded: whatever another replica says, what waits for a step that
// does not come is bounded, also in number.
func TestMailboxIsBounded(t *testing.T) {
	t.Parallel()
	quiet, err := (&grouppb.Quiet{Kind: grouppb.Quiet_WAKE}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, payload := range map[string][]byte{
		"the word that it was removed": {wireOutsider},
		"a word of rest":               append([]byte{wireQuiet}, quiet...),
		"a report":                     {wireSnapshotReport},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := &Host{}
			h.ready.wake = sync.NewCond(&h.ready.mu)
			g := &Group{host: h, self: 1}
			const most = maxMailboxBytes / 64
			for n := 0; ; n++ {
				err := g.receive(id.Node{2}, Message{From: 2, To: 1, Payload: payload})
				if errors.Is(err, ErrBusy) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if n > most {
					t.Fatalf("%d messages wait", n)
				}
			}
			if !g.call(func() {}) {
				t.Error("a call of this host's own does not get in")
			}
		})
	}
}

// TestBulkLeavesRoomForWhatIsUrgent: a mailbox that is full of forwarded proposals
// takes acknowledgements and heartbeats still, also these up to a bound.
func TestBulkLeavesRoomForWhatIsUrgent(t *testing.T) {
	t.Parallel()
	h := &Host{}
	h.ready.wake = sync.NewCond(&h.ready.mu)
	g := &Group{host: h, self: 1}
	fill := func(m *raftpb.Message, most int) (n int) {
		t.Helper()
		body, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		for ; n <= most; n++ {
			err := g.receive(id.Node{2}, Message{From: 2, To: 1, Payload: append([]byte{wireRaft}, body...)})
			if errors.Is(err, ErrBusy) {
				return n
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		t.Fatalf("%d messages wait", n)
		return n
	}
	data := encodeBatch(nil, 1, 1, 1, []item{{payload: make([]byte, 1<<20)}})
	fill(&raftpb.Message{Type: raftpb.MsgProp.Enum(), From: u64(2), To: u64(1), Entries: []*raftpb.Entry{{Data: data}}}, 100)
	if n := fill(&raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: u64(2), To: u64(1), Term: u64(1)}, maxMailboxBytes/64); n < 1000 {
		t.Errorf("%d heartbeats find room", n)
	}
}
