package raftgroup_test

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

// pace watches how long a journal is given nothing, at worst.
type pace struct {
	worst time.Duration
	stop  chan struct{}
	done  chan struct{}
}

func watchPace(j *journal) *pace {
	p := &pace{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		last, at := 0, time.Now()
		for {
			select {
			case <-p.stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
			if n := j.count(); n != last {
				last, at = n, time.Now()
			}
			p.worst = max(p.worst, time.Since(at))
		}
	}()
	return p
}

func (p *pace) end() time.Duration {
	close(p.stop)
	<-p.done
	return p.worst
}

// TestRollingMove has the three voters of a group move to three other nodes, one
// after the other, and back, under a subscription on each of the first three:
// healing takes the replica away under it, and its node gets another one for it.
// It goes on there where it was, without a load, and at once.
func TestRollingMove(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 6, 61)
		c.Net.SetLatency(10 * time.Millisecond)
		c.Tune = func(cfg *raftgroup.Config) { cfg.ReplaceAfter = grace }
		c.StartAll()
		s := rig.Structure(9)
		c.Born(s, 3, raftgroup.Options{SnapshotEntries: 1000})
		var js []*journal
		var loads []*load
		var made atomic.Int64 // a nil that a snapshot is made for is no load
		for i, n := range c.Nodes[:3] {
			j := newJournal(t)
			j.subscribe(n, raftgroup.SubscriptionConfig{Structure: s, Provider: func() ([]byte, error) {
				made.Add(1)
				return j.provide()
			}})
			js, loads = append(js, j), append(loads, startLoadAs(j, fmt.Sprintf("r0-n%d", i)))
		}
		c.Wait(2*time.Minute, "a snapshot", func() bool { _, st, ok := leadNode(c, s); return ok && st.Snapshot.Commits > 0 })
		reloads := func() int { return js[0].loaded() + js[1].loaded() + js[2].loaded() - int(made.Load()) }
		before := reloads()
		var paces []*pace
		for _, j := range js {
			paces = append(paces, watchPace(j))
		}
		var first []id.Replica
		for _, n := range c.Nodes[:3] {
			g, _ := n.Host.Group(s)
			first = append(first, g.Status().Replica)
		}
		for _, to := range [][]*rig.Node{c.Nodes[3:], c.Nodes[:3]} {
			var pins []string
			for _, n := range to {
				pins = append(pins, n.DataCenter)
			}
			change := raftgroup.OptionsChange{Options: raftgroup.Options{PinnedDataCenters: pins}, Fields: []raftgroup.Option{raftgroup.OptionPinnedDataCenters}}
			if _, err := c.Nodes[0].Host.Alter(t.Context(), s, change, c.Nodes[0].ID, c.Nodes[3].ID); err != nil {
				t.Fatal(err)
			}
			c.Wait(5*time.Minute, "the voters moved, and a new replica under each subscription", func() bool {
				nodes, _ := voterNodes(c, s)
				if len(nodes) != 3 || slices.ContainsFunc(nodes, func(n *rig.Node) bool { return !slices.Contains(to, n) }) {
					return false
				}
				for i, n := range c.Nodes[:3] {
					if g, here := n.Host.Group(s); !here || g.Status().Replica == first[i] {
						return false
					}
				}
				return true
			})
			time.Sleep(15 * time.Second)
		}
		var worst time.Duration
		for _, p := range paces {
			worst = max(worst, p.end())
		}
		again := reloads() - before
		t.Logf("%d loads; the longest pause of a subscription was %s", again, worst)
		if again > 0 || worst > time.Second {
			t.Errorf("%d loads, longest pause %s", again, worst)
		}
		sent := 0
		for _, l := range loads {
			close(l.stop)
			<-l.done
			sent += l.sent
		}
		c.Wait(time.Minute, "all of it everywhere", func() bool {
			return js[0].count() == sent && js[1].count() == sent && js[2].count() == sent
		})
		same(t, js...)
		check(t, js[0].all())
		c.StopAll()
	})
}

// TestAnotherReplicasLog takes the replica away under a subscription that has
// been handed everything, and makes it another one. What has been committed
// meanwhile is handed out from where it stood: also if the new replica begins
// behind a newer snapshot, as long as the others have the entries between. If
// they have not, it loads.
func TestAnotherReplicasLog(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		entries uint64 // from one snapshot to the next
		tail    uint64
		loads   int
	}{
		{"no snapshot", 1 << 20, 1024, 0},
		{"a newer snapshot", 100, 1024, 0},
		{"a newer snapshot, and no log before it", 100, 8, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := rig.New(t, 2, 7)
				r.Tune = func(cfg *raftgroup.Config) { cfg.CompactionTail = c.tail }
				r.StartAll()
				s := rig.Structure(9)
				r.Born(s, 1, raftgroup.Options{Voters: 1, SnapshotEntries: c.entries})
				n := r.Nodes[1]
				join := func() {
					t.Helper()
					if err := n.Host.Join(s, r.Nodes[0].ID); err != nil {
						t.Fatal(err)
					}
					r.Wait(time.Minute, "a learner", func() bool {
						g, ok := n.Host.Group(s)
						return ok && g.Status().Role == "learner"
					})
				}
				first := subscribe(t, r.Nodes[0], raftgroup.SubscriptionConfig{Structure: s})
				join()
				moved := subscribe(t, n, raftgroup.SubscriptionConfig{Structure: s})
				count := 0
				propose := func(n int) {
					for range n {
						first.sub.Propose() <- fmt.Appendf(nil, "r0-n0-%d", count)
						count++
						time.Sleep(time.Millisecond)
					}
				}
				propose(50)
				r.Wait(time.Minute, "the first changes", func() bool { return moved.count() == count })
				if err := n.Host.RemoveReplica(s); err != nil {
					t.Fatal(err)
				}
				propose(350)
				time.Sleep(3 * time.Second)
				held, _ := r.Nodes[0].Host.Group(s)
				if made := held.Status().Snapshot.Commits > 50; made != (c.entries < 1000) {
					t.Fatalf("the newest snapshot is of %d", held.Status().Snapshot.Commits)
				}
				join()
				propose(20)
				moved.sub.Propose() <- []byte("r0-n1-0") // its session lives
				r.Wait(time.Minute, "everything", func() bool { return moved.count() == count+1 && first.count() == count+1 })
				same(t, first, moved)
				check(t, moved.all())
				if got := moved.loaded(); got != c.loads {
					t.Errorf("%d loads, want %d", got, c.loads)
				}
				for _, err := range moved.errors() {
					t.Error(err)
				}
				r.StopAll()
			})
		})
	}
}
