package raftgroup_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

// refuse has a node see its connection with another one break, and the next one
// be refused a moment later.
func refuse(at, other *rig.Node) {
	at.Host.PeerDown(other.ID)
	time.Sleep(2 * time.Millisecond)
	at.Host.PeerRefused(other.ID)
}

// newestTerm is the newest that any of the nodes knows.
func newestTerm(c *rig.Cluster, nodes ...*rig.Node) (most uint64) {
	for _, n := range nodes {
		for _, g := range n.Host.Groups() {
			most = max(most, g.Term)
		}
	}
	return most
}

// TestLeaderRefusesConnections: where the leader's process is killed, so that
// connections to it are refused, the others elect at once. The shortest election
// time-out is a second.
func TestLeaderRefusesConnections(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		nodes int
		late  time.Duration // by how much later each follower hears of it
		quiet bool
		limit time.Duration
	}{
		{"three nodes", 3, 0, false, 300 * time.Millisecond},
		{"three nodes, one hears late", 3, 150 * time.Millisecond, false, 500 * time.Millisecond},
		{"five nodes", 5, 20 * time.Millisecond, false, 400 * time.Millisecond},
		{"a quiet group", 3, 10 * time.Millisecond, true, 400 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(8) {
				took := killed(t, 300+seed, c.nodes, c.late, c.quiet)
				if took > c.limit {
					t.Errorf("seed %d: %v until a commit under another leader, want at most %v", 300+seed, took, c.limit)
				}
			}
		})
	}
}

// killed kills the process of a leader, and returns how long nothing was committed.
func killed(t *testing.T, seed uint64, nodes int, late time.Duration, quiet bool) (took time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, nodes, seed)
		if !quiet {
			c.Tune = func(cfg *raftgroup.Config) { cfg.QuietAfter = -1 }
		}
		c.StartAll()
		defer c.StopAll()
		s := rig.Structure(1)
		c.Born(s, nodes, raftgroup.Options{Voters: uint32(nodes)})
		var leader *rig.Node
		var others []*rig.Node
		c.Wait(time.Minute, "a leader", func() bool {
			leader, others = leaderOf(c, s)
			return leader != nil
		})
		j := subscribe(t, others[0], raftgroup.SubscriptionConfig{Structure: s})
		j.sub.Propose() <- []byte("before")
		c.Wait(time.Minute, "the first commit", func() bool { return len(j.all()) == 1 })
		if quiet {
			awaitQuiet(c)
		}
		time.Sleep(time.Duration(seed) * 7 * time.Millisecond) // ticks are not always as near
		leader, others = leaderOf(c, s)
		leader.Crash(seed)
		died := time.Now()
		for i, o := range others {
			time.AfterFunc(time.Duration(len(others)-i)*late, func() { refuse(o, leader) })
		}
		j.sub.Propose() <- []byte("after")
		c.Wait(time.Minute, "a commit under another leader", func() bool { return len(j.all()) == 2 })
		took = time.Since(died)
		time.Sleep(time.Minute) // what a refusal had asked for is over
		if got := fmt.Sprint(j.all()); got != "[before after]" {
			t.Errorf("seed %d: %s", seed, got)
		}
	})
	return took
}

// TestRefusedByMistake: a leader that lives is not deposed because one follower
// cannot connect to it; if none can, another one is elected, once, and nothing is
// lost or repeated.
func TestRefusedByMistake(t *testing.T) {
	t.Parallel()
	for _, followers := range []int{1, 2} {
		t.Run(fmt.Sprint(followers, " of 2"), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := rig.New(t, 3, 320)
				c.Tune = func(cfg *raftgroup.Config) { cfg.QuietAfter = -1 }
				c.StartAll()
				defer c.StopAll()
				s := rig.Structure(1)
				c.Born(s, 3, raftgroup.Options{})
				var leader *rig.Node
				var others []*rig.Node
				c.Wait(time.Minute, "a leader", func() bool {
					leader, others = leaderOf(c, s)
					return leader != nil
				})
				j := subscribe(t, others[1], raftgroup.SubscriptionConfig{Structure: s})
				before := newestTerm(c, c.Nodes...)
				sent := 0
				for second := range 9 { // the lead follows the proposals after ten
					if second%3 == 1 {
						for _, o := range others[:followers] {
							go refuse(o, leader)
						}
					}
					for range 20 {
						j.sub.Propose() <- fmt.Append(nil, sent)
						sent++
						time.Sleep(50 * time.Millisecond)
					}
				}
				c.Wait(time.Minute, "all", func() bool { return len(j.all()) == sent })
				for i, line := range j.all() {
					if line != fmt.Sprint(i) {
						t.Fatalf("line %d is %s", i, line)
					}
				}
				if grown := newestTerm(c, c.Nodes...) - before; grown > uint64(followers-1) {
					t.Errorf("%d elections, where %d of 2 followers could not connect to the leader", grown, followers)
				}
			})
		})
	}
}
