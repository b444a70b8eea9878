package raftgroup

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

// Two replicas that apply the same log have the same state and see the same
// outcomes, wherever one of them was cut off and went on from a snapshot.
func TestApplyIsDeterministicAcrossCuts(t *testing.T) {
	t.Parallel()
	seeds(t, 120, func(t *testing.T, rng *rand.Rand) {
		log := makeLog(t, rng, 150)
		straight, cut := newTestState(), newTestState()
		for _, e := range log.entries {
			if rng.IntN(4) == 0 {
				cut = cutState(t, cut)
			}
			a, b := mustApply(t, straight, e), mustApply(t, cut, proto.Clone(e).(*raftpb.Entry))
			if a.conf != nil && !proto.Equal(a.conf, b.conf) {
				t.Fatalf("entry %d: %v and %v", e.GetIndex(), a.conf, b.conf)
			}
			a.conf, b.conf = nil, nil
			if !reflect.DeepEqual(a, b) {
				t.Fatalf("entry %d:\n%+v\n%+v", e.GetIndex(), a, b)
			}
			if encoded(t, straight) != encoded(t, cut) {
				t.Fatalf("entry %d: the states differ", e.GetIndex())
			}
		}
	})
}

// The generator is worth little if it does not reach what it is for.
func TestMakeLogReachesEveryKind(t *testing.T) {
	t.Parallel()
	kinds, verdicts := make(map[Kind]int), make(map[verdict]int)
	confs, refused, joint := 0, 0, 0
	for seed := range uint64(20) {
		s := newTestState()
		for _, e := range makeLog(t, seeded(seed), 200).entries {
			o := mustApply(t, s, e)
			if o.ok {
				kinds[o.kind]++
			}
			verdicts[o.verdict]++
			if e.GetType() != raftpb.EntryNormal {
				if o.changed {
					confs++
				} else {
					refused++
				}
			}
			if isJoint(s.conf) {
				joint++
			}
		}
	}
	for k := KindSessionOpen; k < KindDeleted; k++ {
		if kinds[k] == 0 {
			t.Errorf("no effective entry of kind %d", k)
		}
	}
	for v := verdictCounts; v <= verdictUnknown; v++ {
		if verdicts[v] == 0 {
			t.Errorf("no batch with verdict %d", v)
		}
	}
	if confs == 0 || refused == 0 || joint == 0 {
		t.Errorf("%d membership changes, %d refused, %d joint", confs, refused, joint)
	}
}

// The clock never goes back, N never jumps, ReplicaIDs are given out once, and
// the membership names a node for every member.
func TestStateInvariants(t *testing.T) {
	t.Parallel()
	seeds(t, 60, func(t *testing.T, rng *rand.Rand) {
		s := newTestState()
		var clock int64
		given := map[id.Replica][16]byte{}
		for _, e := range makeLog(t, rng, 200).entries {
			commits := s.commits
			o := mustApply(t, s, e)
			switch {
			case s.clock < clock:
				t.Fatalf("clock %d after %d", s.clock, clock)
			case o.verdict == verdictCounts && o.firstN != commits+1:
				t.Fatalf("N jumped from %d to %d", commits, o.firstN)
			case o.verdict != verdictCounts && s.commits != commits:
				t.Fatalf("N moved from %d to %d without a batch", commits, s.commits)
			case s.announced.ref.Commits > s.commits:
				t.Fatalf("a snapshot of commit %d was believed at commit %d", s.announced.ref.Commits, s.commits)
			}
			clock = s.clock
			if o.kind == KindReplicaIntent && o.ok {
				if nonce, again := given[o.intent]; again && nonce != o.nonce {
					t.Fatalf("replica %d was given out twice", o.intent)
				}
				if o.intent <= 3 {
					t.Fatalf("replica %d of the genesis was given out", o.intent)
				}
				given[o.intent] = o.nonce
			}
			for _, set := range [][]uint64{s.conf.GetVoters(), s.conf.GetLearners(), s.conf.GetVotersOutgoing(), s.conf.GetLearnersNext()} {
				for _, r := range set {
					if _, ok := s.members[id.Replica(r)]; !ok {
						t.Fatalf("member %d without a node", r)
					}
				}
			}
			for r := range s.members {
				if !inConf(s.conf, uint64(r)) {
					t.Fatalf("node of replica %d, which is no member", r)
				}
			}
		}
	})
}

