package raftgroup_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/wal"
)

// vacate has a node leave in order, up to its end.
func vacate(t *testing.T, n *rig.Node, patience time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	n.SetLeaving(true)
	err := n.Host.Vacate(ctx)
	if err != nil {
		n.SetLeaving(false)
	}
	return err
}

// TestVacate has each of four nodes leave, the leader's and the others', under
// load from a node that stays: the group has its voters elsewhere before the
// node goes, and nothing is lost.
func TestVacate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		nodes, voters int
		leader        bool
		want          int // voters
		learners      int
	}{
		{"a follower, one can take its place", 4, 3, false, 3, 0},
		{"the leader, one can take its place", 4, 3, true, 3, 0},
		{"a follower of three", 3, 3, false, 1, 1},
		{"the leader of three", 3, 3, true, 1, 1},
		{"the only voter", 2, 1, true, 1, 0},
		{"one of five", 5, 5, true, 3, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				cl := rig.New(t, c.nodes, 21)
				s := rig.Structure(9)
				cl.StartAll()
				cl.Born(s, c.voters, raftgroup.Options{Voters: uint32(max(c.voters, 3))})
				cl.Wait(time.Minute, "a leader", func() bool { _, _, ok := leadNode(cl, s); return ok })
				leader, _, _ := leadNode(cl, s)
				goes := leader
				if !c.leader {
					goes = cl.Nodes[(slices.Index(cl.Nodes, leader)+1)%c.voters]
				}
				stays := cl.Nodes[(slices.Index(cl.Nodes, goes)+1)%c.nodes]
				mine := subscribe(t, goes, raftgroup.SubscriptionConfig{Structure: s})
				mine.propose("mine", 10)
				cl.Wait(time.Minute, "own commits", func() bool { return mine.count() == 10 })
				close(mine.sub.Propose())
				<-mine.done
				if !holds(stays, s) {
					cl.Wait(time.Minute, "a replica on the node that stays", func() bool { return holds(stays, s) })
				}
				other := subscribe(t, stays, raftgroup.SubscriptionConfig{Structure: s})
				cl.Wait(time.Minute, "all", func() bool { return other.count() == 10 })
				if err := vacate(t, goes, 2*time.Minute); err != nil {
					t.Fatal(err)
				}
				if holds(goes, s) || len(goes.Log.Groups()) > 0 {
					t.Fatal("the replica is still there")
				}
				if err := goes.Host.Join(s, stays.ID); !errors.Is(err, raftgroup.ErrLeaving) {
					t.Fatalf("join: %v", err)
				}
				goes.Stop()
				cl.Wait(time.Minute, "the group is whole without it", func() bool {
					nodes, learners := voterNodes(cl, s)
					return len(nodes) == c.want && learners == c.learners && !slices.Contains(nodes, goes)
				})
				other.propose("after", 10)
				cl.Wait(time.Minute, "it takes changes", func() bool { return other.count() == 20 })
				cl.StopAll()
			})
		})
	}
}

// TestVacateWaits has a node want to leave whose going would leave too few: a
// dead voter is no reason to have fewer. It stays, as it was, and says what is
// here; once the dead one is back, it can go.
func TestVacateWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, 22)
		s := rig.Structure(9)
		c.StartAll()
		c.Born(s, 3, raftgroup.Options{})
		c.Wait(time.Minute, "a leader", func() bool { _, _, ok := leadNode(c, s); return ok })
		c.Nodes[2].Stop()
		err := vacate(t, c.Nodes[1], 5*time.Minute)
		var left *raftgroup.VacateError
		if !errors.As(err, &left) || !errors.Is(err, context.DeadlineExceeded) || len(left.Left) != 1 || left.Left[0].Group.Structure != s {
			t.Fatalf("vacated: %v", err)
		}
		if !strings.Contains(err.Error(), "replica 3 is lost") {
			t.Errorf("does not say what it waited for: %v", err)
		}
		if _, st, ok := leadNode(c, s); !ok || len(st.Voters) != 3 || c.Nodes[1].Host.Leaving() {
			t.Fatalf("after giving up: %+v", st)
		}
		j := subscribe(t, c.Nodes[1], raftgroup.SubscriptionConfig{Structure: s})
		j.propose("still", 10)
		c.Wait(time.Minute, "it goes on", func() bool { return j.count() == 10 })
		c.Nodes[2].Start()
		if err := vacate(t, c.Nodes[1], time.Minute); err != nil {
			t.Fatal(err)
		}
		<-j.done // ended with the leave
		c.StopAll()
	})
}

// TestVacateWithASpareThatRefuses has a node leave, and the only one that could
// take its place refuse for good: its disk is full, say. What is waited for is
// said on the node that leaves; after some minutes the group goes on with fewer
// voters. With yet another spare, that one gets the replica.
func TestVacateWithASpareThatRefuses(t *testing.T) {
	t.Parallel()
	for _, spares := range []int{1, 2} {
		t.Run(fmt.Sprint(spares), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := rig.New(t, 3+spares, 24)
				refuses := c.Nodes[3]
				c.Tune = func(cfg *raftgroup.Config) {
					if cfg.Node == refuses.ID {
						disk := &faultyLog{Log: refuses.Log}
						disk.refuse(wal.ErrDiskFull)
						cfg.Log = disk
					}
				}
				s := rig.Structure(9)
				c.StartAll()
				c.Born(s, 3, raftgroup.Options{})
				c.Wait(time.Minute, "a leader", func() bool { _, _, ok := leadNode(c, s); return ok })
				goes, _, _ := leadNode(c, s)
				began, left := time.Now(), make(chan error, 1)
				go func() { left <- vacate(t, goes, time.Hour) }()
				if spares == 1 {
					c.Wait(30*time.Second, "why it is still here, said here", func() bool {
						g, ok := goes.Host.Group(s)
						return ok && strings.Contains(g.Status().Waits, refuses.ID.String()+" did not get a replica") && strings.Contains(g.Status().Waits, "disk full")
					})
				}
				if err := <-left; err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); spares == 1 && took < 30*time.Second || took > 4*time.Minute {
					t.Errorf("it left after %s", took)
				}
				want := 2*spares - 1
				c.Wait(time.Minute, "the group is whole without it", func() bool {
					nodes, _ := voterNodes(c, s)
					return len(nodes) == want && !slices.Contains(nodes, goes) && !slices.Contains(nodes, refuses)
				})
				c.StopAll()
			})
		})
	}
}

