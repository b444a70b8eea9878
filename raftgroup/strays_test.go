package raftgroup_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

// TestSessionOfASubscriptionThatEndedAlone: a subscription ends while its node has
// no replica, so that nobody closes its session. Meanwhile it is not asked for
// snapshots; the next replica there closes it, and not those of the subscriptions
// that wait for that replica.
func TestSessionOfASubscriptionThatEndedAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 2, 1)
		c.StartAll()
		s := rig.Structure(9)
		c.Born(s, 1, raftgroup.Options{Voters: 1, SnapshotEntries: 50})
		first := subscribe(t, c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s})
		n := c.Nodes[1]
		join := func() {
			t.Helper()
			if err := n.Host.Join(s, c.Nodes[0].ID); err != nil {
				t.Fatal(err)
			}
			c.Wait(time.Minute, "a learner", func() bool { return holds(n, s) })
		}
		g, _ := c.Nodes[0].Host.Group(s)
		join()
		stays := subscribe(t, n, raftgroup.SubscriptionConfig{Structure: s})
		count := 0
		for round := range 3 {
			j := subscribe(t, n, raftgroup.SubscriptionConfig{Structure: s})
			j.propose(fmt.Sprintf("r%d-n1", round), 3)
			stays.propose(fmt.Sprintf("r%d-n2", round), 3)
			count += 6
			c.Wait(time.Minute, "them", func() bool { return j.count() == count && stays.count() == count })
			if err := n.Host.RemoveReplica(s); err != nil {
				t.Fatal(err)
			}
			close(j.sub.Propose())
			ends(c, j)
			c.Wait(time.Minute, "all sessions to be told of, also of the one that ended alone", func() bool { return g.Status().Sessions == 3 })
			// The next replica starts behind the entry that opened the session.
			first.propose(fmt.Sprintf("r%d-n0", round), 60)
			count += 60
			c.Wait(time.Minute, "a snapshot", func() bool { return g.Status().Snapshot.Commits > uint64(count-60) })
			join()
			c.Wait(time.Minute, "its session to be closed", func() bool { return g.Status().Sessions == 2 })
		}
		first.propose("a", 10)
		count += 10
		c.Wait(time.Minute, "all of them", func() bool { return first.count() == count && stays.count() == count })
		time.Sleep(time.Minute)
		if got := g.Status().Sessions; got != 2 || len(stays.errors()) > 0 {
			t.Errorf("%d sessions are open, of two subscriptions; errors %v", got, stays.errors())
		}
		same(t, first, stays)
		c.StopAll()
		<-first.done
		<-stays.done
	})
}

// TestSnapshotIsNotAskedOfANodeWithoutAReplica: the leader's node has no
// subscription. Of the sessions elsewhere one is of a node that has lost its replica:
// it is live, and cannot make anything.
func TestSnapshotIsNotAskedOfANodeWithoutAReplica(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, 1)
		c.StartAll()
		s := rig.Structure(9)
		c.Born(s, 1, raftgroup.Options{Voters: 1, SnapshotEntries: 50})
		var subs []*journal
		for _, n := range c.Nodes[1:] { // the older session is the one that is asked first
			if err := n.Host.Join(s, c.Nodes[0].ID); err != nil {
				t.Fatal(err)
			}
			c.Wait(time.Minute, "a learner", func() bool { return holds(n, s) })
			j := subscribe(t, n, raftgroup.SubscriptionConfig{Structure: s})
			j.propose("a", 1)
			subs = append(subs, j)
			c.Wait(time.Minute, "it", func() bool { return j.count() == len(subs) })
		}
		if err := c.Nodes[1].Host.RemoveReplica(s); err != nil {
			t.Fatal(err)
		}
		close(subs[0].sub.Propose())
		ends(c, subs[0])
		g, _ := c.Nodes[0].Host.Group(s)
		c.Wait(time.Minute, "the group to know that the replica is gone", func() bool { return len(g.Status().Learners) == 1 })
		if got := g.Status().Sessions; got != 2 {
			t.Fatalf("%d sessions are open", got)
		}
		began := time.Now()
		subs[1].proposeSlowly("b")
		c.Wait(time.Minute, "a snapshot", func() bool { return g.Status().Snapshot.Commits > 0 })
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("a snapshot took %s: somebody else was asked first", took)
		}
		c.StopAll()
		<-subs[1].done
	})
}
