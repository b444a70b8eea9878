package raftgroup_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

// traffic counts the bytes of messages that come to a node, by their senders.
type traffic struct {
	rig.Handler
	mu    sync.Mutex
	bytes map[id.Node]int
}

func (c *traffic) HandleMessages(from id.Node, batch []raftgroup.Message) {
	c.mu.Lock()
	for _, m := range batch {
		c.bytes[from] += len(m.Bytes())
	}
	c.mu.Unlock()
	c.Handler.HandleMessages(from, batch)
}

// since returns what came of a node since the last call.
func (c *traffic) since(from id.Node) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.bytes[from]
	c.bytes[from] = 0
	return n
}

// TestEntriesCrossOnce: the learner beside a voter gets the entries from that
// voter, not from the leader far away; when the voter's node cannot reach it,
// or is gone, it gets them from the leader again.
func TestEntriesCrossOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, 51)
		c.Add("dc1")
		c.Add("dc2")
		c.Add("dc3")
		c.Tune = func(cfg *raftgroup.Config) { cfg.ReplaceAfter = 24 * time.Hour }
		counts := make(map[id.Node]*traffic)
		c.Wrap = func(n *rig.Node) rig.Handler {
			counts[n.ID] = &traffic{Handler: n.Host, bytes: make(map[id.Node]int)}
			return counts[n.ID]
		}
		c.StartAll()
		defer c.StopAll()
		c.Net.KeepOrder() // messages that overtake one another are gaps
		s := rig.Structure(1)
		c.Born(s, 3, raftgroup.Options{})
		leader := -1
		c.Wait(time.Minute, "a leader", func() bool {
			leader = slices.IndexFunc(c.Nodes, func(n *rig.Node) bool { return leads(n, s) })
			return leader >= 0
		})
		at := c.Nodes[leader]
		voter := c.Nodes[(leader+1)%3]
		learner := c.Nodes[3+(leader+1)%3]
		if voter.DataCenter != learner.DataCenter {
			t.Fatalf("%s and %s are to be neighbours", voter.DataCenter, learner.DataCenter)
		}
		j := subscribe(t, at, raftgroup.SubscriptionConfig{Structure: s})
		if err := learner.Host.Join(s, at.ID); err != nil {
			t.Fatal(err)
		}
		far := subscribe(t, learner, raftgroup.SubscriptionConfig{Structure: s})
		const size, many = 1000, 200
		sent := 0
		send := func(what string) {
			t.Helper()
			counts[learner.ID].since(at.ID)
			counts[learner.ID].since(voter.ID)
			for range many {
				j.sub.Propose() <- fmt.Appendf(nil, "%0*d", size, sent)
				sent++
				time.Sleep(10 * time.Millisecond)
			}
			c.Wait(2*time.Minute, what+": all have come", func() bool { return len(far.all()) == sent })
			for i, line := range far.all() {
				if line != fmt.Sprintf("%0*d", size, i) {
					t.Fatalf("%s: line %d is %.20s…", what, i, line)
				}
			}
		}
		send("warm up")
		time.Sleep(time.Minute) // whatever pause a gap has brought is over
		send("relayed")
		if direct, by := counts[learner.ID].since(at.ID), counts[learner.ID].since(voter.ID); by < size*many || direct > size*many/4 {
			t.Errorf("the learner got %d bytes from the leader and %d from its neighbour, of %d", direct, by, size*many)
		}
		c.Net.Cut(voter.ID, learner.ID)
		send("neighbours cut off")
		c.Net.Heal()
		time.Sleep(20 * time.Minute)
		send("relayed again")
		if by := counts[learner.ID].since(voter.ID); by < size*many/2 {
			t.Errorf("the learner got %d bytes from its neighbour, of %d", by, size*many)
		}
		voter.Crash(1)
		send("without the neighbour")
		if direct := counts[learner.ID].since(at.ID); direct < size*many {
			t.Errorf("the learner got %d bytes from the leader, of %d", direct, size*many)
		}
	})
}