func TestApplyWantsTheNextEntry(t *testing.T) {
	t.Parallel()
	s, log := newTestState(), newMemLog()
	log.add(nil)
	log.add(nil)
	if _, err := s.apply(log.at(2)); err == nil {
		t.Fatal("a hole was stepped over")
	}
	mustApply(t, s, log.at(1))
	if _, err := s.apply(log.at(1)); err == nil {
		t.Fatal("an entry was applied twice")
	}
}

// rawNodeAt is a real raft node whose membership is cs.
func rawNodeAt(t testing.TB, cs *raftpb.ConfState) *raft.RawNode {
	t.Helper()
	storage := raft.NewMemoryStorage()
	snap := &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: new(uint64(1)), Term: new(uint64(1)), ConfState: cs}}
	if err := storage.ApplySnapshot(snap); err != nil {
		t.Fatal(err)
	}
	rn, err := raft.NewRawNode(&raft.Config{
		ID: 1, ElectionTick: 10, HeartbeatTick: 1, Storage: storage, Applied: 1, MaxInflightMsgs: 1,
		Logger: &raft.DefaultLogger{Logger: quietLogger()},
	})
	if err != nil {
		t.Fatal(err)
	}
	return rn
}

// What the log says about membership is what raft makes of it.
func TestConfStateAgreesWithRaft(t *testing.T) {
	t.Parallel()
	seeds(t, 60, func(t *testing.T, rng *rand.Rand) {
		s := newTestState()
		rn := rawNodeAt(t, s.conf)
		for _, e := range makeLog(t, rng, 150).entries {
			before := s.conf
			o := mustApply(t, s, e)
			if o.conf == nil {
				if s.conf != before {
					t.Fatalf("entry %d: refused, and the membership changed", e.GetIndex())
				}
				continue
			}
			if got := rn.ApplyConfChange(o.conf); !equalConf(got, s.conf) {
				t.Fatalf("entry %d: raft has %v, the log %v", e.GetIndex(), got, s.conf)
			}
		}
	})
}

// The pure function refuses exactly those changes that make raft panic.
func TestConfChangeRefusedWhereRaftPanics(t *testing.T) {
	t.Parallel()
	seeds(t, 60, func(t *testing.T, rng *rand.Rand) {
		cs := newTestState().conf
		panics := 0
		for range 60 {
			typ, data := randomConfChange(t, rng, 6)
			cc, err := decodeConfChange(&raftpb.Entry{Type: typ.Enum(), Data: data})
			if err != nil {
				t.Fatal(err)
			}
			next, err := applyConfChange(cs, cc)
			got := func() (got *raftpb.ConfState) {
				defer func() {
					if recover() != nil {
						panics++
					}
				}()
				return rawNodeAt(t, cs).ApplyConfChange(cc)
			}()
			if (err != nil) != (got == nil) {
				t.Fatalf("%v on %v: refused with %v, raft has %v", cc, cs, err, got)
			}
			if err == nil {
				if !equalConf(next, got) {
					t.Fatalf("%v on %v: %v, raft has %v", cc, cs, next, got)
				}
				cs = next
			}
		}
		if panics == 0 {
			t.Log("no forbidden change in this seed")
		}
	})
}

func confEntry(t testing.TB, log *memLog, typ raftpb.ConfChangeType, replica uint64) *raftpb.Entry {
	t.Helper()
	data, err := proto.Marshal(&raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{{Type: typ.Enum(), NodeId: new(replica)}}})
	if err != nil {
		t.Fatal(err)
	}
	e := log.add(data)
	e.Type = raftpb.EntryConfChangeV2.Enum()
	return e
}

func intentRecord(t testing.TB, nonce byte, node id.Node) []byte {
	t.Helper()
	return record(t, KindReplicaIntent, &grouppb.ReplicaIntent{Nonce: nonceOf(nonce), Node: node[:]})
}

