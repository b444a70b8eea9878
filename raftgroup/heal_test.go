package raftgroup_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

// leadNode returns the leader of a group, and its status; the newest, where an
// old one has not heard of it.
func leadNode(c *rig.Cluster, s id.Structure) (*rig.Node, raftgroup.GroupStatus, bool) {
	var leader *rig.Node
	var newest raftgroup.GroupStatus
	for _, n := range c.Nodes {
		if !n.Up() {
			continue
		}
		if g, ok := n.Host.Group(s); ok {
			if st := g.Status(); st.IsLeader && (leader == nil || st.Term > newest.Term) {
				leader, newest = n, st
			}
		}
	}
	return leader, newest, leader != nil
}

// voterNodes are the nodes of a group's voters, as its leader sees them.
func voterNodes(c *rig.Cluster, s id.Structure) (nodes []*rig.Node, learners int) {
	_, st, ok := leadNode(c, s)
	if !ok || st.Joint {
		return nil, 0
	}
	for _, n := range c.Nodes {
		for _, v := range st.Voters {
			if v == n.ID {
				nodes = append(nodes, n)
			}
		}
	}
	return nodes, len(st.Learners)
}

// onlyOn reports whether the voters are on these nodes, with no learner left.
func onlyOn(c *rig.Cluster, s id.Structure, want ...*rig.Node) bool {
	got, learners := voterNodes(c, s)
	return len(got) == len(want) && learners == 0 && !slices.ContainsFunc(want, func(n *rig.Node) bool { return !slices.Contains(got, n) })
}

func holds(n *rig.Node, s id.Structure) bool {
	_, ok := n.Host.Group(s)
	return ok
}

// load proposes without pause until stopped, and checks in the end that each
// was delivered once and in order.
type load struct {
	j    *journal
	stop chan struct{}
	done chan struct{}
	sent int
}

func startLoad(j *journal) *load { return startLoadAs(j, "r0-n0") }

func startLoadAs(j *journal, from string) *load {
	l := &load{j: j, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		for {
			select {
			case j.sub.Propose() <- fmt.Appendf(nil, "%s-%d", from, l.sent):
				l.sent++
			case <-l.stop:
				return
			case <-j.done:
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	return l
}

func (l *load) end(t *testing.T, c *rig.Cluster) {
	t.Helper()
	close(l.stop)
	<-l.done
	c.Wait(time.Minute, "what was proposed", func() bool { return l.j.count() == l.sent })
	check(t, l.j.all())
}

// TestDeadVoterIsReplaced loses a node for good: after the grace, and not
// before, another one has its place, and the group can lose the next.
func TestDeadVoterIsReplaced(t *testing.T) {
	t.Parallel()
	for _, victim := range []string{"leader", "follower"} {
		t.Run(victim, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := rig.New(t, 4, 11)
				s := rig.Structure(9)
				c.StartAll()
				c.Born(s, 3, raftgroup.Options{})
				c.Wait(time.Minute, "a leader", func() bool { _, _, ok := leadNode(c, s); return ok })
				dead, _, _ := leadNode(c, s)
				if victim == "follower" {
					dead = c.Nodes[(slices.Index(c.Nodes, dead)+1)%3]
				}
				other := c.Nodes[(slices.Index(c.Nodes, dead)+1)%3]
				l := startLoad(subscribe(t, other, raftgroup.SubscriptionConfig{Structure: s}))
				time.Sleep(5 * time.Second)
				dead.Stop()
				time.Sleep(55 * time.Second)
				if nodes, _ := voterNodes(c, s); !slices.Contains(nodes, dead) {
					t.Fatal("replaced within the grace period")
				}
				rest := slices.DeleteFunc(slices.Clone(c.Nodes), func(n *rig.Node) bool { return n == dead })
				c.Wait(30*time.Second, "a voter in its place", func() bool { return onlyOn(c, s, rest...) })
				l.end(t, c)
				// It comes back, learns that it was replaced, and is cleaned up.
				dead.Start()
				if !holds(dead, s) {
					t.Fatal("the replica is gone before anybody was asked")
				}
				// Whoever hears from it says so: it does not have to find out by itself.
				c.Wait(5*time.Second, "the old replica removed", func() bool { return !holds(dead, s) })
				if groups, err := dead.Snapshots.Groups(); err != nil || len(groups) > 0 {
					t.Fatalf("snapshots left: %v, %v", groups, err)
				}
				if left := dead.Log.Groups(); len(left) > 0 {
					t.Fatalf("log left: %v", left)
				}
				c.StopAll()
			})
		})
	}
}
