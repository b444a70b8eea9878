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

// grace is ReplaceAfter in these tests: longer than an election.
const grace = 5 * time.Second

// ward is a group under load, on a cluster where things go wrong.
type ward struct {
	*rig.Cluster
	t  *testing.T
	s  id.Structure
	mu sync.Mutex // guards what follows
	// Events as they were told; journals of all subscriptions, by node.
	events  []raftgroup.Event
	began   map[*rig.Node]int
	writers []*writer
}

// writer proposes from one node until the node ends, or it is told to stop.
type writer struct {
	j    *journal
	node *rig.Node
	stop chan struct{}
	done chan struct{}
}

func newWard(t *testing.T, seed uint64, nodes, voters int, centers ...string) *ward {
	w := &ward{Cluster: rig.New(t, 0, seed), t: t, s: rig.Structure(9), began: make(map[*rig.Node]int)}
	for i := range nodes {
		dc := fmt.Sprint("dc", i+1)
		if len(centers) > 0 {
			dc = centers[i%len(centers)]
		}
		w.Add(dc)
	}
	w.Tune = func(cfg *raftgroup.Config) {
		cfg.ReplaceAfter, cfg.CompactionTail = grace, 8
		cfg.Events = func(e raftgroup.Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, e)
		}
	}
	t.Cleanup(w.StopAll)
	w.Net.SetLatency(10 * time.Millisecond)
	w.StartAll()
	w.Born(w.s, voters, raftgroup.Options{Voters: uint32(voters), SnapshotEntries: 200})
	w.Wait(time.Minute, "a leader", func() bool { _, _, ok := leadNode(w.Cluster, w.s); return ok })
	return w
}

// told counts the events of a kind.
func (w *ward) told(kind raftgroup.EventKind) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// write subscribes on a node and proposes from there, every 50 ms.
func (w *ward) write(n *rig.Node) *writer {
	w.t.Helper()
	x := &writer{j: subscribe(w.t, n, raftgroup.SubscriptionConfig{Structure: w.s}), node: n, stop: make(chan struct{}), done: make(chan struct{})}
	w.mu.Lock()
	round := w.began[n]
	w.began[n]++
	w.writers = append(w.writers, x)
	w.mu.Unlock()
	number := slices.Index(w.Nodes, n)
	go func() {
		defer close(x.done)
		for k := 0; ; k++ {
			select {
			case x.j.sub.Propose() <- fmt.Appendf(nil, "r%d-n%d-%d", round, number, k):
			case <-x.stop:
				return
			case <-x.j.done:
				return
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-x.stop:
				return
			}
		}
	}()
	return x
}

// alive lists the nodes that run.
func (w *ward) alive() []*rig.Node {
	return slices.DeleteFunc(slices.Clone(w.Nodes), func(n *rig.Node) bool { return !n.Up() })
}

// healed reports whether the group has that many voters, all on nodes that run,
// and every replica that runs is a member.
func (w *ward) healed(voters int) bool {
	nodes, _ := voterNodes(w.Cluster, w.s)
	_, st, ok := leadNode(w.Cluster, w.s)
	if !ok || len(nodes) != voters || slices.ContainsFunc(nodes, func(n *rig.Node) bool { return !n.Up() }) {
		return false
	}
	for _, n := range w.alive() {
		if g, here := n.Host.Group(w.s); here {
			self := g.Status().Replica
			_, voter := st.Voters[self]
			_, learner := st.Learners[self]
			if !voter && !learner {
				return false
			}
		}
	}
	return true
}

// verify ends the load: what anybody was given is what everybody is given, in
// one order, nothing twice, each writer's in its order.
func (w *ward) verify() {
	w.t.Helper()
	for _, x := range w.writers {
		close(x.stop)
		<-x.done
	}
	reader := subscribe(w.t, w.alive()[0], raftgroup.SubscriptionConfig{Structure: w.s})
	if _, here := w.alive()[0].Host.Group(w.s); !here {
		if err := w.alive()[0].Host.Join(w.s, id.Node{}); err != nil {
			w.t.Fatal(err)
		}
	}
	reader.sub.Propose() <- []byte("r0-n99-0")
	w.Wait(2*time.Minute, "the last change", func() bool { return contains(reader.all(), "r0-n99-0") })
	lines := reader.all()
	check(w.t, lines)
	for _, x := range w.writers {
		got := x.j.all()
		if len(got) > len(lines) || !slices.Equal(got, lines[:len(got)]) {
			w.t.Fatalf("seed %d: a subscriber on node %s was given %d changes that are not the beginning of the %d there are", w.Seed, x.node.DataCenter, len(got), len(lines))
		}
	}
	for _, n := range w.alive() {
		for _, g := range n.Host.Groups() {
			if g.Failed {
				w.t.Errorf("replica on node %s: %v", n.DataCenter, g.LastError)
			}
		}
	}
	w.StopAll()
	for _, x := range w.writers {
		<-x.j.done
	}
	<-reader.done
}

