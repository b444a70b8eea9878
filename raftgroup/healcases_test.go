package raftgroup_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/wal"
)

// TestGhostIsReplaced has a voter's log set aside at a restart: the node gets a
// new replica, under a new ReplicaID, and that gets the vote of the old one,
// without a grace: the node has said that the old one is gone.
func TestGhostIsReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t, 46, 3, 3)
		leader, _, _ := leadNode(w.Cluster, w.s)
		at := slices.Index(w.Nodes, leader)
		node := w.Nodes[(at+1)%3]
		w.write(w.Nodes[(at+2)%3])
		time.Sleep(time.Second)
		old, _ := node.Host.Group(w.s)
		tune := w.Tune
		w.Tune = func(cfg *raftgroup.Config) {
			tune(cfg)
			cfg.ReplaceAfter = time.Hour
			if cfg.Node == node.ID {
				st := cfg.Log.Groups()[0]
				cfg.Log = &faultyLog{
					Log:      node.Log,
					groups:   func(all []wal.GroupState) []wal.GroupState { return all[1:] },
					suspects: []wal.Suspect{{Group: st.Group, Meta: st.Meta, Why: "a test says so"}},
				}
			}
		}
		for _, n := range w.Nodes { // with the long grace
			n.Stop()
		}
		w.StartAll()
		w.write(w.Nodes[at])
		w.Wait(time.Minute, "a voter under a new ID in its place", func() bool {
			g, here := node.Host.Group(w.s)
			return here && g.Status().Voter && g.Status().Replica != old.Status().Replica && w.healed(3)
		})
		w.verify()
	})
}

// TestStoppedReplicaIsReplaced has a voter's disk fail while its node lives: it
// says that the replica has stopped, and refuses to host one; after the grace
// another node has its place. Restarted with a disk that works, or once the disk
// works again, it is cleaned up.
func TestStoppedReplicaIsReplaced(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{true, false} {
		t.Run(fmt.Sprint("restart ", restart), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { stoppedIsReplaced(t, restart) })
		})
	}
}

func stoppedIsReplaced(t *testing.T, restart bool) {
	w := newWard(t, 47, 4, 3)
	leader, _, _ := leadNode(w.Cluster, w.s)
	at := slices.Index(w.Nodes, leader)
	node := w.Nodes[(at+1)%3]
	node.Stop()
	var disk *faultyLog
	tune := w.Tune
	w.Tune = func(cfg *raftgroup.Config) {
		tune(cfg)
		if cfg.Node == node.ID {
			disk = &faultyLog{Log: node.Log}
			cfg.Log = disk
		}
	}
	node.Start()
	w.write(leader)
	w.Wait(time.Minute, "all three", func() bool { return w.healed(3) })
	disk.refuse(errors.New("the disk is gone"))
	w.Wait(time.Minute, "it has stopped", func() bool { g, ok := node.Host.Group(w.s); return ok && g.Status().Failed })
	if code := askToHost(t, node, leader, w.s); code != codeRefused {
		t.Errorf("asked for another replica beside the one that has stopped: code %d", code)
	}
	w.Wait(time.Minute, "another voter in its place", func() bool {
		nodes, _ := voterNodes(w.Cluster, w.s)
		return len(nodes) == 3 && !slices.Contains(nodes, node)
	})
	disk.refuse(nil)
	if restart {
		node.Stop()
		w.Tune = tune
		node.Start()
	}
	w.Wait(2*time.Minute, "what stopped removed", func() bool { return w.healed(3) && !holds(node, w.s) })
	w.verify()
}

// TestQuietReplicaWithAFailedLogIsReplaced has the log of a node fail while all
// rest: nothing is written, so that nothing else would find it out.
func TestQuietReplicaWithAFailedLogIsReplaced(t *testing.T) {
	t.Parallel()
	for _, leads := range []bool{false, true} {
		t.Run(fmt.Sprint("leader ", leads), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { quietAndFailed(t, leads) })
		})
	}
}

func quietAndFailed(t *testing.T, leads bool) {
	w := newWard(t, 48, 4, 3)
	logs := make(map[id.Node]*faultyLog)
	tune := w.Tune
	w.Tune = func(cfg *raftgroup.Config) {
		tune(cfg)
		for _, n := range w.Nodes {
			if n.ID == cfg.Node {
				logs[n.ID] = &faultyLog{Log: n.Log}
				cfg.Log = logs[n.ID]
			}
		}
	}
	for _, n := range w.Nodes {
		n.Stop()
		n.Start()
	}
	w.Wait(time.Minute, "all three", func() bool { return w.healed(3) })
	awaitQuiet(w.Cluster)
	node, others := leaderOf(w.Cluster, w.s)
	if !leads {
		at := slices.IndexFunc(others, func(n *rig.Node) bool { return holds(n, w.s) })
		node = others[at]
	}
	logs[node.ID].refuse(fmt.Errorf("%w: a test says so", wal.ErrFailed))
	w.Wait(time.Minute, "it has stopped", func() bool { g, ok := node.Host.Group(w.s); return ok && g.Status().Failed })
	w.Wait(3*time.Minute, "another voter in its place", func() bool {
		nodes, _ := voterNodes(w.Cluster, w.s)
		return len(nodes) == 3 && !slices.Contains(nodes, node)
	})
	node.Stop()
	node.Start()
	w.Wait(2*time.Minute, "what stopped removed", func() bool { return w.healed(3) && !holds(node, w.s) })
	w.verify()
}

