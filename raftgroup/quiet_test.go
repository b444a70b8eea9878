package raftgroup_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

// talk counts what the groups of a rig say; what hosts say to each other is
// counted apart.
type talk struct {
	raftgroup.Network
	mu     *sync.Mutex
	groups *int
	hosts  *int
}

func (t talk) Send(to id.Node, m raftgroup.Message) error {
	t.mu.Lock()
	if m.Group == (id.Group{}) {
		*t.hosts++
	} else {
		*t.groups++
	}
	t.mu.Unlock()
	return t.Network.Send(to, m)
}

func countTalk(c *rig.Cluster) (said func() (groups, hosts int)) {
	t := talk{mu: new(sync.Mutex), groups: new(int), hosts: new(int)}
	c.Tune = func(cfg *raftgroup.Config) {
		own := t
		own.Network = cfg.Network
		cfg.Network = own
	}
	return func() (int, int) {
		t.mu.Lock()
		defer t.mu.Unlock()
		return *t.groups, *t.hosts
	}
}

// quiet counts the replicas on the nodes that are up, and how many are quiet.
func quiet(c *rig.Cluster) (replicas, quiet int) {
	for _, n := range c.Nodes {
		if !n.Up() {
			continue
		}
		for _, g := range n.Host.Groups() {
			replicas++
			if g.Quiet {
				quiet++
			}
		}
	}
	return replicas, quiet
}

func awaitQuiet(c *rig.Cluster) {
	c.T.Helper()
	c.Wait(2*time.Minute, "all replicas are quiet", func() bool {
		all, q := quiet(c)
		return all > 0 && q == all
	})
}

// leaderOf finds the node that leads a structure.
func leaderOf(c *rig.Cluster, s id.Structure) (leader *rig.Node, others []*rig.Node) {
	for _, n := range c.Nodes {
		if !n.Up() {
			continue
		}
		g, ok := n.Host.Group(s)
		if ok && g.Status().IsLeader {
			leader = n
		} else {
			others = append(others, n)
		}
	}
	return leader, others
}

// TestQuiet lets fifty idle groups fall quiet: then only hosts talk, however
// many groups there are. A proposal at a follower wakes its group, and no other,
// within the round trips of any commit.
func TestQuiet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, 1)
		said := countTalk(c)
		c.StartAll()
		const groups = 50
		for i := range groups {
			c.Born(rig.Structure(uint64(i+1)), 3, raftgroup.Options{})
		}
		awaitQuiet(c)
		g0, h0 := said()
		time.Sleep(time.Minute) // virtual: that it stays so
		if all, q := quiet(c); q != all {
			t.Errorf("%d of %d replicas are quiet", q, all)
		}
		g1, h1 := said()
		if g1 != g0 {
			t.Errorf("quiet groups sent %d messages", g1-g0)
		}
		if n, most := h1-h0, 6*2*10*61; n == 0 || n > most { // six directed links, a ping and a pong each, ten a second
			t.Errorf("hosts sent %d messages in a minute, want at most %d", n, most)
		}

		s := rig.Structure(7)
		var js []*journal
		for _, n := range c.Nodes {
			js = append(js, subscribe(t, n, raftgroup.SubscriptionConfig{Structure: s}))
		}
		js[0].propose("first", 1)
		c.Wait(time.Minute, "first commit", func() bool { return js[0].count() == 1 && js[1].count() == 1 && js[2].count() == 1 })
		awaitQuiet(c)
		_, others := leaderOf(c, s)
		follower := js[slices.Index(c.Nodes, others[0])]
		began := time.Now()
		follower.propose("second", 1)
		c.Wait(time.Minute, "second commit", func() bool { return js[0].count() == 2 && js[1].count() == 2 && js[2].count() == 2 })
		if took := time.Since(began); took > 100*time.Millisecond { // the rig's latency is up to 2 ms, its steps of waiting 10 ms
			t.Errorf("a proposal took %s to wake its group and be delivered everywhere", took)
		}
		if all, q := quiet(c); all-q > 3 {
			t.Errorf("%d replicas are awake, of one group with something to do", all-q)
		}
		same(t, js...)
		awaitQuiet(c)
		c.StopAll()
		for _, j := range js {
			<-j.done
		}
	})
}

