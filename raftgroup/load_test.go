package raftgroup_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/wal"
)

// damage flips a bit in the user's bytes of a snapshot that a node holds.
func damage(t *testing.T, n *rig.Node, ref raftgroup.SnapshotRef) {
	t.Helper()
	name := fmt.Sprintf("snapshots/%016x/%016x-%016x-%x.snap", 1, ref.Commits, ref.Index, ref.Checksum)
	if err := n.FS.FlipBit(name, ref.Size-150, 1); err != nil {
		t.Fatal(err)
	}
}

// held waits until all nodes hold a snapshot of more than so many commits.
func held(c *rig.Cluster, commits uint64) raftgroup.SnapshotRef {
	c.T.Helper()
	c.Wait(time.Minute, "a snapshot everywhere", func() bool {
		for _, n := range c.Nodes {
			if n.Host.Groups()[0].Snapshot.Commits <= commits {
				return false
			}
		}
		return true
	})
	return c.Nodes[len(c.Nodes)-1].Host.Groups()[0].Snapshot
}

// TestLoadOfDamagedSnapshot: the file of a load turns out to be damaged inside
// the consumer's call. The call goes on until the file is fetched again; it
// does not fail, since the commits that follow would not fit to the consumer's
// state.
func TestLoadOfDamagedSnapshot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, 1)
		c.Tune = func(cfg *raftgroup.Config) { cfg.CompactionTail = 1000 }
		c.StartAll()
		s := rig.Structure(9)
		c.Born(s, 3, raftgroup.Options{SnapshotEntries: 100})
		first := subscribe(t, c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s})
		first.propose("a", 120)
		ref := held(c, 0)
		damage(t, c.Nodes[2], ref)
		late := subscribe(t, c.Nodes[2], raftgroup.SubscriptionConfig{Structure: s})
		c.Wait(time.Minute, "the load", func() bool { return late.count() == 120 })
		first.propose("b", 10)
		c.Wait(time.Minute, "what follows", func() bool { return late.count() == 130 })
		same(t, first, late)
		if len(late.errors()) == 0 {
			t.Error("the damage was not reported")
		}
		c.Wait(time.Minute, "the file to be whole again", func() bool { return c.Nodes[2].Snapshots.Verify(1, ref) == nil })
		c.StopAll()
		<-first.done
		<-late.done
	})
}

// TestLoadFallsBackToNewer: a load waits for its consumer while a newer
// snapshot takes the place of its file, and the file goes bad. The consumer gets
// the newer one, and no commit that is in it.
func TestLoadFallsBackToNewer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, 1)
		c.Tune = func(cfg *raftgroup.Config) { cfg.CompactionTail = 1000 }
		c.StartAll()
		s := rig.Structure(9)
		c.Born(s, 3, raftgroup.Options{SnapshotEntries: 100})
		first := subscribe(t, c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s})
		first.propose("a", 120)
		ref := held(c, 0)
		late := newJournal(t)
		late.gate = make(chan struct{}) // the nil waits
		late.subscribe(c.Nodes[2], raftgroup.SubscriptionConfig{Structure: s})
		time.Sleep(time.Second)
		first.propose("b", 120)
		held(c, ref.Commits)
		damage(t, c.Nodes[2], ref)
		close(late.gate)
		c.Wait(time.Minute, "all commits", func() bool { return late.count() >= 240 })
		time.Sleep(5 * time.Second)
		same(t, first, late)
		c.StopAll()
		<-first.done
		<-late.done
	})
}

// TestBaseTooLarge: a first provider that brings more than an entry can hold is
// told so, and asked again; with less, the structure begins.
func TestBaseTooLarge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, 1)
		c.StartAll()
		s := rig.Structure(9)
		c.Born(s, 3, raftgroup.Options{})
		large := make([]byte, 32<<20+1)
		calls := 0
		j := newJournal(t, "base")
		j.subscribe(c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s, Provider: func() ([]byte, error) {
			if calls++; calls <= 3 {
				return large, nil
			}
			return j.provide()
		}})
		j.propose("a", 10)
		c.Wait(time.Minute, "the base and ten commits", func() bool { return j.count() == 11 })
		other := subscribe(t, c.Nodes[1], raftgroup.SubscriptionConfig{Structure: s})
		c.Wait(time.Minute, "the same elsewhere", func() bool { return other.count() == 11 })
		same(t, j, other)
		errs := j.errors()
		if len(errs) != 3 {
			t.Errorf("%d errors: %v", len(errs), errs)
		}
		for _, err := range errs {
			if !errors.Is(err, raftgroup.ErrBaseTooLarge) {
				t.Error(err)
			}
		}
		c.StopAll()
		<-j.done
		<-other.done
	})
}

// TestSubscribeBehindAnUnnamedSnapshot: the frame that names a snapshot and lets
// go of the log before it is durable, and the replica has not heard so. Who
// begins to read in between finds neither; it waits, and nothing is wrong.
func TestSubscribeBehindAnUnnamedSnapshot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 1, 1)
		var log *faultyLog
		c.Tune = func(cfg *raftgroup.Config) {
			log = &faultyLog{Log: c.Nodes[0].Log}
			cfg.Log, cfg.CompactionTail = log, 1
		}
		c.StartAll()
		s := rig.Structure(9)
		c.Born(s, 1, raftgroup.Options{SnapshotEntries: 20})
		first := subscribe(t, c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s})
		log.silence(func(u wal.Update) bool { return u.Compact != nil })
		for range 40 {
			first.propose("a", 1)
			time.Sleep(100 * time.Millisecond)
		}
		c.Wait(time.Minute, "the frame of a snapshot", func() bool { return log.unanswered() > 0 })
		late := subscribe(t, c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s})
		time.Sleep(5 * time.Second)
		log.speak()
		c.Wait(time.Minute, "all changes", func() bool { return first.count() == 40 && late.count() == 40 })
		same(t, first, late)
		if errs := late.errors(); len(errs) > 0 {
			t.Errorf("errors: %v", errs)
		}
		c.StopAll()
		<-first.done
		<-late.done
	})
}
