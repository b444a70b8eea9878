package raftgroup

import (
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

// TestLogStaysForSeededReplicas: from the intent on, and again for a while
// after the replica became a member, every replica keeps the log that the new
// one needs; also one whose state came out of a snapshot. Time is the log's.
func TestLogStaysForSeededReplicas(t *testing.T) {
	t.Parallel()
	s := newState(id.Group{}, map[id.Replica]id.Node{1: nodeN(1)}, Options{})
	at := int64(0)
	add := func(data []byte, typ raftpb.EntryType) {
		t.Helper()
		stampClock(data, at)
		e := &raftpb.Entry{Index: new(s.index + 1), Term: new(uint64(1)), Type: typ.Enum(), Data: data}
		if _, err := s.apply(e); err != nil {
			t.Fatal(err)
		}
	}
	want := func(index uint64, when string) {
		t.Helper()
		copied, err := s.clone()
		if err != nil {
			t.Fatal(err)
		}
		if a, b := s.needed(1000), copied.needed(1000); a != index || b != index {
			t.Fatalf("%s: the log may go up to %d, as decoded up to %d, want %d", when, a, b, index)
		}
	}
	node := nodeN(2)
	want(1000, "before")
	add(record(t, KindReplicaIntent, &grouppb.ReplicaIntent{Nonce: []byte("0123456789abcdef"), Node: node[:], Seed: 70}), raftpb.EntryNormal)
	want(70, "after the intent")
	at += int64(seedTime - time.Second)
	add(nil, raftpb.EntryNormal)
	want(70, "shortly before the time is over")

	cc := raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: new(uint64(2))}}}
	ctx := grouppb.ConfContext{Clock: at}
	var err error
	if cc.Context, err = ctx.Marshal(); err != nil {
		t.Fatal(err)
	}
	_, data, err := raftpb.MarshalConfChange(&cc)
	if err != nil {
		t.Fatal(err)
	}
	add2 := &raftpb.Entry{Index: new(s.index + 1), Term: new(uint64(1)), Type: raftpb.EntryConfChangeV2.Enum(), Data: data}
	if o, err := s.apply(add2); err != nil || !o.ok {
		t.Fatalf("the learner was not added: %+v, %v", o, err)
	}
	want(70, "as a new member")
	at += int64(seedTime) + 1
	add(record(t, KindSessionClose, &grouppb.SessionClose{Session: 9}), raftpb.EntryNormal)
	want(1000, "when it must have caught up")
}