// The steps of a replacement, as one sees them from outside.
var healSteps = []struct {
	name string
	is   func(w *ward, dead, target *rig.Node) bool
}{
	{"the voter is lost", func(w *ward, _, _ *rig.Node) bool { return w.told(raftgroup.EventReplicaLost) > 0 }},
	{"the target has a replica", func(w *ward, _, target *rig.Node) bool { return target.Up() && holds(target, w.s) }},
	{"the target is a learner", func(w *ward, _, _ *rig.Node) bool {
		_, st, ok := leadNode(w.Cluster, w.s)
		return ok && len(st.Learners) > 0
	}},
	{"the change is joint", func(w *ward, _, _ *rig.Node) bool {
		_, st, ok := leadNode(w.Cluster, w.s)
		return ok && st.Joint
	}},
	{"the voter is replaced", func(w *ward, _, _ *rig.Node) bool { return w.told(raftgroup.EventReplicaReplaced) > 0 }},
}

// TestReplacementDisturbed lets something happen at each step of a replacement:
// the dead node returns, the leader crashes, the target crashes or dies for
// good, the network splits the leader off. In the end the group is whole, on
// nodes that run, and nothing is lost.
func TestReplacementDisturbed(t *testing.T) {
	t.Parallel()
	for k, disturb := range []struct {
		name string
		do   func(w *ward, dead, target *rig.Node)
	}{
		{"the dead node returns", func(_ *ward, dead, _ *rig.Node) { dead.Start() }},
		{"the leader crashes", func(w *ward, _, _ *rig.Node) {
			if leader, _, ok := leadNode(w.Cluster, w.s); ok {
				leader.Crash(w.Seed)
				time.Sleep(3 * time.Second)
				leader.Start()
			}
		}},
		{"the target crashes", func(w *ward, _, target *rig.Node) {
			target.Crash(w.Seed)
			time.Sleep(3 * time.Second)
			target.Start()
		}},
		{"the target dies for good", func(w *ward, _, target *rig.Node) { target.Crash(w.Seed) }},
		{"the leader is cut off for a while", func(w *ward, _, _ *rig.Node) {
			if leader, _, ok := leadNode(w.Cluster, w.s); ok {
				w.Partition([]*rig.Node{leader})
				time.Sleep(4 * time.Second)
				w.Partition()
			}
		}},
	} {
		for i, step := range healSteps {
			if *seeds <= 8 && (i+k)%2 == 1 {
				continue // with -seeds 9 or more: all of them
			}
			t.Run(disturb.name+" when "+step.name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := newWard(t, uint64(30+i), 5, 3)
					leader, _, _ := leadNode(w.Cluster, w.s)
					dead := w.Nodes[(slices.Index(w.Nodes, leader)+1)%3]
					w.write(w.Nodes[(slices.Index(w.Nodes, leader)+2)%3])
					w.write(leader)
					time.Sleep(time.Second)
					dead.Crash(w.Seed)
					// Which of the two others is the target is told by where a replica appears.
					time.Sleep(grace - time.Second)
					limit := time.Now().Add(20 * time.Second)
					target := w.Nodes[3]
					for !step.is(w, dead, target) {
						if holds(w.Nodes[4], w.s) {
							target = w.Nodes[4]
						}
						if time.Now().After(limit) {
							t.Fatalf("seed %d: never came to where %s", w.Seed, step.name)
						}
						time.Sleep(time.Millisecond)
					}
					disturb.do(w, dead, target)
					w.Wait(3*time.Minute, "the group is whole", func() bool { return w.healed(3) })
					w.verify()
				})
			})
		}
	}
}

// TestTwoOfFiveLost loses two voters of five at the same moment: both are
// replaced, one after the other.
func TestTwoOfFiveLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t, 41, 7, 5)
		leader, _, _ := leadNode(w.Cluster, w.s)
		at := slices.Index(w.Nodes, leader)
		w.write(w.Nodes[(at+1)%5])
		w.Nodes[(at+2)%5].Crash(1)
		w.Nodes[(at+3)%5].Crash(1)
		w.Wait(time.Minute, "five voters", func() bool { return w.healed(5) })
		if n := w.told(raftgroup.EventReplicaReplaced); n != 2 {
			t.Errorf("told of %d replacements, want 2", n)
		}
		w.verify()
	})
}

// TestQuorumLostAndBack loses two voters of three: nobody touches the membership.
// One comes back after much longer than the grace: then the other is replaced.
func TestQuorumLostAndBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t, 42, 5, 3)
		w.write(w.Nodes[0])
		time.Sleep(time.Second)
		w.Nodes[1].Crash(1)
		w.Nodes[2].Crash(2)
		time.Sleep(4 * grace)
		for _, n := range w.Nodes[3:] {
			if holds(n, w.s) {
				t.Fatal("a replica was placed without a quorum")
			}
		}
		if g, _ := w.Nodes[0].Host.Group(w.s); len(g.Status().Voters) != 3 || w.told(raftgroup.EventQuorumLost) == 0 {
			t.Fatalf("without a quorum: %+v", g.Status())
		}
		w.Nodes[1].Start()
		w.Wait(time.Minute, "three voters", func() bool { return w.healed(3) })
		w.verify()
	})
}