// TestStoppedWithoutASpare has a voter's disk fail where there is no fourth node:
// the group goes on with two, and its leader says what is missing, and where.
func TestStoppedWithoutASpare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t, 53, 3, 3)
		leader, _, _ := leadNode(w.Cluster, w.s)
		node := w.Nodes[(slices.Index(w.Nodes, leader)+1)%3]
		node.Stop()
		var disk *faultyLog
		tune := w.Tune
		w.Tune = func(cfg *raftgroup.Config) {
			tune(cfg)
			if cfg.Node == node.ID {
				disk = &faultyLog{Log: node.Log}
				cfg.Log = disk
			}
		}
		node.Start()
		w.write(leader)
		w.Wait(time.Minute, "all three", func() bool { return w.healed(3) })
		disk.refuse(errors.New("the disk is gone"))
		g, _ := node.Host.Group(w.s)
		w.Wait(time.Minute, "it has stopped", func() bool { return g.Status().Failed })
		want := fmt.Sprintf("replica %d has stopped on node %s, whose status says why: no node can take its place", g.Status().Replica, node.ID)
		w.Wait(2*time.Minute, "what is missing, in the leader's status", func() bool {
			_, st, ok := leadNode(w.Cluster, w.s)
			return ok && st.Waits == want && len(st.Voters) == 3
		})
		if st := g.Status(); st.LastError == nil || st.Role != "stopped" {
			t.Errorf("the status of the one that has stopped: %+v", st)
		}
		w.write(leader)
		disk.refuse(nil)
		node.Stop()
		w.Tune = tune
		node.Start()
		w.Wait(time.Minute, "whole again, with the same three", func() bool {
			_, st, ok := leadNode(w.Cluster, w.s)
			return ok && st.Waits == "" && w.healed(3) && onlyOn(w.Cluster, w.s, w.Nodes...)
		})
		w.verify()
	})
}

// TestTargetThatRefuses has the node that should take a lost voter's place
// refuse: another one gets it.
func TestTargetThatRefuses(t *testing.T) {
	t.Parallel()
	for bad := 3; bad < 5; bad++ { // one of the two is the first choice
		t.Run(fmt.Sprint(bad), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWard(t, 48, 5, 3)
				w.Nodes[bad].Stop()
				tune := w.Tune
				w.Tune = func(cfg *raftgroup.Config) {
					tune(cfg)
					if cfg.Node == w.Nodes[bad].ID {
						disk := &faultyLog{Log: w.Nodes[bad].Log}
						disk.refuse(errors.New("the disk is gone"))
						cfg.Log = disk
					}
				}
				w.Nodes[bad].Start()
				leader, _, _ := leadNode(w.Cluster, w.s)
				at := slices.Index(w.Nodes, leader)
				w.write(leader)
				w.Nodes[(at+1)%3].Crash(1)
				w.Wait(time.Minute, "the other one has a voter", func() bool { return w.healed(3) })
				if holds(w.Nodes[bad], w.s) {
					t.Error("the one that refuses has a replica")
				}
				w.verify()
			})
		})
	}
}

// TestBetterSpread has three voters in one data center, and then nodes in two
// others: a voter moves to each, the leader's last, with nothing lost. A node
// that comes without a better spread gets nothing.
func TestBetterSpread(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t, 49, 4, 3, "a")
		w.write(w.Nodes[0])
		time.Sleep(3 * grace)
		if holds(w.Nodes[3], w.s) {
			t.Fatal("a node in the same data center was given a replica")
		}
		for _, dc := range []string{"b", "c"} {
			w.Add(dc).Start()
		}
		w.Wait(time.Minute, "a voter in each data center", func() bool {
			nodes, learners := voterNodes(w.Cluster, w.s)
			centers := make(map[string]bool)
			for _, n := range nodes {
				centers[n.DataCenter] = true
			}
			return len(nodes) == 3 && len(centers) == 3 && learners <= 1 && w.healed(3)
		})
		w.verify()
	})
}

// TestIdleLearnerIsDismissed has a node subscribe and stop: long after that its
// replica is taken away. As long as it subscribes, it stays.
func TestIdleLearnerIsDismissed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t, 50, 4, 3)
		n := w.Nodes[3]
		if err := n.Host.Join(w.s, w.Nodes[0].ID); err != nil {
			t.Fatal(err)
		}
		x := w.write(n)
		w.Wait(time.Minute, "a learner", func() bool { return x.j.count() > 10 })
		time.Sleep(2 * 5 * grace)
		if g, here := n.Host.Group(w.s); !here || x.j.count() < 500 {
			t.Fatalf("the replica of a subscriber: %v", g)
		}
		close(x.stop)
		<-x.done
		close(x.j.sub.Propose())
		<-x.j.done
		w.writers = nil
		w.Wait(10*grace, "the replica nobody uses is gone", func() bool { return !holds(n, w.s) && w.healed(3) })
		w.verify()
	})
}

