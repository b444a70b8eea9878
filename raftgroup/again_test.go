package raftgroup_test

import (
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/wal"
)

// again is a node on which a replica that stood over damage is about to start
// again, while its group has replaced it. A subscription hangs on it.
type again struct {
	*rotten
	faulty *faultyLog
	old    *raftgroup.Group // what the replica was before
	j      *journal
}

// newAgain has the replica start again as soon as refusal lets it.
func newAgain(t *testing.T, refusal func(wal.Update) error) *again {
	t.Helper()
	a := &again{rotten: newRotten(t, raftgroup.Options{}), faulty: &faultyLog{}}
	a.propose(50)
	a.rot()
	a.victim.Stop()
	a.Add("dc4").Start()
	a.Wait(5*time.Minute, "a voter in its place", func() bool { return onlyOn(a.Cluster, rig.Structure(9), a.Nodes[0], a.Nodes[1], a.Nodes[3]) })
	tune := a.Tune
	a.Tune = func(cfg *raftgroup.Config) {
		if cfg.Node == a.victim.ID {
			a.faulty.Log = a.victim.Log
			cfg.Log = a.faulty
		}
		tune(cfg)
	}
	a.faulty.refuseSome(refusal)
	a.victim.Start()
	a.old, _ = a.victim.Host.Group(rig.Structure(9))
	a.j = newJournal(t)
	a.j.subscribe(a.victim, raftgroup.SubscriptionConfig{Structure: rig.Structure(9)})
	return a
}

// end waits until the subscription has all, on the only replica of its node.
func (a *again) end() {
	a.T.Helper()
	a.propose(10)
	a.Wait(5*time.Minute, "the subscription has all", func() bool { return a.j.count() == a.first.count() })
	same(a.T, a.first, a.j)
	st := a.victim.Host.Groups()
	if n := len(a.victim.Log.Groups()); n != 1 || len(st) != 1 || st[0].Replica == 3 || st[0].Failed {
		a.T.Errorf("%d logs here, and %+v", n, st)
	}
	for _, err := range a.j.errors() {
		if strings.Contains(err.Error(), wal.ErrUnknownGroup.Error()) {
			a.T.Errorf("a log was removed under its replica: %v", err)
		}
	}
	a.StopAll()
	<-a.first.done
	<-a.j.done
}

// TestRemovedSinceItStartedAgain: a replica asks what it is, starts again, and then
// is told that it was removed. It goes, and another one comes.
func TestRemovedSinceItStartedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newAgain(t, nil)
		a.Wait(time.Minute, "it starts again", func() bool { g, here := a.victim.Host.Group(rig.Structure(9)); return here && g != a.old })
		a.from.Store(math.MaxUint64)
		a.victim.Host.AskStanding(a.old)
		a.end()
	})
}

// fullFor says of which writes there is no room, and tells of each that it has refused.
func fullFor(which func(wal.Update) bool) (refuse func(wal.Update) error, refused chan struct{}) {
	refused = make(chan struct{}, 1)
	return func(u wal.Update) error {
		if !which(u) {
			return nil
		}
		select {
		case refused <- struct{}{}:
		default:
		}
		return wal.ErrDiskFull
	}, refused
}

// TestRemovedBeforeItStartsAgain: the disk has no room for a replica to start
// again, and meanwhile it is told that it was removed. It does not start any more,
// also where there is no room for its removal either at first.
func TestRemovedBeforeItStartsAgain(t *testing.T) {
	t.Parallel()
	for name, full := range map[string]func(wal.Update) bool{
		"room for a removal": func(u wal.Update) bool { return u.Meta != nil },
		"no room":            func(u wal.Update) bool { return u.Meta != nil || u.Remove },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				refuse, refused := fullFor(full)
				a := newAgain(t, refuse)
				<-refused
				a.from.Store(math.MaxUint64)
				a.victim.Host.AskStanding(a.old)
				time.Sleep(time.Minute)
				for _, g := range a.victim.Host.Groups() {
					if g.Replica == 3 {
						t.Errorf("it has started again: %+v", g)
					}
				}
				a.faulty.refuseSome(nil)
				a.end()
			})
		})
	}
}

// TestRemovedAsItStartsAgain: the word comes while the record with which a
// replica starts again is being written.
func TestRemovedAsItStartsAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newAgain(t, nil)
		a.faulty.hold(func(u wal.Update) bool { return u.Meta != nil })
		a.Wait(time.Minute, "the record to be written", func() bool { return a.faulty.waiting() > 0 })
		a.from.Store(math.MaxUint64)
		a.victim.Host.AskStanding(a.old)
		time.Sleep(2 * time.Second)
		a.faulty.release()
		a.end()
	})
}

// TestVacateAReplicaThatCannotStartAgain: a node leaves while one of its replicas
// cannot start again, since the disk is full, or has failed since. The group has
// replaced it long since.
func TestVacateAReplicaThatCannotStartAgain(t *testing.T) {
	t.Parallel()
	for name, fails := range map[string]bool{"a full disk": false, "a disk that fails": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				refuse, refused := fullFor(func(u wal.Update) bool { return u.Meta != nil })
				a := newAgain(t, refuse)
				<-refused
				if fails {
					a.faulty.refuse(wal.ErrFailed)
					time.Sleep(time.Minute)
				}
				if err := vacate(t, a.victim, 5*time.Minute); err != nil {
					t.Error(err)
				}
				a.StopAll()
				<-a.first.done
				<-a.j.done
			})
		})
	}
}
