package raftgroup_test

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/pb/grouppb"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/wal"
)

// lagging is a group of three whose third member has a log and a network with
// faults, and may be cut off until the log before it is gone.
type lagging struct {
	*rig.Cluster
	structure id.Structure
	first     *journal
	behind    *rig.Node
	log       *faultyLog
	net       *faultyNet
}

func newLagging(t *testing.T, seed uint64) *lagging {
	t.Helper()
	l := &lagging{Cluster: rig.New(t, 3, seed), structure: rig.Structure(9)}
	l.behind = l.Nodes[2]
	l.Tune = func(cfg *raftgroup.Config) {
		cfg.CompactionTail, cfg.SessionTimeout = 1, time.Hour
		if cfg.Node == l.behind.ID {
			l.log, l.net = &faultyLog{Log: l.behind.Log}, &faultyNet{Network: cfg.Network}
			cfg.Log, cfg.Network = l.log, l.net
		}
	}
	l.StartAll()
	l.Born(l.structure, 3, raftgroup.Options{SnapshotEntries: 100})
	l.first = subscribe(t, l.Nodes[0], raftgroup.SubscriptionConfig{Structure: l.structure})
	return l
}

func (l *lagging) stop() {
	l.StopAll()
	<-l.first.done
}

// snap returns which snapshot a node holds.
func (l *lagging) snap(node int) raftgroup.SnapshotRef {
	return l.Nodes[node].Host.Groups()[0].Snapshot
}

// cutOff stops what goes between the third member and the others.
func (l *lagging) cutOff() {
	for _, o := range l.Nodes[:2] {
		l.Net.Cut(o.ID, l.behind.ID)
		l.Net.Cut(l.behind.ID, o.ID)
	}
}

// moveOn has the two others go on until they hold a newer snapshot.
func (l *lagging) moveOn(name string) {
	l.T.Helper()
	before := l.snap(0).Commits
	l.first.propose(name, 140)
	l.Wait(2*time.Minute, "a snapshot at both", func() bool { return l.snap(0).Commits > before && l.snap(1).Commits > before })
}

// TestOlderSnapshotDoesNotFollowAnInstall: while the frame of an offered
// snapshot is on its way to the disk, an older one arrives that was announced
// long ago. If its frame followed, the replica would name a snapshot from before
// the beginning of its log, and not start any more.
func TestOlderSnapshotDoesNotFollowAnInstall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLagging(t, 1)
		defer l.stop()
		var first atomic.Uint64
		slow := make(chan struct{})
		l.net.onFetch(func(ctx context.Context, to id.Node, req grouppb.FetchRequest) (io.ReadCloser, error) {
			first.CompareAndSwap(0, req.Ref.Index)
			if req.Ref.Index == first.Load() {
				<-slow
			}
			return l.net.open(ctx, t, to, req)
		})
		l.moveOn("a")
		l.Wait(time.Minute, "the third to fetch it", func() bool { return first.Load() != 0 })
		older := first.Load()
		l.cutOff()
		l.moveOn("b")

		installing := func(u wal.Update) bool { return u.Compact != nil }
		l.log.hold(installing)
		l.Net.Heal()
		l.Wait(time.Minute, "an install on its way to the disk", func() bool { return l.log.waiting() > 0 })
		newer := l.snap(0)
		close(slow)
		time.Sleep(3 * time.Second) // the older one is here
		l.cutOff()
		l.log.release()
		l.Wait(time.Minute, "the install", func() bool { return l.behind.Log.Groups()[0].Compacted.Index > older })
		time.Sleep(3 * time.Second)
		if got, log := l.snap(2), l.behind.Log.Groups()[0].Compacted; got.Index < log.Index {
			t.Errorf("the replica holds snapshot %d (the newer is %d, the older %d), its log begins after %d", got.Index, newer.Index, older, log.Index)
		}
		l.behind.Stop()
		l.behind.Start()
		if st := l.behind.Host.Groups()[0]; st.Failed || st.Snapshot.Index < newer.Index {
			t.Errorf("after a restart: %+v", st)
		}
	})
}

// TestDiskFullAmidFetchedOffer: while the file of an offered snapshot is on its
// way, the log store stops taking writes, and the group stands still over another
// one. Raft would take the offer then, and the frame for it could not be made.
// The replica reports that it does not take it, and catches up when there is room.
func TestDiskFullAmidFetchedOffer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLagging(t, 1)
		defer l.stop()
		var announced, offered atomic.Uint64
		here, arrives := make(chan struct{}), make(chan struct{})
		l.net.onFetch(func(ctx context.Context, to id.Node, req grouppb.FetchRequest) (io.ReadCloser, error) {
			switch announced.CompareAndSwap(0, req.Ref.Index); req.Ref.Index {
			case announced.Load():
				<-here
			default:
				offered.Store(req.Ref.Index)
				<-arrives
			}
			return l.net.open(ctx, t, to, req)
		})
		l.moveOn("a")
		l.Wait(time.Minute, "the fetch of what was announced", func() bool { return announced.Load() != 0 })
		l.cutOff()
		l.moveOn("b")
		l.Net.Heal()
		l.Wait(time.Minute, "the fetch of what is offered", func() bool { return offered.Load() != 0 })

		status := func() raftgroup.GroupStatus { return l.behind.Host.Groups()[0] }
		l.log.refuse(fmt.Errorf("%w: a test says so", wal.ErrDiskFull))
		close(here) // its frame is what the replica has to write
		l.Wait(time.Minute, "the replica to stand still", func() bool { return status().DiskFull })
		close(arrives)
		time.Sleep(3 * time.Second)
		if st := status(); st.Failed || !st.DiskFull {
			t.Errorf("with the file here and a full disk: %+v", st)
		}
		l.log.refuse(nil)
		l.Wait(2*time.Minute, "the third to catch up", func() bool {
			st := status()
			return st.Failed || st.Commits == 280 && st.Snapshot == l.snap(0)
		})
		if st := status(); st.Failed {
			t.Error(st.LastError)
		}
	})
}