// A replica becomes a member only under an ID that the log gave out.
func TestMembershipNeedsAnIntent(t *testing.T) {
	t.Parallel()
	s, log := newTestState(), newMemLog()
	if o := mustApply(t, s, confEntry(t, log, raftpb.ConfChangeAddLearnerNode, 4)); o.ok || o.conf != nil || len(s.conf.GetLearners()) != 0 {
		t.Fatal("a replica that nobody was given the ID of was added")
	}
	if o := mustApply(t, s, log.add(intentRecord(t, 1, nodeN(9)))); o.intent != 4 || !o.ok {
		t.Fatalf("intent %+v", o)
	}
	if o := mustApply(t, s, confEntry(t, log, raftpb.ConfChangeAddLearnerNode, 4)); !o.changed || s.members[4] != nodeN(9) || len(s.intents) != 0 {
		t.Fatalf("learner not added: %+v", o)
	}
	if o := mustApply(t, s, confEntry(t, log, raftpb.ConfChangeRemoveNode, 4)); !o.changed {
		t.Fatalf("learner not removed: %+v", o)
	}
	if o := mustApply(t, s, confEntry(t, log, raftpb.ConfChangeAddNode, 4)); o.ok {
		t.Fatal("a removed replica came back under its old ID")
	}
	if o := mustApply(t, s, log.add(intentRecord(t, 2, nodeN(9)))); o.intent != 5 {
		t.Fatalf("replica %d given out again", o.intent)
	}
}

// A change that raft forbids has no effect, and does not stop the replica.
func TestForbiddenChangeHasNoEffect(t *testing.T) {
	t.Parallel()
	s, log := newTestState(), newMemLog()
	for _, r := range []uint64{1, 2} {
		if o := mustApply(t, s, confEntry(t, log, raftpb.ConfChangeRemoveNode, r)); !o.changed {
			t.Fatalf("voter %d not removed", r)
		}
	}
	if o := mustApply(t, s, confEntry(t, log, raftpb.ConfChangeRemoveNode, 3)); o.ok || o.conf != nil || len(s.conf.GetVoters()) != 1 {
		t.Fatal("the last voter was removed")
	}
	e := log.add(nil) // leaves a joint membership that there is not
	e.Type = raftpb.EntryConfChangeV2.Enum()
	if o := mustApply(t, s, e); o.ok {
		t.Fatal("left a joint membership that there was not")
	}
}

func TestIntents(t *testing.T) {
	t.Parallel()
	s, log := newTestState(), newMemLog()
	first := mustApply(t, s, log.add(intentRecord(t, 1, nodeN(7))))
	again := mustApply(t, s, log.add(intentRecord(t, 1, nodeN(7))))
	if first.intent != 4 || again.intent != 4 || !again.ok || len(s.intents) != 1 {
		t.Fatalf("%+v, then %+v", first, again)
	}
	// One ID never goes to two nodes, whatever their nonces are.
	if other := mustApply(t, s, log.add(intentRecord(t, 1, nodeN(8)))); other.intent == 4 {
		t.Fatal("one ReplicaID for two nodes")
	}
	if o := mustApply(t, s, log.add(record(t, KindIntentAbandon, &grouppb.IntentAbandon{Replica: 4}))); !o.ok {
		t.Fatal("not abandoned")
	}
	if o := mustApply(t, s, log.add(record(t, KindIntentAbandon, &grouppb.IntentAbandon{Replica: 4}))); o.ok {
		t.Fatal("abandoned twice")
	}
	if o := mustApply(t, s, confEntry(t, log, raftpb.ConfChangeAddLearnerNode, 4)); o.ok {
		t.Fatal("an abandoned replica was added")
	}
	for i := range maxIntents + 5 {
		mustApply(t, s, log.add(intentRecord(t, byte(i+10), nodeN(i))))
	}
	if len(s.intents) != maxIntents {
		t.Fatalf("%d intents", len(s.intents))
	}
	if s.next != id.Replica(4+2+maxIntents+5) {
		t.Fatalf("next replica is %d", s.next)
	}
}

