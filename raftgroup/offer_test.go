package raftgroup

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
	"github.com/copycat-replication/copycat/snapshot"
)

// forgedOffers is a group of three in which node 2 has a snapshot's file of its
// own making, ahead of the log, and offers it to node 3 as a leader would.
type forgedOffers struct {
	*stage
	victim *stageNode
	state  *state // what an honest file holds
	term   uint64
}

func newForgedOffers(t *testing.T) *forgedOffers {
	f := &forgedOffers{stage: hostileStage(t, 3)}
	f.victim = f.nodes[2]
	g := f.replicaOf(f.victim)
	f.cuts = []link{{from: f.victim.n, to: 1}, {from: 1, to: f.victim.n}} // the real leader is far
	f.state = cutState(t, g.state)
	f.state.index += 100
	f.state.commits += 100
	f.state.term = g.term() + 1
	f.term = f.state.term
	return f
}

// file stores a snapshot at node 2. Its head says what the honest state says.
func (f *forgedOffers) file(inside *state, data string) SnapshotRef {
	f.t.Helper()
	encoded, err := inside.encode()
	if err != nil {
		f.t.Fatal(err)
	}
	g := f.replicaOf(f.nodes[1])
	w, err := f.nodes[1].snaps.Create(g.local, snapshot.Head{
		Structure: g.key.Structure, Incarnation: g.key.Incarnation,
		Index: f.state.index, Term: f.state.term, Commits: f.state.commits, Clock: f.state.clock, Maker: 1, State: encoded,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := w.Write([]byte(data)); err != nil {
		f.t.Fatal(err)
	}
	ref, err := w.Commit()
	if err != nil {
		f.t.Fatal(err)
	}
	return ref
}

// offer has node 2 offer a file, with a membership.
func (f *forgedOffers) offer(ref SnapshotRef, conf *raftpb.ConfState) {
	f.t.Helper()
	data, err := (&grouppb.SnapshotOffer{Ref: encodeRef(ref), Holder: f.nodes[1].id[:]}).Marshal()
	if err != nil {
		f.t.Fatal(err)
	}
	f.forge(f.victim, &raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), From: u64(2), Term: u64(f.term),
		Snapshot: &raftpb.Snapshot{Data: data, Metadata: &raftpb.SnapshotMetadata{Index: u64(ref.Index), Term: u64(ref.Term), ConfState: conf}},
	})
}

// goOn has node 2 append a membership change behind the snapshot, and commit it:
// there a replica stops whose raft and whose state know other members.
func (f *forgedOffers) goOn() {
	f.t.Helper()
	at := f.state.index
	cc := &raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: u64(3)}}}
	data, err := proto.Marshal(cc)
	if err != nil {
		f.t.Fatal(err)
	}
	f.forge(f.victim, &raftpb.Message{
		Type: raftpb.MsgApp.Enum(), From: u64(2), Term: u64(f.term), Index: u64(at), LogTerm: u64(f.term), Commit: u64(at + 1),
		Entries: []*raftpb.Entry{{Type: raftpb.EntryConfChangeV2.Enum(), Index: u64(at + 1), Term: u64(f.term), Data: data}},
	})
}

// TestOfferThatContradictsItsFile: who holds the cluster's key, or a version with
// a bug, offers a snapshot as another than its file is. It is refused, and
// reported; what is offered rightly after that is taken.
func TestOfferThatContradictsItsFile(t *testing.T) {
	t.Parallel()
	for name, forge := range map[string]func(f *forgedOffers){
		"another membership": func(f *forgedOffers) {
			f.offer(f.file(f.state, "a"), &raftpb.ConfState{Voters: []uint64{2, 3}})
		},
		"a joint membership": func(f *forgedOffers) {
			conf := proto.Clone(f.state.conf).(*raftpb.ConfState)
			conf.VotersOutgoing = []uint64{2, 3, 4}
			f.offer(f.file(f.state, "b"), conf)
		},
		"a state of another index": func(f *forgedOffers) {
			inside := cutState(f.t, f.state)
			inside.index -= 5
			f.offer(f.file(inside, "c"), inside.conf)
		},
		"a state of another number of commits": func(f *forgedOffers) {
			inside := cutState(f.t, f.state)
			inside.commits++
			f.offer(f.file(inside, "d"), inside.conf)
		},
		"a state of another term": func(f *forgedOffers) {
			inside := cutState(f.t, f.state)
			inside.term--
			f.offer(f.file(inside, "e"), inside.conf)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newForgedOffers(t)
			g := f.replicaOf(f.victim)
			was := g.state.index
			f.holds = []link{{from: f.victim.n}}
			forge(f)
			reports := 0
			for _, p := range f.flight {
				if b := p.message.Bytes(); p.from == f.victim.n && len(b) > 0 && b[0] == wireSnapshotReport {
					var r grouppb.SnapshotReport
					if err := r.Unmarshal(b[1:]); err != nil || r.Ok || id.Replica(2) != p.message.To {
						t.Errorf("report %v to %d, %v", &r, p.message.To, err)
					}
					reports++
				}
			}
			if g.state.index != was || g.files.names()[0].Index != 0 || reports != 1 {
				t.Errorf("the replica stands at %d, was at %d, holds %v; %d reports", g.state.index, was, g.files.names()[0], reports)
			}
			f.goOn()
			f.offer(f.file(f.state, "honest"), f.state.conf)
			f.goOn()
			if g.state.index != f.state.index+1 {
				t.Errorf("the replica stands at %d, not behind what was offered rightly and one entry", g.state.index)
			}
		})
	}
}
