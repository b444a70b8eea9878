package raftgroup_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/wal"
)

// TestTwoReplicasOnANode: a replica was removed from its group while its node was
// away, and its log could not be removed there. The node gets another replica,
// which becomes a voter, and starts again: it finds both. The old one asks, and is
// removed; the other one stays, and is the one on which subscriptions hang.
func TestTwoReplicasOnANode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := rig.Structure(9)
		c := rig.New(t, 4, 11)
		victim, rest := c.Nodes[2], []*rig.Node{c.Nodes[0], c.Nodes[1], c.Nodes[3]}
		faulty := &faultyLog{}
		c.Tune = func(cfg *raftgroup.Config) {
			if cfg.Node == victim.ID {
				faulty.Log = victim.Log
				cfg.Log = faulty
			}
		}
		c.StartAll()
		defer c.StopAll()
		c.Born(s, 3, raftgroup.Options{})
		first := subscribe(t, c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s})
		first.propose("a", 10)
		c.Wait(time.Minute, "ten", func() bool { return first.count() == 10 })
		faulty.refuseSome(func(u wal.Update) error {
			if u.Remove {
				return errors.New("a test keeps the log")
			}
			return nil
		})
		c.Partition(rest, []*rig.Node{victim})
		c.Wait(2*time.Minute, "a voter in its place", func() bool { return onlyOn(c, s, rest...) })
		c.Partition(c.Nodes)
		c.Wait(10*time.Minute, "it is gone there", func() bool { return !holds(victim, s) })
		if err := victim.Host.Join(s, c.Nodes[0].ID); err != nil {
			t.Fatal(err)
		}
		c.Wait(time.Minute, "another one", func() bool { return holds(victim, s) })
		faulty.refuseSome(nil)
		c.Nodes[3].Stop() // for good: the one here becomes a voter
		c.Wait(5*time.Minute, "a voter again", func() bool { return onlyOn(c, s, c.Nodes[:3]...) })
		g, _ := victim.Host.Group(s)
		keeps := g.Status().Replica

		victim.Stop()
		victim.Start()
		if n := len(victim.Host.Groups()); n != 2 {
			t.Fatalf("%d replicas here", n)
		}
		at, _ := victim.Host.Group(s)
		early := subscribe(t, victim, raftgroup.SubscriptionConfig{Structure: s})
		c.Wait(2*time.Minute, "the old one is gone", func() bool { return len(victim.Host.Groups()) == 1 })
		late := subscribe(t, victim, raftgroup.SubscriptionConfig{Structure: s})
		first.propose("b", 10)
		c.Wait(time.Minute, "all of them", func() bool { return early.count() == 20 && late.count() == 20 })
		g, here := victim.Host.Group(s)
		if !here || g != at || g.Status().Replica != keeps {
			t.Errorf("replica %d counts; here is %+v", keeps, victim.Host.Groups())
		}
	})
}