func TestFirstBaseWins(t *testing.T) {
	t.Parallel()
	base := func(session uint64, data string) []byte {
		return record(t, KindBase, &grouppb.Base{Session: session, Data: []byte(data)})
	}
	s, log := newTestState(), newMemLog()
	if o := mustApply(t, s, log.add(base(1, "first"))); !o.ok || string(o.base) != "first" || s.bytes != 5 {
		t.Fatalf("%+v", o)
	}
	if o := mustApply(t, s, log.add(base(1, "second"))); o.ok || o.base != nil {
		t.Fatalf("%+v", o)
	}
	// Commits before any base: there will be none.
	s, log = newTestState(), newMemLog()
	mustApply(t, s, log.add(openRecord(t, 1, nodeN(1), 1)))
	mustApply(t, s, log.add(encodeBatch(nil, 1, 1, 0, items("x"))))
	if o := mustApply(t, s, log.add(base(1, "late"))); o.ok {
		t.Fatal("a base behind a commit")
	}
	// An empty base is a base.
	s, log = newTestState(), newMemLog()
	if o := mustApply(t, s, log.add(base(1, ""))); !o.ok || !s.baseSet {
		t.Fatalf("%+v", o)
	}
}

func TestAnnounce(t *testing.T) {
	t.Parallel()
	node := nodeN(2)
	announce := func(index, commits uint64) []byte {
		return record(t, KindSnapshotAnnounce, &grouppb.SnapshotAnnounce{Ref: encodeRef(SnapshotRef{Index: index, Commits: commits}), Node: node[:]})
	}
	request := func(session uint64) []byte {
		return record(t, KindSnapshotRequest, &grouppb.SnapshotRequest{Session: session})
	}
	s, log := newTestState(), newMemLog()
	apply := func(data []byte) outcome { t.Helper(); return mustApply(t, s, log.add(data)) }
	apply(openRecord(t, 1, nodeN(1), 1))
	apply(encodeBatch(nil, 1, 1, 0, items("abc", "de")))
	if o := apply(request(99)); o.ok || s.request != nil {
		t.Fatal("asked a session that is not there")
	}
	if o := apply(request(1)); !o.ok || s.request.index != 4 || s.request.commits != 2 || s.request.bytes != 5 {
		t.Fatalf("request %+v", s.request)
	}
	apply(encodeBatch(nil, 1, 3, 0, items("fgh")))
	for _, lie := range []struct{ index, commits uint64 }{{6, 3}, {7, 3}, {1 << 60, 3}, {4, 4}, {4, 1 << 60}} {
		if o := apply(announce(lie.index, lie.commits)); o.ok {
			t.Fatalf("snapshot %d of commit %d was believed at entry %d, commit %d", lie.index, lie.commits, o.index, s.commits)
		}
	}
	if o := apply(announce(4, 2)); !o.ok || o.node != node || o.announce.Index != 4 || s.request != nil || s.announced.bytes != 5 {
		t.Fatalf("%+v, announced %+v", o, s.announced)
	}
	if o := apply(announce(4, 2)); o.ok {
		t.Fatal("a second identity of one index")
	}
	if o := apply(announce(3, 2)); o.ok {
		t.Fatal("an older snapshot")
	}
	if s.snapshotDue() {
		t.Fatal("due again at once")
	}
}

// Subscriptions that come and go without a commit fill the log too: a snapshot
// is due, so that it can be compacted.
func TestSnapshotDueWithoutCommits(t *testing.T) {
	t.Parallel()
	s, log := newTestState(), newMemLog()
	s.options.SnapshotEntries = 10
	node := nodeN(1)
	opened := uint64(0)
	for i := range uint64(minLogDue) {
		if s.snapshotDue() {
			t.Fatalf("due after %d entries", i)
		}
		if opened == 0 {
			opened = mustApply(t, s, log.add(record(t, KindSessionOpen, &grouppb.SessionOpen{Node: node[:], Incarnation: 1}))).session
			continue
		}
		mustApply(t, s, log.add(record(t, KindSessionClose, &grouppb.SessionClose{Session: opened})))
		opened = 0
	}
	if !s.snapshotDue() || s.commits > 0 {
		t.Fatalf("not due after %d entries", s.index)
	}
	s.announced.ref.Index = s.index
	if s.snapshotDue() {
		t.Fatal("due again at once")
	}
	s.options.SnapshotEntries = 1 << 63 // means: never, by commits
	s.index += 1 << 40
	if s.snapshotDue() {
		t.Fatal("the bound has wrapped around")
	}
}

