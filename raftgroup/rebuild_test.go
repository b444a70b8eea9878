package raftgroup

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
	"github.com/copycat-replication/copycat/wal"
)

// From whatever membership, joint ones too, raft and the pure function come to
// the same one: the survivor alone.
func TestToSole(tt *testing.T) {
	tt.Parallel()
	rapid.Check(tt, func(t *rapid.T) {
		some := func(name string, from []uint64) []uint64 {
			return rapid.SliceOfNDistinct(rapid.SampledFrom(from), 1, min(3, len(from)), rapid.ID[uint64]).Draw(t, name)
		}
		all := []uint64{1, 2, 3, 4, 5, 6}
		cs := &raftpb.ConfState{AutoLeave: new(bool), Voters: some("voters", all)}
		if rapid.Bool().Draw(t, "joint") {
			cs.VotersOutgoing = some("outgoing", all)
		}
		var rest []uint64
		for _, r := range all {
			if !inConf(cs, r) {
				rest = append(rest, r)
			}
		}
		if len(rest) > 0 && rapid.Bool().Draw(t, "with learners") {
			cs.Learners = some("learners", rest)
		}
		sole := rapid.SampledFrom(all).Draw(t, "sole")
		rn := rawNodeAt(tt, cs)
		next, got := cs, cs
		for _, cc := range toSole(cs, sole) {
			var err error
			if next, err = applyConfChange(next, cc); err != nil {
				t.Fatalf("from %v to %d alone: %v: %v", cs, sole, cc, err)
			}
			got = rn.ApplyConfChange(cc)
		}
		want := &raftpb.ConfState{AutoLeave: new(bool), Voters: []uint64{sole}}
		if !equalConf(next, want) || !equalConf(got, want) {
			t.Fatalf("from %v to %d alone: the log has %v, raft %v", cs, sole, next, got)
		}
	})
}

// A rebuilding ends all sessions, forgets who was about to join, and gives out no
// ReplicaID twice. Nobody may propose one.
func TestRebuiltEntry(t *testing.T) {
	t.Parallel()
	s, log := newTestState(), newMemLog()
	mustApply(t, s, log.add(openRecord(t, 1, nodeN(1), 1)))
	mustApply(t, s, log.add(encodeBatch(nil, 1, 1, 0, items("x"))))
	mustApply(t, s, log.add(intentRecord(t, 1, nodeN(9))))
	node := nodeN(2)
	data := record(t, KindRebuilt, &grouppb.Rebuilt{Recovery: 1 << recoveryTag, Replica: 2, Node: node[:]})
	if err := checkEntry(data); !errors.Is(err, ErrMalformedEntry) {
		t.Errorf("as a proposal: %v", err)
	}
	next := s.next
	o := mustApply(t, s, log.add(data))
	if !o.ok || len(o.ended) != 1 || len(s.sessions.live) != 0 || len(s.intents) != 0 || len(s.members) != 1 || s.members[2] != node || s.next != next {
		t.Fatalf("%+v, state %+v", o, s)
	}
	if o := mustApply(t, s, log.add(encodeBatch(nil, 1, 2, 0, items("late")))); o.verdict != verdictUnknown || s.commits != 1 {
		t.Fatalf("a batch of the old life counts: %+v", o)
	}
	if _, err := s.apply(log.add(record(t, KindRebuilt, &grouppb.Rebuilt{Node: node[:]}))); !errors.Is(err, ErrMalformedEntry) {
		t.Errorf("around no replica: %v", err)
	}
}