// TestQuietLeaderGone tells what may become of the leader of a quiet group, and
// wants a proposal at each member that is left to be delivered everywhere soon.
func TestQuietLeaderGone(t *testing.T) {
	t.Parallel()
	stories := map[string]struct {
		happens func(c *rig.Cluster, s id.Structure, leader *rig.Node, others []*rig.Node)
		after   func(c *rig.Cluster, leader *rig.Node)
		within  time.Duration // until the members have a leader again
	}{
		"its node is lost": {
			happens: func(_ *rig.Cluster, _ id.Structure, leader *rig.Node, _ []*rig.Node) { leader.Crash(1) },
			after:   func(_ *rig.Cluster, leader *rig.Node) { leader.Start() },
			within:  6 * time.Second,
		},
		"its node restarts while the group is quiet": {
			happens: func(_ *rig.Cluster, _ id.Structure, leader *rig.Node, _ []*rig.Node) { leader.Crash(1); leader.Start() },
			within:  6 * time.Second,
		},
		"it is cut off, one way": {
			happens: func(c *rig.Cluster, _ id.Structure, leader *rig.Node, others []*rig.Node) {
				for _, o := range others {
					c.Net.Cut(leader.ID, o.ID)
				}
			},
			after:  func(c *rig.Cluster, _ *rig.Node) { c.Net.Heal() },
			within: 6 * time.Second,
		},
		"it is cut off, the other way": {
			happens: func(c *rig.Cluster, _ id.Structure, leader *rig.Node, others []*rig.Node) {
				for _, o := range others {
					c.Net.Cut(o.ID, leader.ID)
				}
			},
			after:  func(c *rig.Cluster, _ *rig.Node) { c.Net.Heal() },
			within: 6 * time.Second,
		},
		// Nothing tells the others but the audit, which asks for each group in turn.
		"its replica is gone without a word": {
			happens: func(c *rig.Cluster, s id.Structure, leader *rig.Node, _ []*rig.Node) {
				if err := leader.Host.RemoveReplica(s); err != nil {
					c.T.Error(err)
				}
			},
			within: 12 * time.Second,
		},
	}
	for name, story := range stories {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := rig.New(t, 3, 2)
				c.StartAll()
				s := rig.Structure(3)
				c.Born(s, 3, raftgroup.Options{})
				first := subscribe(t, c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s})
				first.propose("base", 1)
				c.Wait(time.Minute, "a commit", func() bool { return first.count() == 1 })
				close(first.sub.Propose())
				<-first.done
				awaitQuiet(c)
				leader, others := leaderOf(c, s)
				story.happens(c, s, leader, others)
				began := time.Now()
				c.Wait(time.Minute, "another leader", func() bool {
					for _, o := range others {
						g, ok := o.Host.Group(s)
						if ok && g.Status().IsLeader {
							return true
						}
					}
					if l, _ := leaderOf(c, s); l == leader && leader.Incarnation > 1 {
						return true // as a new process
					}
					return false
				})
				if took := time.Since(began); took > story.within {
					t.Errorf("it took %s until the group had a leader", took)
				}
				var js []*journal
				for i, o := range others {
					j := subscribe(t, o, raftgroup.SubscriptionConfig{Structure: s})
					j.propose(fmt.Sprint("after", i), 1)
					js = append(js, j)
				}
				c.Wait(time.Minute, "commits after it", func() bool { return js[0].count() == 3 && js[1].count() == 3 })
				same(t, js...)
				if story.after != nil {
					story.after(c, leader)
				}
				if name != "its replica is gone without a word" { // that group has lost a replica for good
					awaitQuiet(c)
				}
				c.StopAll()
				for _, j := range js {
					<-j.done
				}
			})
		})
	}
}

// TestQuietAndANewNode has a node appear where quiet groups want more voters:
// their leaders wake and look after them.
func TestQuietAndANewNode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 1, 4)
		c.StartAll()
		const groups = 20
		for i := range groups {
			c.Born(rig.Structure(uint64(i+1)), 1, raftgroup.Options{Voters: 3})
		}
		awaitQuiet(c)
		for range 2 {
			c.Add("another").Start()
		}
		c.Wait(2*time.Minute, "three voters each", func() bool {
			for i := range groups {
				if v, _ := voters(c, rig.Structure(uint64(i+1))); v != 3 {
					return false
				}
			}
			return true
		})
		awaitQuiet(c)
		c.StopAll()
	})
}