// An announcement that answers an older request leaves the newer one standing.
func TestLateMakerDoesNotEndTheNextRequest(t *testing.T) {
	t.Parallel()
	s, log := newTestState(), newMemLog()
	apply := func(data []byte) outcome { t.Helper(); return mustApply(t, s, log.add(data)) }
	node := nodeN(1)
	apply(openRecord(t, 1, node, 1))
	apply(record(t, KindSnapshotRequest, &grouppb.SnapshotRequest{Session: 1}))
	apply(encodeBatch(nil, 1, 1, 0, items("abc")))
	apply(record(t, KindSnapshotRequest, &grouppb.SnapshotRequest{Session: 1, Attempt: 1}))
	if o := apply(record(t, KindSnapshotAnnounce, &grouppb.SnapshotAnnounce{Ref: encodeRef(SnapshotRef{Index: 2}), Node: node[:]})); !o.ok {
		t.Fatalf("%+v", o)
	}
	if s.request == nil || s.request.index != 4 {
		t.Fatalf("request %+v", s.request)
	}
}

func TestDeletedTakesNothing(t *testing.T) {
	t.Parallel()
	s, log := newTestState(), newMemLog()
	apply := func(data []byte) outcome { t.Helper(); return mustApply(t, s, log.add(data)) }
	apply(openRecord(t, 1, nodeN(1), 1))
	if o := apply(record(t, KindDeleted, &grouppb.Deleted{})); !o.ok {
		t.Fatal("not deleted")
	}
	if o := apply(record(t, KindDeleted, &grouppb.Deleted{})); o.ok {
		t.Fatal("deleted twice")
	}
	if o := apply(encodeBatch(nil, 1, 1, 0, items("x"))); o.verdict != verdictUnknown || s.commits != 0 {
		t.Fatalf("%+v", o)
	}
	if o := apply(openRecord(t, 2, nodeN(2), 1)); o.ok {
		t.Fatal("a session on what was deleted")
	}
	if o := apply(intentRecord(t, 1, nodeN(2))); o.ok {
		t.Fatal("a replica of what was deleted")
	}
	if o := apply(record(t, KindBase, &grouppb.Base{})); o.ok {
		t.Fatal("a base of what was deleted")
	}
}

// A second copy of a SessionOpen opens nothing while the session of the first
// one lives, and never revives it after its end.
func TestSecondCopyOfAnOpen(t *testing.T) {
	t.Parallel()
	s, log := newTestState(), newMemLog()
	apply := func(data []byte) outcome { t.Helper(); return mustApply(t, s, log.add(data)) }
	apply(openRecord(t, 1, nodeN(1), 1))
	apply(encodeBatch(nil, 1, 1, 0, items("a")))
	if o := apply(openRecord(t, 1, nodeN(1), 1)); o.ok || !o.repeated || len(s.sessions.live) != 1 {
		t.Fatalf("%+v", o)
	}
	s = cutState(t, s) // a snapshot remembers the nonce
	if o := apply(openRecord(t, 1, nodeN(1), 1)); o.ok || !o.repeated {
		t.Fatalf("%+v", o)
	}
	if o := apply(openRecord(t, 1, nodeN(2), 1)); !o.ok {
		t.Fatalf("another node's: %+v", o)
	}
	if o := apply(record(t, KindSessionClose, &grouppb.SessionClose{Session: 1})); !o.ok {
		t.Fatalf("%+v", o)
	}
	if o := apply(openRecord(t, 1, nodeN(1), 1)); !o.ok || o.session != 7 {
		t.Fatalf("%+v", o)
	}
	if o := apply(encodeBatch(nil, 1, 2, 0, items("b"))); o.verdict != verdictUnknown {
		t.Fatalf("%+v", o)
	}
}
