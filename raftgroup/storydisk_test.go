package raftgroup

import (
	"errors"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/wal"
)

// What a story does to the nodes and their disks.

// reclaim has a node's log give back the segments that it can do without.
func (tl *teller) reclaim(n *stageNode) error {
	before := n.log.Stats()
	for {
		more, err := n.log.Reclaim()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		tl.s.settle()
	}
	now := n.log.Stats()
	tl.say("segments removed: %t; entries moved to the cold store: %t", now.SegmentsFreed > before.SegmentsFreed, now.ColdMoved > before.ColdMoved)
	return nil
}

// fill has another group of a node write so much, and has it removed.
func (tl *teller) fill(n *stageNode, size int) error {
	local, err := n.log.NewGroup()
	if err != nil {
		return err
	}
	const each = 4000
	var errs []error
	done := func(err error) { errs = append(errs, err) }
	last := uint64(size / each)
	for i := range last {
		e := &raftpb.Entry{Index: new(i + 1), Term: new(uint64(1)), Type: raftpb.EntryNormal.Enum(), Data: make([]byte, each)}
		n.log.Submit([]wal.Update{{Group: local, Entries: []*raftpb.Entry{e}}}, done)
		tl.s.settle()
	}
	n.log.Submit([]wal.Update{{Group: local, Remove: true}}, done)
	tl.s.settle()
	return errors.Join(errs...)
}

// vote tells whom a replica voted for, by its log store.
func (tl *teller) vote(n *stageNode) error {
	return tl.s.inStep(n, func(g *Group) {
		st, err := n.host.log.State(g.local)
		if err != nil {
			tl.say("error: %v", err)
			return
		}
		tl.say("term %d, voted for replica %d", st.HardState.GetTerm(), st.HardState.GetVote())
	})
}

// candidate from=N to=N: a replica asks another for its vote, in the term that
// the other is in, with a log that is as long as any.
func (tl *teller) candidate(t testing.TB, d *datadriven.TestData) error {
	s := tl.s
	from, to := number(t, d, "from", 1), number(t, d, "to", 1)
	var m *raftpb.Message
	err := s.inStep(s.nodes[to-1], func(g *Group) {
		term := g.rn.BasicStatus().GetTerm()
		m = &raftpb.Message{
			Type: raftpb.MsgVote.Enum(), From: new(uint64(from)), To: new(uint64(to)), Term: new(term), LogTerm: new(term), Index: new(uint64(1 << 20)),
		}
	})
	if err != nil {
		return err
	}
	payload, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	s.holds = append(s.holds, link{from: to, to: from})
	s.nodes[to-1].host.HandleMessage(s.nodes[from-1].id, Message{
		Group: s.genesis.Group, From: id.Replica(from), To: id.Replica(to), Payload: append([]byte{wireRaft}, payload...),
	})
	s.settle()
	for _, p := range s.heldParcels() {
		if p.raft.GetType() == raftpb.MsgVoteResp {
			tl.say("rejected: %t", p.raft.GetReject())
		}
		s.drop(p)
	}
	s.holds = nil
	return nil
}

// damage tells what a node's log found wrong when it was opened.
func (tl *teller) damage(n *stageNode) {
	tl.say("%d places damaged, %d replicas set aside", len(n.log.Damages()), len(n.log.Suspects()))
}

// power: crash N [landed|third-page]; start N; disk N works|still|fails|stops-before-the-frame.
func (tl *teller) power(t testing.TB, d *datadriven.TestData, n *stageNode, how []string) error {
	s := tl.s
	what := ""
	if len(how) > 0 {
		what = how[0]
	}
	switch {
	case d.Cmd == "start":
		if err := n.start(); err != nil {
			return err
		}
	case d.Cmd == "crash" && what == "landed":
		n.crash(vfs.KeepAll)
	case d.Cmd == "crash" && what == "third-page":
		pages := 0
		n.crash(func(u vfs.Unsynced) vfs.Fate {
			if u.Kind == vfs.UnsyncedPage {
				pages++
			}
			if u.Kind == vfs.UnsyncedPage && pages == 3 {
				return vfs.Landed
			}
			return vfs.Fate{}
		})
		if pages < 4 {
			d.Fatalf(t, "only %d pages were not synced", pages)
		}
	case d.Cmd == "crash":
		n.crash(vfs.LoseAll)
	case what == "still":
		n.still = true
	case what == "stops-before-the-frame":
		n.frame = true
	case what == "works":
		n.still = false
		n.fs.SetFault(nil)
	case what == "fails":
		n.fs.SetFault(func(op vfs.Op, _ string, _, _ int64) error {
			if op == vfs.OpSync {
				return errors.New("no such luck")
			}
			return nil
		})
	default:
		d.Fatalf(t, "no such disk")
	}
	s.settle()
	return nil
}
