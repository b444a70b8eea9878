package raftgroup

import (
	"math/rand/v2"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/copycat-replication/copycat/id"
)

// FuzzMessage takes bytes off the network: whatever they are, the checks in
// front of raft must not panic, nor raft behind them, as a follower and as a
// leader with a read under way; and a proposal that passes can be applied.
func FuzzMessage(f *testing.F) {
	for _, m := range []*raftpb.Message{
		{Type: raftpb.MsgHeartbeat.Enum(), From: u64(2), To: u64(1), Term: u64(1)},
		{Type: raftpb.MsgProp.Enum(), From: u64(2), To: u64(1), Entries: []*raftpb.Entry{{Data: encodeBatch(nil, 1, 1, 0, items("x"))}}},
		{Type: raftpb.MsgApp.Enum(), From: u64(2), To: u64(1), Term: u64(1), Entries: []*raftpb.Entry{normal(1, 1, nil)}},
		{Type: raftpb.MsgSnap.Enum(), From: u64(2), To: u64(1), Term: u64(1), Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
			Index: u64(5), Term: u64(1), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2}, VotersOutgoing: []uint64{1, 3}, LearnersNext: []uint64{3}, AutoLeave: new(bool)},
		}}},
	} {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := decodeMessage(data)
		if err != nil || validateMessage(m, Message{From: id.Replica(m.GetFrom()), To: 1}, 1) != nil {
			return
		}
		for _, leads := range []bool{false, true} {
			h := newHostileNode(t, rand.New(rand.NewPCG(1, 1))) // of three voters
			if leads {
				_ = h.rn.Campaign()
				h.work()
				for _, answer := range []raftpb.MessageType{raftpb.MsgPreVoteResp, raftpb.MsgVoteResp} {
					h.step(&raftpb.Message{Type: answer.Enum(), From: u64(2), To: u64(1), Term: u64(3)})
				}
				if h.rn.BasicStatus().RaftState != raft.StateLeader {
					t.Fatal("does not lead")
				}
				h.step(&raftpb.Message{Type: raftpb.MsgAppResp.Enum(), From: u64(2), To: u64(1), Term: u64(3), Index: u64(h.last())})
				h.rn.ReadIndex([]byte("read"))
				h.work()
			}
			if p := h.step(proto.Clone(m).(*raftpb.Message)); p != "" {
				t.Fatalf("leads %v: %v: %s", leads, m, p)
			}
			if p := h.contain(func() { h.rn.Tick() }); p != "" {
				t.Fatalf("leads %v: %v: later: %s", leads, m, p)
			}
		}
		if m.GetType() != raftpb.MsgProp {
			return
		}
		s, log := newTestState(), newMemLog()
		for _, e := range m.GetEntries() {
			mustApply(t, s, log.add(e.GetData()))
		}
	})
}

// FuzzState decodes an applied state out of arbitrary bytes: what is accepted
// can go on, and be encoded again without a change.
func FuzzState(f *testing.F) {
	s := newTestState()
	for _, e := range makeLog(f, seeded(1), 120).entries {
		mustApply(f, s, e)
		if e.GetIndex()%40 == 0 {
			f.Add([]byte(encoded(f, s)))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeState(id.Group{}, data)
		if err != nil {
			return
		}
		once := cutState(t, s)
		if encoded(t, once) != encoded(t, cutState(t, once)) {
			t.Fatal("another state each time")
		}
		s.index = 0
		log := newMemLog()
		mustApply(t, s, log.add(openRecord(t, 1, nodeN(1), 1)))
		mustApply(t, s, log.add(encodeBatch(nil, 1, 1, 0, items("x"))))
		mustApply(t, s, log.add(intentRecord(t, 1, nodeN(9))))
		mustApply(t, s, confEntry(t, log, raftpb.ConfChangeAddLearnerNode, uint64(s.next)-1))
	})
}
