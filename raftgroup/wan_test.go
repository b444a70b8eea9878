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

// leads tells whether the node leads the structure.
func leads(n *rig.Node, s id.Structure) bool {
	g, ok := n.Host.Group(s)
	return ok && g.Status().IsLeader
}

// TestLeadFollowsProposals: the lead goes to the data center where the
// proposals come from, comes back when they do, and each change arrives once.
func TestLeadFollowsProposals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, 31)
		c.StartAll()
		defer c.StopAll()
		s := rig.Structure(1)
		c.Born(s, 3, raftgroup.Options{})
		var journals []*journal
		for _, n := range c.Nodes {
			journals = append(journals, subscribe(t, n, raftgroup.SubscriptionConfig{Structure: s}))
		}
		sent := 0
		from := func(i int) {
			t.Helper()
			for c.Nodes[i].Host != nil && !leads(c.Nodes[i], s) {
				journals[i].sub.Propose() <- fmt.Appendf(nil, "%d", sent)
				sent++
				time.Sleep(100 * time.Millisecond)
				if sent > 4000 {
					t.Fatalf("node %d does not lead, after %d proposals", i, sent)
				}
			}
		}
		from(1)
		from(2)
		before := sent
		from(0)
		if took := sent - before; took < 90 {
			t.Errorf("the lead went after %d proposals, in a tenth of a second each", took)
		}
		for i, j := range journals {
			c.Wait(time.Minute, fmt.Sprintf("node %d has all", i), func() bool { return len(j.all()) == sent })
			for k, line := range j.all() {
				if line != fmt.Sprint(k) {
					t.Fatalf("node %d: line %d is %s", i, k, line)
				}
			}
		}
	})
}

// TestPreferenceBeatsPull: where an option says in which data center the leader
// is to be, proposals do not move it.
func TestPreferenceBeatsPull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, 32)
		c.StartAll()
		defer c.StopAll()
		s := rig.Structure(1)
		c.Born(s, 3, raftgroup.Options{PreferredDataCenter: "dc1"})
		leader := -1
		c.Wait(time.Minute, "a leader", func() bool {
			for i, n := range c.Nodes {
				if leads(n, s) {
					leader = i
				}
			}
			return leader >= 0
		})
		j := subscribe(t, c.Nodes[(leader+1)%3], raftgroup.SubscriptionConfig{Structure: s})
		for range 400 {
			j.sub.Propose() <- []byte("x")
			time.Sleep(100 * time.Millisecond)
		}
		if !leads(c.Nodes[leader], s) {
			t.Errorf("node %d does not lead any more", leader)
		}
	})
}

// TestPinsBeatPull pins a structure to a data center with only one of its
// voters, and no node for the others, and has another one's node propose: the
// lead, once where it is to be, is not handed to and fro.
func TestPinsBeatPull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, 33)
		c.StartAll()
		defer c.StopAll()
		s := rig.Structure(9)
		c.Born(s, 3, raftgroup.Options{})
		alter(t, c.Nodes[0], raftgroup.OptionPinnedDataCenters, raftgroup.Options{PinnedDataCenters: []string{"dc1"}})
		c.Wait(time.Minute, "the leader where it is to be", func() bool { return leads(c.Nodes[0], s) })
		g, _ := c.Nodes[0].Host.Group(s)
		term := g.Status().Term
		j := subscribe(t, c.Nodes[1], raftgroup.SubscriptionConfig{Structure: s})
		for range 1000 {
			j.sub.Propose() <- []byte("x")
			time.Sleep(100 * time.Millisecond)
		}
		if st := g.Status(); !st.IsLeader || st.Term != term {
			t.Errorf("term %d, then %d, leads %v", term, st.Term, st.IsLeader)
		}
	})
}

// TestElectionsFollowRoundTrip: where round trips become three seconds, and that
// is known, nobody elects for nothing.
func TestElectionsFollowRoundTrip(t *testing.T) {
	t.Parallel()
	const rtt = 3 * time.Second
	for seed := range uint64(12) {
		if n := needless(t, 70+seed, rtt, func(id.Node) (time.Duration, bool) { return rtt, true }); n > 0 {
			t.Errorf("seed %d: %d elections in two minutes with the round trip known", 70+seed, n)
		}
	}
}

