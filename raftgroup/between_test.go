package raftgroup_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/wal"
)

// TestRemovalWaitsForRoom: a replica learns that it was removed, and the disk
// has no room for the record that says so. When it has, the log goes, and the
// node gets another replica for the subscription that waits; not before, since
// there would be two of one group at the next start.
func TestRemovalWaitsForRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 4, 11)
		s := rig.Structure(9)
		victim := c.Nodes[2]
		faulty := &faultyLog{}
		c.Tune = func(cfg *raftgroup.Config) {
			if cfg.Node == victim.ID {
				faulty.Log = victim.Log
				cfg.Log = faulty
			}
		}
		c.StartAll()
		c.Born(s, 3, raftgroup.Options{})
		l := startLoad(subscribe(t, c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s}))
		time.Sleep(5 * time.Second)
		victim.Stop()
		c.Wait(2*time.Minute, "a voter in its place", func() bool { return onlyOn(c, s, c.Nodes[0], c.Nodes[1], c.Nodes[3]) })

		full := func(u wal.Update) error {
			if u.Remove {
				return wal.ErrDiskFull
			}
			return nil
		}
		faulty.refuseSome(full)
		victim.Start()
		late := subscribe(t, victim, raftgroup.SubscriptionConfig{Structure: s})
		c.Wait(time.Minute, "the replica to hear that it was removed", func() bool { return !holds(victim, s) })
		time.Sleep(30 * time.Second)
		if holds(victim, s) || len(victim.Log.Groups()) != 1 {
			t.Errorf("another replica while the log of the first is here: %d logs", len(victim.Log.Groups()))
		}
		faulty.refuseSome(nil)
		c.Wait(time.Minute, "another replica", func() bool { return holds(victim, s) })
		l.end(t, c)
		c.Wait(time.Minute, "all changes", func() bool { return late.count() == l.j.count() })
		same(t, l.j, late)
		if n := len(victim.Log.Groups()); n != 1 {
			t.Errorf("%d logs on a node that has one replica", n)
		}
		c.StopAll()
		<-l.j.done
		<-late.done
	})
}

// refuseEntry has the log of a node refuse an entry of its only group, as it does
// when one was under way while the disk filled up: from then on it wants that one
// first.
func refuseEntry(t *testing.T, n *rig.Node) {
	t.Helper()
	group := n.Log.Groups()[0]
	n.FS.SetCapacity(n.FS.Used() + 1<<20)
	defer n.FS.SetCapacity(0)
	answer := make(chan error, 1)
	e := &raftpb.Entry{Index: new(group.LastIndex + 1), Term: new(group.HardState.GetTerm())}
	n.Log.Submit([]wal.Update{{Group: group.Group, Entries: []*raftpb.Entry{e}}}, func(err error) { answer <- err })
	if err := <-answer; !errors.Is(err, wal.ErrDiskFull) {
		t.Fatalf("an entry on a full disk: %v", err)
	}
}

// TestMendedReplicaWaitsForRoom: a replica that stood over damage is to start
// again, and the disk has no room for the record that it starts from. When it
// has, the replica goes on, as the voter that it was.
func TestMendedReplicaWaitsForRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		faulty := &faultyLog{}
		r := newRotten(t, raftgroup.Options{})
		r.propose(50)
		r.rot()
		r.victim.Stop()
		tune := r.Tune
		r.Tune = func(cfg *raftgroup.Config) {
			if cfg.Node == r.victim.ID {
				faulty.Log = r.victim.Log
				cfg.Log = faulty
			}
			tune(cfg)
		}
		refused := make(chan struct{}, 100)
		faulty.refuseSome(func(u wal.Update) error {
			if u.Meta == nil {
				return nil
			}
			select {
			case refused <- struct{}{}:
			default:
			}
			return wal.ErrDiskFull
		})
		r.victim.Start()
		again := newJournal(t)
		again.subscribe(r.victim, raftgroup.SubscriptionConfig{Structure: rig.Structure(9)})
		<-refused
		refuseEntry(t, r.victim)
		// Somebody wants a replica here: there is one, only not at this moment.
		if err := r.victim.Host.Join(rig.Structure(9), r.leader.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		faulty.refuseSome(nil)
		r.propose(10)
		r.whole(again)
		if n := len(r.victim.Log.Groups()); n != 1 {
			t.Errorf("%d logs on a node that has one replica", n)
		}
		r.StopAll()
		<-r.first.done
		<-again.done
	})
}

// TestSubscribeAsTheReplicaGoes: a program finds a replica here, and when it
// subscribes the group has just taken it away. Whoever took it has looked for
// subscriptions that wait, and there was none yet.
func TestSubscribeAsTheReplicaGoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDrains(t, rig.New(t, 2, 1))
		close(d.j.gate)
		close(d.j.sub.Propose())
		d.whole()
		d.remove()
		late := subscribe(t, d.n, raftgroup.SubscriptionConfig{Structure: d.s, Join: true})
		d.c.Wait(time.Minute, "a replica, and all changes", func() bool { return late.count() == behind })
		same(t, d.first, late)
		d.c.StopAll()
		<-d.first.done
		<-late.done
	})
}

// TestSubscribeAsTheReplicaGoesUnasked: the same for a subscription that does not
// ask for a replica itself, since its caller believes that there is one.
func TestSubscribeAsTheReplicaGoesUnasked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDrains(t, rig.New(t, 2, 1))
		close(d.j.gate)
		close(d.j.sub.Propose())
		d.whole()
		d.remove()
		passive := subscribe(t, d.n, raftgroup.SubscriptionConfig{Structure: d.s, Passive: true})
		time.Sleep(10 * time.Minute)
		if holds(d.n, d.s) {
			t.Error("a replica was got for a subscription that only follows")
		}
		late := subscribe(t, d.n, raftgroup.SubscriptionConfig{Structure: d.s})
		d.c.Wait(2*time.Minute, "a replica, and all changes", func() bool { return late.count() == behind && passive.count() == behind })
		same(t, d.first, late, passive)
		d.c.StopAll()
		<-d.first.done
		<-late.done
		<-passive.done
	})
}

// TestRemovalFailsHalfway: a replica was removed from its group while its node was
// away, and of its files here one cannot be removed. The subscription on it
// gets another replica all the same.
func TestRemovalFailsHalfway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 4, 11)
		s := rig.Structure(9)
		c.StartAll()
		c.Born(s, 3, raftgroup.Options{})
		n, rest := c.Nodes[2], []*rig.Node{c.Nodes[0], c.Nodes[1], c.Nodes[3]}
		first := subscribe(t, c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s})
		j := subscribe(t, n, raftgroup.SubscriptionConfig{Structure: s})
		first.propose("a", 10)
		c.Wait(time.Minute, "ten", func() bool { return j.count() == 10 })
		var failed atomic.Bool
		n.FS.SetFault(func(op vfs.Op, name string, _, _ int64) error {
			if op == vfs.OpRemove && strings.HasPrefix(name, "snapshots") && failed.CompareAndSwap(false, true) {
				return errors.New("a test keeps the file")
			}
			return nil
		})
		c.Partition(rest, []*rig.Node{n})
		c.Wait(2*time.Minute, "a voter in its place", func() bool { return onlyOn(c, s, rest...) })
		first.propose("b", 10)
		c.Partition(c.Nodes)
		c.Wait(10*time.Minute, "the others' changes", func() bool { return j.count() == 20 })
		if !failed.Load() {
			t.Error("nothing failed")
		}
		same(t, first, j)
		c.StopAll()
		<-first.done
		<-j.done
	})
}