// Two rebuildings of one group, from whatever, are two incarnations, and a
// later one is later.
func TestPlanRebuild(t *testing.T) {
	t.Parallel()
	genesis := Genesis{Group: id.Group{Structure: id.Structure{1}, Incarnation: id.Incarnation{Birth: 7}}, Members: map[id.Replica]id.Node{1: nodeN(1), 2: nodeN(2)}}
	meta := grouppb.Replica{Version: 1, Replica: 2, Phase: grouppb.Replica_STARTED, Genesis: genesis.encode()}
	marshal := func() []byte {
		data, err := meta.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	st := wal.GroupState{Group: 3, Meta: marshal(), LastIndex: 10, HardState: &raftpb.HardState{Term: new(uint64(4)), Vote: new(uint64(1)), Commit: new(uint64(8))}}
	u, r, err := PlanRebuild(st, 5, RebuildOrder{Node: nodeN(2), Commit: []byte("first"), At: time.Unix(9, 0), Reason: "why"}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	hs := u.HardState
	if len(u.Entries) != 4 || u.Entries[0].GetIndex() != 11 || hs.GetTerm() != 6 || hs.GetCommit() != 14 || hs.GetVote() != 0 || u.Entries[3].GetTerm() != 6 {
		t.Fatalf("update %+v", u)
	}
	rec, err := DecodeReplica(u.Meta)
	if err != nil || rec.Group.Incarnation != r.To || !r.From.Less(r.To) || r.To.Recovery>>recoveryTag != 1 || rec.Replica != 2 || len(rec.First) != 2 {
		t.Fatalf("%+v, %+v, %v", rec, r, err)
	}
	same, err := nextRecovery(0, bytes.NewReader([]byte{1, 2}))
	other, err2 := nextRecovery(0, bytes.NewReader([]byte{1, 3}))
	later, err3 := nextRecovery(max(same, other), bytes.NewReader([]byte{0, 0}))
	if err != nil || err2 != nil || err3 != nil || same == other || later <= max(same, other) {
		t.Errorf("%x, %x, then %x", same, other, later)
	}
	if _, r, err := PlanRebuild(st, 5, RebuildOrder{Node: nodeN(2), At: time.Now(), Beyond: 3<<recoveryTag | 0xffff}, rand.Reader); err != nil || r.To.Recovery>>recoveryTag != 4 {
		t.Errorf("beyond another life: %+v, %v", r, err)
	}
	if _, _, err := PlanRebuild(st, 5, RebuildOrder{Node: nodeN(2), At: time.Now(), Beyond: 0xffff_0000}, rand.Reader); !errors.Is(err, ErrNotRebuildable) {
		t.Errorf("beyond the last number: %v", err)
	}
	for name, change := range map[string]func(){
		"prepared":                        func() { meta.Phase = grouppb.Replica_PREPARED },
		"set aside by another rebuilding": func() { meta.Phase = grouppb.Replica_SUPERSEDED },
	} {
		change()
		st.Meta = marshal()
		if _, _, err := PlanRebuild(st, 5, RebuildOrder{Node: nodeN(2), At: time.Now()}, rand.Reader); !errors.Is(err, ErrNotRebuildable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	meta.Version, meta.Phase = supersededVersion, grouppb.Replica_SUPERSEDED
	st.Meta = marshal()
	// With the operator's word what was set aside is used again, later than what it was set aside for.
	u, r, err = PlanRebuild(st, 5, RebuildOrder{Node: nodeN(2), At: time.Now(), Beyond: 1<<recoveryTag | 7, Superseded: true}, rand.Reader)
	if err != nil || r.To.Recovery>>recoveryTag != 2 {
		t.Fatalf("of what was set aside: %+v, %v", r, err)
	}
	if rec, err := DecodeReplica(u.Meta); err != nil || rec.Phase != PhaseStarted || rec.Version != firstVersion || rec.Group.Incarnation != r.To {
		t.Errorf("of what was set aside: %+v, %v", rec, err)
	}
	meta.Phase, st.LastIndex = grouppb.Replica_STARTED, 0
	st.Meta = marshal()
	if _, _, err := PlanRebuild(st, 0, RebuildOrder{Node: nodeN(2), At: time.Now()}, rand.Reader); !errors.Is(err, ErrNotRebuildable) {
		t.Errorf("without a log: %v", err)
	}
}