// TestPartitionHeals cuts a cluster in two, for longer than the grace: each
// side takes the other for dead. The majority's side heals; the other one changes
// nothing, and when they meet again, what was replaced there is removed.
func TestPartitionHeals(t *testing.T) {
	t.Parallel()
	for _, withLeader := range []bool{true, false} {
		t.Run(fmt.Sprint("the leader is in the minority: ", withLeader), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWard(t, 43, 5, 3)
				leader, _, _ := leadNode(w.Cluster, w.s)
				at := slices.Index(w.Nodes, leader)
				lone := leader
				if !withLeader {
					lone = w.Nodes[(at+1)%3]
				}
				others := slices.DeleteFunc(slices.Clone(w.Nodes[:3]), func(n *rig.Node) bool { return n == lone })
				w.write(lone)
				w.write(others[0])
				time.Sleep(time.Second)
				before, _ := lone.Host.Group(w.s)
				self := before.Status().Replica
				// The minority has a node that could take replicas, and none to spare.
				w.Partition([]*rig.Node{lone, w.Nodes[4]}, []*rig.Node{others[0], others[1], w.Nodes[3]})
				w.Wait(time.Minute, "the majority's side has replaced the voter", func() bool {
					nodes, _ := voterNodes(w.Cluster, w.s)
					return len(nodes) == 3 && !slices.Contains(nodes, lone)
				})
				time.Sleep(4 * grace)
				g, here := lone.Host.Group(w.s)
				if !here || g.Status().Replica != self || len(g.Status().Voters) != 3 || g.Status().IsLeader || holds(w.Nodes[4], w.s) {
					t.Fatalf("the minority has changed something: %+v", g.Status())
				}
				w.Partition()
				w.Wait(2*time.Minute, "the replica there is another one", func() bool {
					g, here := lone.Host.Group(w.s)
					return here && g.Status().Replica != self && w.healed(3)
				})
				w.verify()
			})
		})
	}
}

// TestDataCenterLostAndBack loses one of three data centers, two nodes each,
// with voters of several structures: they heal in the two that are left, and
// when it is back, spread over three again.
func TestDataCenterLostAndBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t, 44, 6, 3, "a", "b", "c")
		w.write(w.Nodes[0])
		w.write(w.Nodes[1])
		lost := []*rig.Node{w.Nodes[2], w.Nodes[5]}
		for i, n := range lost {
			n.Crash(uint64(i))
		}
		w.Wait(time.Minute, "three voters in two data centers", func() bool { return w.healed(3) })
		for _, n := range lost {
			n.Start()
		}
		w.Wait(2*time.Minute, "a voter in each data center", func() bool {
			nodes, learners := voterNodes(w.Cluster, w.s)
			centers := make(map[string]bool)
			for _, n := range nodes {
				centers[n.DataCenter] = true
			}
			return len(nodes) == 3 && len(centers) == 3 && learners == 0 && w.healed(3)
		})
		w.verify()
	})
}

// TestRollingRestart restarts every node, one after the other, under load:
// nothing is lost or comes twice, nothing is replaced, and no pause between two
// commits is longer than two election time-outs.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t, 45, 4, 3)
		time.Sleep(time.Second)
		// The fourth subscribes, and is restarted last.
		if err := w.Nodes[3].Host.Join(w.s, w.Nodes[0].ID); err != nil {
			t.Fatal(err)
		}
		x := w.write(w.Nodes[3])
		w.Wait(time.Minute, "load", func() bool { return x.j.count() > 10 })
		var worst time.Duration
		watch := make(chan struct{})
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			last, at := 0, time.Now()
			for {
				select {
				case <-watch:
					return
				case <-time.After(10 * time.Millisecond):
				}
				if n := x.j.count(); n != last {
					last, at = n, time.Now()
				}
				worst = max(worst, time.Since(at))
			}
		}()
		for _, n := range w.Nodes[:3] {
			n.Stop()
			time.Sleep(2 * time.Second)
			n.Start()
			w.Wait(time.Minute, "it has caught up", func() bool {
				_, st, ok := leadNode(w.Cluster, w.s)
				g, here := n.Host.Group(w.s)
				return ok && here && g.Status().Applied+5 > st.Commit && g.Status().LeaderNode != id.Node{}
			})
			time.Sleep(time.Second)
		}
		close(watch)
		<-watched
		// Raft draws its time-outs between one and two seconds here.
		if limit := 4 * time.Second; worst > limit {
			t.Errorf("the longest pause was %s, more than %s", worst, limit)
		}
		w.Nodes[3].Stop()
		w.Nodes[3].Start()
		if n := w.told(raftgroup.EventReplicaLost); n != 0 {
			t.Errorf("%d replicas were given up during restarts", n)
		}
		t.Logf("longest pause %s", worst)
		w.verify()
	})
}