// needless counts by how much the term grows in two minutes in which nothing
// fails, while round trips take rtt on the average and up to twice that.
func needless(t *testing.T, seed uint64, rtt time.Duration, known func(id.Node) (time.Duration, bool)) (grown uint64) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, seed)
		c.Tune = func(cfg *raftgroup.Config) { cfg.QuietAfter, cfg.RTT = -1, known }
		c.StartAll()
		defer c.StopAll()
		s := rig.Structure(1)
		c.Born(s, 3, raftgroup.Options{})
		c.Wait(time.Minute, "a leader", func() bool {
			return slices.ContainsFunc(c.Nodes, func(n *rig.Node) bool { return leads(n, s) })
		})
		term := func() (most uint64) {
			for _, n := range c.Nodes {
				if g, ok := n.Host.Group(s); ok {
					most = max(most, g.Status().Term)
				}
			}
			return most
		}
		c.Net.SetLatency(rtt / 2)
		before := term()
		time.Sleep(2 * time.Minute)
		grown = term() - before
	})
	return grown
}

// TestDeadLeaderOnSlowLinks: longer time-outs are still short, where round
// trips are those of the other side of the world.
func TestDeadLeaderOnSlowLinks(t *testing.T) {
	t.Parallel()
	const rtt = 300 * time.Millisecond
	took := failover(t, 34, rtt, func(id.Node) (time.Duration, bool) { return rtt, true })
	if took > 3*2*time.Second { // three of the shortest time-outs, which are 2 s
		t.Errorf("%v without commits", took)
	}
}

// failover kills the leader of three nodes, whose messages take up to rtt there
// and back, and returns how long nothing was committed.
func failover(t *testing.T, seed uint64, rtt time.Duration, known func(id.Node) (time.Duration, bool)) (took time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, seed)
		c.Tune = func(cfg *raftgroup.Config) { cfg.RTT = known }
		c.StartAll()
		defer c.StopAll()
		s := rig.Structure(1)
		c.Born(s, 3, raftgroup.Options{})
		leader := -1
		c.Wait(time.Minute, "a leader", func() bool {
			leader = slices.IndexFunc(c.Nodes, func(n *rig.Node) bool { return leads(n, s) })
			return leader >= 0
		})
		j := subscribe(t, c.Nodes[(leader+1)%3], raftgroup.SubscriptionConfig{Structure: s})
		j.sub.Propose() <- []byte("before")
		c.Wait(time.Minute, "the first commit", func() bool { return len(j.all()) == 1 })
		c.Net.SetLatency(rtt / 4) // up to half a round trip each way
		time.Sleep(10 * time.Second)
		if !leads(c.Nodes[leader], s) {
			t.Fatalf("seed %d: the lead went on from node %d by itself", seed, leader)
		}
		c.Nodes[leader].Crash(seed)
		died := time.Now()
		j.sub.Propose() <- []byte("after")
		c.Wait(10*time.Minute, "a commit under another leader", func() bool { return len(j.all()) == 2 })
		took = time.Since(died)
	})
	return took
}

// TestQuietOnSlowLinks: groups stay quiet where the first answer of a node takes
// longer than the shortest election time-out of near ones, which is a second: the
// watch waits as long as elections do.
func TestQuietOnSlowLinks(t *testing.T) {
	t.Parallel()
	const rtt = 1500 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, 35)
		said := countTalk(c)
		count := c.Tune
		c.Tune = func(cfg *raftgroup.Config) {
			count(cfg)
			cfg.RTT = func(id.Node) (time.Duration, bool) { return rtt, true }
		}
		c.StartAll()
		defer c.StopAll()
		c.Net.KeepOrder() // or some answer would come early
		for i := range 10 {
			c.Born(rig.Structure(uint64(i+1)), 3, raftgroup.Options{})
		}
		c.Wait(time.Minute, "leaders", func() bool {
			leaders := 0
			for i := range 10 {
				if l, _ := leaderOf(c, rig.Structure(uint64(i+1))); l != nil {
					leaders++
				}
			}
			return leaders == 10
		})
		c.Net.SetLatency(rtt / 4) // up to twice that each way, and no message before an earlier one
		awaitQuiet(c)
		time.Sleep(2 * rtt) // what was on its way
		before, _ := said()
		time.Sleep(time.Minute)
		if all, q := quiet(c); q != all {
			t.Errorf("%d of %d replicas are quiet", q, all)
		}
		if after, _ := said(); after != before {
			t.Errorf("quiet groups sent %d messages", after-before)
		}
	})
}
