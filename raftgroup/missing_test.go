package raftgroup_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

// missing is what a group's leader says of the member on a node.
func missing(c *rig.Cluster, s id.Structure, n *rig.Node) (m raftgroup.Missing, ok bool) {
	_, st, leads := leadNode(c, s)
	for r, node := range st.Voters {
		if leads && node == n.ID {
			m, ok = st.Missing[r]
		}
	}
	return m, ok
}

// TestMissingMember: the leader's status says of a voter that is gone when it is
// replaced, and whether somebody is there to take its place; of one whose node
// lives, that it stays.
func TestMissingMember(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t, 71, 3, 3)
		leader, _, _ := leadNode(w.Cluster, w.s)
		var dead *rig.Node
		for _, n := range w.Nodes {
			if n != leader {
				dead = n
			}
		}
		w.write(leader)
		time.Sleep(2 * time.Second)
		if _, ok := missing(w.Cluster, w.s, dead); ok {
			t.Fatal("a member that is heard of is missing")
		}
		// Cut off from the leader alone: gossip sees it.
		w.Net.Cut(leader.ID, dead.ID)
		w.Net.Cut(dead.ID, leader.ID)
		w.Wait(time.Minute, "the leader misses it", func() bool {
			m, ok := missing(w.Cluster, w.s, dead)
			return ok && m.GiveUp.IsZero() && !m.Lost && strings.Contains(m.Fate, "its node lives")
		})
		w.Net.Heal()
		w.Wait(time.Minute, "heard of again", func() bool {
			_, ok := missing(w.Cluster, w.s, dead)
			return !ok
		})
		leader, _, _ = leadNode(w.Cluster, w.s) // perhaps another one since
		if dead == leader {
			dead = w.Nodes[0]
		}
		dead.Stop()
		stopped := time.Now()
		var m raftgroup.Missing
		w.Wait(grace, "the leader misses it again", func() (ok bool) {
			m, ok = missing(w.Cluster, w.s, dead)
			return ok
		})
		if d := m.GiveUp.Sub(stopped); d < grace || d > grace+3*time.Second || m.Lost {
			t.Errorf("given up %s after it stopped, want about %s; lost %t", d, grace, m.Lost)
		}
		if m.Fate != "no node can take its place" {
			t.Errorf("with two nodes left: %q", m.Fate)
		}
		spare := w.Add("dc4")
		spare.Start()
		w.Wait(grace, "one to take its place", func() bool {
			m, ok := missing(w.Cluster, w.s, dead)
			return ok && m.Fate == "" && !m.Lost
		})
		w.Wait(2*grace, "lost, and being replaced", func() bool {
			m, ok := missing(w.Cluster, w.s, dead)
			return ok && m.Lost && m.Fate == "it is being replaced" && !time.Now().Before(stopped.Add(grace))
		})
		w.Wait(time.Minute, "whole", func() bool { return w.healed(3) })
		w.Wait(10*time.Second, "nobody is missing", func() bool { // at the leader's next look
			_, st, ok := leadNode(w.Cluster, w.s)
			return ok && len(st.Missing) == 0
		})
		w.verify()
	})
}