// TestQuietLearnerInDoubt has a learner alone doubt its leader, whose group is
// quiet: it cannot ask for votes, which would wake the others, so it calls them.
func TestQuietLearnerInDoubt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 4, 5)
		c.StartAll()
		s := rig.Structure(3)
		c.Born(s, 3, raftgroup.Options{})
		first := subscribe(t, c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s})
		first.propose("base", 1)
		c.Wait(time.Minute, "a commit", func() bool { return first.count() == 1 })
		fourth := c.Nodes[3]
		if err := fourth.Host.Join(s, c.Nodes[0].ID); err != nil {
			t.Fatal(err)
		}
		late := subscribe(t, fourth, raftgroup.SubscriptionConfig{Structure: s})
		c.Wait(time.Minute, "it at the learner", func() bool { return late.count() == 1 })
		awaitQuiet(c)
		leader, _ := leaderOf(c, s)
		fourth.Host.PeerDown(leader.ID)
		began := time.Now()
		c.Wait(time.Minute, "the doubt", func() bool {
			g, _ := fourth.Host.Group(s)
			return !g.Status().Quiet
		})
		late.propose("after", 1)
		c.Wait(time.Minute, "a commit after it", func() bool { return first.count() == 2 && late.count() == 2 })
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("it took %s", took)
		}
		same(t, first, late)
		awaitQuiet(c)
		c.StopAll()
		<-first.done
		<-late.done
	})
}

// lateGossip is a directory to which it takes a while until it hears that a node
// runs another process.
type lateGossip struct {
	raftgroup.Directory
	late *atomic.Pointer[raftgroup.Node] // as which its node is shown; nil: as it is
}

func (d lateGossip) Nodes() []raftgroup.Node {
	nodes := d.Directory.Nodes()
	if late := d.late.Load(); late != nil {
		for i := range nodes {
			if nodes[i].ID == late.ID {
				nodes[i].Incarnation = late.Incarnation
			}
		}
	}
	return nodes
}

// TestQuietAndALateWord: a node restarts so soon that nobody misses it, and gossip
// tells of its new process when the group has looked after itself and is quiet
// again. The sessions of the old process are expired all the same.
func TestQuietAndALateWord(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, 6)
		late, s, leader, _ := restartedUnheard(t, c, 5)
		sessions := func() int {
			g, _ := leader.Host.Group(s)
			return g.Status().Sessions
		}
		time.Sleep(30 * time.Second)
		awaitQuiet(c)
		if now, _ := leaderOf(c, s); now != leader || sessions() != 1 {
			g, _ := leader.Host.Group(s)
			t.Fatalf("the leader is another one, or there are %d sessions: %+v", sessions(), g.Status())
		}
		late.Store(nil)
		c.Wait(3*time.Minute, "the session of the old process to end", func() bool { return sessions() == 0 })
		awaitQuiet(c)
		c.StopAll()
	})
}

// restartedUnheard begins a structure with a subscription on one node, and starts
// that node's process again once all are quiet. Gossip goes on to tell of the old
// one, until late is nil; others are all but the leader, that node first.
func restartedUnheard(t *testing.T, c *rig.Cluster, snapshotEntries uint64) (late *atomic.Pointer[raftgroup.Node], s id.Structure, leader *rig.Node, others []*rig.Node) {
	t.Helper()
	late = new(atomic.Pointer[raftgroup.Node])
	c.Tune = func(cfg *raftgroup.Config) {
		cfg.Directory, cfg.CompactionTail = lateGossip{cfg.Directory, late}, 1
	}
	c.StartAll()
	s = rig.Structure(3)
	c.Born(s, 3, raftgroup.Options{SnapshotEntries: snapshotEntries})
	c.Wait(time.Minute, "a leader", func() bool { l, _ := leaderOf(c, s); return l != nil })
	leader, others = leaderOf(c, s)
	gone := others[0]
	j := subscribe(t, gone, raftgroup.SubscriptionConfig{Structure: s})
	for i := range 30 {
		j.sub.Propose() <- fmt.Appendf(nil, "%d", i)
		time.Sleep(100 * time.Millisecond)
	}
	c.Wait(time.Minute, "a snapshot, so that its replica does not read of the session when it starts again", func() bool {
		g, _ := gone.Host.Group(s)
		return g.Status().Snapshot.Index > 10
	})
	awaitQuiet(c)
	if g, _ := leader.Host.Group(s); g.Status().Sessions != 1 {
		t.Fatalf("%d sessions", g.Status().Sessions)
	}
	late.Store(&raftgroup.Node{ID: gone.ID, Incarnation: gone.Incarnation})
	for _, o := range c.Nodes { // its last words would close the session
		c.Net.Cut(gone.ID, o.ID)
	}
	gone.Crash(1)
	c.Net.Heal()
	gone.Start()
	<-j.done
	return late, s, leader, others
}
