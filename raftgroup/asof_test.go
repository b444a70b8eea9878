package raftgroup_test

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

// TestSnapshotBehindAMembershipChange has the one subscriber come to its make
// long after the log did: one voter has become three meanwhile. The snapshot
// must hold the state of its own place, membership and sessions included, and
// not that of the apply cursor; a replica that begins behind it must see the
// change happen.
func TestSnapshotBehindAMembershipChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 4, 1)
		c.Tune = func(cfg *raftgroup.Config) { cfg.CompactionTail, cfg.SnapshotTimeout = 1<<20, time.Hour }
		s := rig.Structure(9)
		c.Nodes[0].Start()
		c.Born(s, 1, raftgroup.Options{SnapshotEntries: 100})
		late := newJournal(t)
		late.gate = make(chan struct{})
		late.subscribe(c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s})
		late.propose("before", 100)
		status := func() raftgroup.GroupStatus {
			g, _ := c.Nodes[0].Host.Group(s)
			return g.Status()
		}
		c.Wait(time.Minute, "the commits applied", func() bool { return status().Commits == 100 })
		time.Sleep(5 * time.Second) // virtual: the leader asks for the snapshot
		late.propose("between", 10)
		c.Nodes[1].Start()
		c.Nodes[2].Start()
		c.Wait(time.Minute, "three voters", func() bool { v, l := voters(c, s); return v == 3 && l == 0 })
		late.propose("after", 10)

		close(late.gate)
		c.Wait(time.Minute, "a snapshot", func() bool { return status().Snapshot.Index > 0 })
		fold, err := c.Nodes[0].Host.FoldOf(s)
		if err != nil {
			t.Fatal(err)
		}
		if commits := status().Snapshot.Commits; commits != 100 {
			t.Errorf("snapshot of commit %d, want 100, where the leader asked", commits)
		}
		if fold.Voters != 1 {
			t.Errorf("the snapshot has %d voters, want the one of its place", fold.Voters)
		}
		if !bytes.Equal(fold.Held, fold.Folded) {
			t.Errorf("the snapshot's state is not that of the log at %d:\n%x, want\n%x", fold.Index, fold.Held, fold.Folded)
		}

		c.Nodes[3].Start()
		fourth := subscribe(t, c.Nodes[3], raftgroup.SubscriptionConfig{Structure: s})
		if err := c.Nodes[3].Host.Join(s, id.Node{}); err != nil {
			t.Fatal(err)
		}
		c.Wait(time.Minute, "the fourth caught up", func() bool { return fourth.count() == 120 })
		late.propose("last", 1)
		c.Wait(time.Minute, "the last commit on both", func() bool { return late.count() == 121 && fourth.count() == 121 })
		same(t, late, fourth)
		if fourth.loads == 0 {
			t.Error("the fourth was not started from the snapshot")
		}
		g, _ := c.Nodes[3].Host.Group(s)
		c.Wait(time.Minute, "three voters and itself, as the fourth sees it", func() bool {
			st := g.Status()
			return len(st.Voters) == 3 && len(st.Learners) == 1 && !st.Joint
		})
		c.StopAll()
	})
}
