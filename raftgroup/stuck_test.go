package raftgroup_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

// TestJointIsLeft begins a membership change and hands the lead over before raft
// has left the joint membership by itself: raft drops that proposal, and would
// try again with the next entry. None comes: nobody proposes anything. The
// transfer comes to nothing, since its target is cut off, and the leader leaves
// the joint membership.
func TestJointIsLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 5, 51)
		c.StartAll()
		s := rig.Structure(9)
		c.Born(s, 5, raftgroup.Options{Voters: 3})
		c.Wait(time.Minute, "a leader", func() bool { _, _, ok := leadNode(c, s); return ok })
		leader, st, _ := leadNode(c, s)
		var others []id.Replica
		for r := id.Replica(1); r <= 5; r++ {
			if r != st.Replica {
				others = append(others, r)
			}
		}
		target := st.Voters[others[2]]
		for _, n := range c.Nodes {
			c.Net.Cut(n.ID, target)
			c.Net.Cut(target, n.ID)
		}
		if err := leader.Host.StickJoint(s, [2]id.Replica(others[:2]), others[2]); err != nil {
			t.Fatal(err)
		}
		now := func() raftgroup.GroupStatus { g, _ := leader.Host.Group(s); return g.Status() }
		c.Wait(10*time.Second, "a joint membership", func() bool { return now().Joint })
		time.Sleep(1500 * time.Millisecond)
		if st := now(); !st.Joint || !st.IsLeader {
			t.Fatalf("left by itself, or not led here any more: nothing is shown by this; %+v", st)
		}
		c.Wait(10*time.Second, "a membership of three voters that is not joint", func() bool {
			st := now()
			return st.IsLeader && !st.Joint && len(st.Voters) == 3
		})
		c.Net.Heal()
		c.StopAll()
	})
}

// TestLeadDoesNotSwing has all proposals come from a data center with two
// voters, one of which is to move to a third data center. Who leads hands over
// before it is moved, and the lead must not be drawn back to it meanwhile by the
// proposals: it would never move.
func TestLeadDoesNotSwing(t *testing.T) {
	t.Parallel()
	for from := 1; from < 3; from++ { // one of the two is the voter that moves
		t.Run(fmt.Sprint(from), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := rig.New(t, 0, 52)
				for _, dc := range []string{"dc1", "dc2", "dc2"} {
					c.Add(dc).Start()
				}
				s := rig.Structure(9)
				c.Born(s, 3, raftgroup.Options{})
				l := startLoad(subscribe(t, c.Nodes[from], raftgroup.SubscriptionConfig{Structure: s}))
				c.Wait(2*time.Minute, "the lead where the proposals come from", func() bool {
					leader, _, ok := leadNode(c, s)
					return ok && leader.DataCenter == "dc2"
				})
				c.Add("dc3").Start()
				c.Wait(5*time.Minute, "a voter in each data center", func() bool {
					nodes, _ := voterNodes(c, s)
					dcs := make(map[string]bool)
					for _, n := range nodes {
						dcs[n.DataCenter] = true
					}
					return len(nodes) == 3 && len(dcs) == 3
				})
				c.Wait(2*time.Minute, "the lead where the proposals come from, again", func() bool {
					leader, _, ok := leadNode(c, s)
					return ok && leader.DataCenter == "dc2"
				})
				l.end(t, c)
				c.StopAll()
			})
		})
	}
}