// TestVacateTakesNoBirths has a node that leaves, and one that has left, asked
// to be a first member of a new group: its only voter would go with the node.
// What was prepared before is waited for, and can be started.
func TestVacateTakesNoBirths(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 1, 23)
		c.StartAll()
		h := c.Nodes[0].Host
		early, late := c.Genesis(rig.Structure(9), 1, raftgroup.Options{}), c.Genesis(rig.Structure(10), 1, raftgroup.Options{})
		if err := h.Prepare(context.Background(), early); err != nil {
			t.Fatal(err)
		}
		left := make(chan error, 1)
		go func() { left <- vacate(t, c.Nodes[0], time.Hour) }()
		c.Wait(time.Minute, "it leaves", h.Leaving)
		if err := h.Prepare(context.Background(), late); !errors.Is(err, raftgroup.ErrLeaving) {
			t.Errorf("prepared on a node that leaves: %v", err)
		}
		if err := h.Prepare(context.Background(), early); err != nil {
			t.Errorf("what is prepared, prepared again: %v", err)
		}
		if err := h.DiscardPrepared(context.Background(), early.Token); err != nil {
			t.Fatal(err)
		}
		if err := <-left; err != nil {
			t.Fatal(err)
		}
		if err := h.Prepare(context.Background(), late); !errors.Is(err, raftgroup.ErrLeaving) {
			t.Errorf("prepared on a node that has left: %v", err)
		}
		if len(h.Prepared()) > 0 {
			t.Error("a replica of the birth is here")
		}
		c.StopAll()
	})
}

// TestVacateWaitsForTheLog has a node leave whose log takes its time: when Vacate
// returns, nothing of a replica is there, and nothing is still to be removed.
func TestVacateWaitsForTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 4, 22)
		var logs []*lateLog
		c.Tune = func(cfg *raftgroup.Config) {
			l := &lateLog{LogStore: cfg.Log, queue: make(chan func(), 1<<10)}
			go l.work()
			logs, cfg.Log = append(logs, l), l
		}
		c.StartAll()
		defer func() {
			c.StopAll()
			for _, l := range logs {
				close(l.queue)
			}
		}()
		s := rig.Structure(9)
		c.Born(s, 3, raftgroup.Options{})
		c.Wait(time.Minute, "a leader", func() bool { _, _, ok := leadNode(c, s); return ok })
		goes, _, _ := leadNode(c, s)
		if err := vacate(t, goes, 5*time.Minute); err != nil {
			t.Fatal(err)
		}
		if left := goes.Log.Groups(); len(left) > 0 {
			t.Errorf("left in the log of a vacant node: %+v", left)
		}
	})
}

// lateLog hands on each update a while later.
type lateLog struct {
	raftgroup.LogStore
	queue chan func()
}

func (l *lateLog) work() {
	for f := range l.queue {
		time.Sleep(150 * time.Millisecond)
		f()
	}
}

func (l *lateLog) Submit(u []wal.Update, done func(error)) {
	l.queue <- func() { l.LogStore.Submit(u, done) }
}

// TestVacateWaitsForTheFiles looks, whenever a snapshot is removed on a node that
// leaves, whether the node counts itself vacant already: its process might end.
func TestVacateWaitsForTheFiles(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 4, 23)
		s := rig.Structure(9)
		c.StartAll()
		defer c.StopAll()
		c.Born(s, 3, raftgroup.Options{SnapshotEntries: 20})
		c.Wait(time.Minute, "a leader", func() bool { _, _, ok := leadNode(c, s); return ok })
		goes, _, _ := leadNode(c, s)
		stays := c.Nodes[(slices.Index(c.Nodes, goes)+1)%3]
		j := subscribe(t, stays, raftgroup.SubscriptionConfig{Structure: s})
		for i := range 10 {
			j.propose(fmt.Sprint(i), 20)
			time.Sleep(time.Second)
		}
		c.Wait(time.Minute, "snapshots where the node leaves", func() bool {
			found, err := goes.Snapshots.Groups()
			return err == nil && len(found) > 0
		})
		var removed atomic.Int64
		goes.FS.SetFault(func(op vfs.Op, name string, _, _ int64) error {
			if op == vfs.OpRemove && strings.Contains(name, "snapshots") {
				removed.Add(1)
				if goes.Host.IsVacant() {
					t.Errorf("vacant, and %s is still to be removed", name)
				}
			}
			return nil
		})
		if err := vacate(t, goes, 5*time.Minute); err != nil {
			t.Fatal(err)
		}
		if removed.Load() == 0 {
			t.Error("nothing was removed")
		}
	})
}
