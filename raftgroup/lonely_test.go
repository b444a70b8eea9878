package raftgroup_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

// TestLearnerWhoseLeaderDied: a learner's raft never forgets a leader by itself. Its
// status does, so that the catalog is asked whether the structure still is, and
// names the leader again when it is back.
func TestLearnerWhoseLeaderDied(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 2, 1)
		c.StartAll()
		defer c.StopAll()
		s := rig.Structure(9)
		c.Born(s, 1, raftgroup.Options{Voters: 1})
		leader, n := c.Nodes[0], c.Nodes[1]
		if err := n.Host.Join(s, leader.ID); err != nil {
			t.Fatal(err)
		}
		status := func() raftgroup.GroupStatus {
			g, ok := n.Host.Group(s)
			if !ok {
				return raftgroup.GroupStatus{}
			}
			return g.Status()
		}
		follows := func() bool { st := status(); return st.Role == "learner" && st.LeaderNode == leader.ID && !st.Alone }
		c.Wait(time.Minute, "a learner with a leader", follows)
		leader.Crash(1)
		c.Wait(time.Minute, "the learner to see that it has no leader", func() bool {
			st := status()
			return st.Leader == 0 && st.LeaderNode.IsZero() && st.Alone
		})
		leader.Start()
		c.Wait(time.Minute, "the leader again", follows)
	})
}