// TestNobodyIsEverReplaced has a ReplaceAfter that means never: that five times
// that long is more than can be counted makes no learner idle at once.
func TestNobodyIsEverReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 4, 51)
		c.Tune = func(cfg *raftgroup.Config) { cfg.ReplaceAfter = 100 * 365 * 24 * time.Hour }
		c.StartAll()
		s := rig.Structure(1)
		c.Born(s, 3, raftgroup.Options{})
		n := c.Nodes[3]
		if err := n.Host.Join(s, c.Nodes[0].ID); err != nil {
			t.Fatal(err)
		}
		c.Wait(time.Minute, "a learner", func() bool { return holds(n, s) })
		g, _ := n.Host.Group(s)
		c.Nodes[0].Stop()
		time.Sleep(10 * time.Minute)
		if now, here := n.Host.Group(s); !here || now != g {
			t.Errorf("the learner was dismissed: %t", here)
		}
		leader, ok := c.Nodes[1].Host.Group(s)
		if !ok || len(leader.Status().Voters) != 3 {
			t.Errorf("the voters have changed: %+v", leader.Status())
		}
		c.StopAll()
	})
}

// TestLearnerOfPassiveSubscriptionsIsDismissed has everybody subscribe as the
// catalog does, which joins for nobody's sake: a node that is not needed for a
// voter keeps no replica for that, and its subscription waits for another one.
func TestLearnerOfPassiveSubscriptionsIsDismissed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t, 55, 4, 3)
		last := w.Nodes[3]
		if err := last.Host.Join(w.s, w.Nodes[0].ID); err != nil {
			t.Fatal(err)
		}
		var all []*journal
		for i, n := range w.Nodes {
			j := subscribe(t, n, raftgroup.SubscriptionConfig{Structure: w.s, Passive: true})
			j.propose(fmt.Sprint("from ", i), 5)
			all = append(all, j)
		}
		w.Wait(time.Minute, "all commits", func() bool {
			return !slices.ContainsFunc(all, func(j *journal) bool { return j.count() < 20 })
		})
		w.Wait(10*grace, "no replica where none is needed", func() bool { return !holds(last, w.s) && w.healed(3) })
		if err := last.Host.Join(w.s, w.Nodes[0].ID); err != nil {
			t.Fatal(err)
		}
		all[3].propose("again", 5)
		w.Wait(time.Minute, "the subscription goes on with the next replica", func() bool { return all[3].count() == 25 })
		w.Wait(time.Minute, "the same everywhere", func() bool {
			return !slices.ContainsFunc(all, func(j *journal) bool { return !slices.Equal(j.all(), all[3].all()) })
		})
	})
}

// TestSubscriberOutsideThePins subscribes on a node in a data center that the
// options do not allow: the replica there never votes, and stays as long as
// there is a subscription, under one ReplicaID. Then it goes.
func TestSubscriberOutsideThePins(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 4, 54)
		c.StartAll()
		s := rig.Structure(9)
		c.Born(s, 1, raftgroup.Options{Voters: 1, PinnedDataCenters: []string{"dc1"}})
		c.Wait(time.Minute, "a leader", func() bool { _, _, ok := leadNode(c, s); return ok })
		n := c.Nodes[3]
		if err := n.Host.Join(s, c.Nodes[0].ID); err != nil {
			t.Fatal(err)
		}
		j := subscribe(t, n, raftgroup.SubscriptionConfig{Structure: s})
		j.propose("a", 10)
		c.Wait(time.Minute, "commits", func() bool { return j.count() == 10 })
		g, ok := n.Host.Group(s)
		if !ok {
			t.Fatal("no replica where the subscription is")
		}
		replica, _, _ := leadNode(c, s)
		before, _ := replica.Host.Group(s)
		from := before.Status().Applied
		time.Sleep(10 * time.Minute)
		if now, ok := n.Host.Group(s); !ok || now.Status().Replica != g.Status().Replica || g.Status().Replica != 2 {
			t.Errorf("it had replica %d there, and has another one, or none", g.Status().Replica)
		}
		if grown := before.Status().Applied - from; grown > 10 {
			t.Errorf("the log grew by %d entries with nothing to do", grown)
		}
		j.propose("b", 10)
		c.Wait(time.Minute, "more commits", func() bool { return j.count() == 20 })
		close(j.sub.Propose())
		<-j.done
		c.Wait(2*time.Minute, "the replica is gone, since nobody subscribes there any more", func() bool { return !holds(n, s) })
		c.StopAll()
	})
}
