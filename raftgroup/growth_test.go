package raftgroup_test

import (
	"flag"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

var seeds = flag.Uint64("seeds", 8, "how many seeds of the fault tests to run")

// voters returns how many voters and learners the group has, as its leader sees it.
func voters(c *rig.Cluster, s id.Structure) (v, l int) {
	for _, n := range c.Nodes {
		if !n.Up() {
			continue
		}
		if g, ok := n.Host.Group(s); ok {
			if st := g.Status(); st.IsLeader && !st.Joint {
				return len(st.Voters), len(st.Learners)
			}
		}
	}
	return 0, 0
}

// TestGrowth starts a structure on a lone node. A second node gives it a
// learner, a third makes three voters of it, and a fourth subscriber gets a
// learner; by then the log begins behind a snapshot.
func TestGrowth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 4, 3)
		c.Tune = func(cfg *raftgroup.Config) { cfg.CompactionTail = 1 }
		s := rig.Structure(9)
		c.Nodes[0].Start()
		c.Born(s, 1, raftgroup.Options{SnapshotEntries: 100})
		j0 := subscribe(t, c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s})
		j0.propose("a", 1000)
		c.Wait(time.Minute, "commits on one node", func() bool { return j0.count() == 1000 })

		c.Nodes[1].Start()
		c.Wait(time.Minute, "one voter, one learner", func() bool { v, l := voters(c, s); return v == 1 && l == 1 })
		c.Nodes[2].Start()
		c.Wait(time.Minute, "three voters", func() bool { v, l := voters(c, s); return v == 3 && l == 0 })

		c.Nodes[3].Start()
		j3 := subscribe(t, c.Nodes[3], raftgroup.SubscriptionConfig{Structure: s})
		if err := c.Nodes[3].Host.Join(s, id.Node{}); err != nil {
			t.Fatal(err)
		}
		c.Wait(time.Minute, "a learner for the fourth", func() bool { v, l := voters(c, s); return v == 3 && l == 1 })
		c.Wait(time.Minute, "the fourth caught up", func() bool { return j3.count() == 1000 })
		go j3.propose("b", 500)
		go j0.propose("c", 500)
		c.Wait(time.Minute, "commits on both", func() bool { return j0.count() == 2000 && j3.count() == 2000 })
		same(t, j0, j3)
		if j3.loads == 0 {
			t.Error("the fourth was not started from a snapshot")
		}
		c.StopAll()
		<-j0.done
		<-j3.done
	})
}

// TestFaults has three subscribers propose while messages are lost and
// reordered and nodes crash, one at a time; then all agree, and what was
// delivered anywhere is still there.
func TestFaults(t *testing.T) {
	t.Parallel()
	for seed := uint64(1); seed <= *seeds; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { faults(t, seed) })
		})
	}
}

func faults(t *testing.T, seed uint64) {
	c := rig.New(t, 3, seed)
	c.Tune = func(cfg *raftgroup.Config) {
		cfg.CompactionTail, cfg.QuietAfter = 4, 100*time.Millisecond*time.Duration(1+seed%20)
	}
	s := rig.Structure(9)
	c.StartAll()
	c.Born(s, 3, raftgroup.Options{SnapshotEntries: 150})
	c.Net.SetLoss(0.1)
	c.Net.SetLatency(20 * time.Millisecond)
	rounds := 6
	var settled int // commits that the survivor of the last round had seen
	for round := range rounds {
		victim := c.Nodes[(int(seed)+round)%3]
		var js []*journal
		for i, n := range c.Nodes {
			j := subscribe(t, n, raftgroup.SubscriptionConfig{Structure: s})
			js = append(js, j)
			go func() {
				for k := range 100 {
					select {
					case j.sub.Propose() <- fmt.Appendf(nil, "r%d-n%d-%d", round, i, k):
					case <-j.done:
						return
					}
				}
			}()
		}
		keeper := js[(int(seed)+round+1)%3]
		c.Wait(5*time.Minute, "what was seen before, and half of the round", func() bool { return keeper.count() >= settled+150 })
		victim.Crash(seed*100 + uint64(round))
		time.Sleep(3 * time.Second)
		victim.Start()
		c.Wait(5*time.Minute, "the others' commits", func() bool { return keeper.count() >= settled+200 })
		lines := keeper.all()
		settled = len(lines)
		check(t, lines)
		// Close the others' propose channels: everything they sent must come.
		for i, j := range js {
			if c.Nodes[i] != victim {
				c.Wait(5*time.Minute, "own proposals", func() bool { return contains(j.all(), fmt.Sprintf("r%d-n%d-99", round, i)) })
			}
		}
		for i, j := range js {
			if c.Nodes[i] != victim {
				close(j.sub.Propose())
			}
			<-j.done
		}
		settled = max(settled, keeper.count())
	}
	c.Net.SetLoss(0)
	var js []*journal
	for _, n := range c.Nodes {
		js = append(js, subscribe(t, n, raftgroup.SubscriptionConfig{Structure: s}))
	}
	// A proposal of its own makes it see everything that came before.
	js[0].sub.Propose() <- fmt.Appendf(nil, "r%d-n0-0", rounds)
	close(js[0].sub.Propose())
	<-js[0].done
	want := js[0].count()
	if want < settled {
		t.Fatalf("seed %d: %d commits were seen, %d are left", seed, settled, want)
	}
	c.Wait(5*time.Minute, "all agree", func() bool { return js[1].count() >= want && js[2].count() >= want })
	same(t, js[1], js[2])
	check(t, js[1].all())
	c.StopAll()
}

func contains(lines []string, l string) bool {
	for _, x := range lines {
		if x == l {
			return true
		}
	}
	return false
}

// check asserts that nothing came twice, and that each proposer's came in order.
func check(t *testing.T, lines []string) {
	t.Helper()
	seen := make(map[string]bool)
	last := make(map[string]int)
	for i, l := range lines {
		if seen[l] {
			t.Fatalf("commit %d, %q, came twice", i, l)
		}
		seen[l] = true
		var r, n, k int
		if _, err := fmt.Sscanf(l, "r%d-n%d-%d", &r, &n, &k); err != nil {
			t.Fatal(err)
		}
		key := fmt.Sprintf("%d-%d", r, n)
		if want, ok := last[key]; ok && k != want+1 {
			t.Fatalf("commit %d is %q after number %d", i, l, want)
		} else if !ok && k != 0 {
			t.Fatalf("first commit of %s is %q", key, l)
		}
		last[key] = k
	}
}
