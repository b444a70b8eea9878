package raftgroup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/pb/grouppb"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/snapshot"
	"github.com/copycat-replication/copycat/wal"
)

// founded is a structure with one voter, on the first node, behind a snapshot of
// some 2 MB; the second node does not run yet, and has a network with hooks.
type founded struct {
	*rig.Cluster
	structure id.Structure
	first     *journal
	joiner    *rig.Node
	net       *faultyNet
}

func found(t *testing.T, seed uint64) *founded {
	t.Helper()
	f := &founded{Cluster: rig.New(t, 2, seed), structure: rig.Structure(9), net: &faultyNet{}}
	f.joiner = f.Nodes[1]
	f.Tune = func(cfg *raftgroup.Config) {
		cfg.CompactionTail = 1
		if cfg.Node == f.joiner.ID {
			f.net.Network = cfg.Network
			cfg.Network = f.net
		}
	}
	f.Nodes[0].Start()
	f.Born(f.structure, 1, raftgroup.Options{Voters: 1, SnapshotEntries: 100})
	f.first = newJournal(t, strings.Repeat("x", 2<<20))
	f.first.subscribe(f.Nodes[0], raftgroup.SubscriptionConfig{Structure: f.structure})
	f.first.propose("a", 150)
	f.Wait(time.Minute, "a snapshot", func() bool { return f.Nodes[0].Host.Groups()[0].Snapshot.Index > 0 })
	return f
}

func (f *founded) join(t *testing.T) {
	t.Helper()
	f.joiner.Start()
	if err := f.joiner.Host.Join(f.structure, f.Nodes[0].ID); err != nil {
		t.Fatal(err)
	}
}

func (f *founded) stop() {
	f.StopAll()
	<-f.first.done
}

// seeds lists the local numbers that have snapshot files at the joiner.
func (f *founded) seeds(t *testing.T) []uint64 {
	t.Helper()
	groups, err := f.joiner.Snapshots.Groups()
	if err != nil {
		t.Fatal(err)
	}
	return groups
}

// TestJoinStartsWhatWasPrepared: a node that was prepared for a birth, and has
// not heard yet that it is decided, joins the group that the others have
// started. It has one replica then, the one that was prepared.
func TestJoinStartsWhatWasPrepared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, 1)
		c.StartAll()
		defer c.StopAll()
		g := c.Genesis(rig.Structure(9), 3, raftgroup.Options{})
		for _, n := range c.Nodes {
			if err := n.Host.Prepare(t.Context(), g); err != nil {
				t.Fatal(err)
			}
		}
		born := id.Incarnation{Birth: 2}
		for _, n := range c.Nodes[:2] {
			if err := n.Host.StartPrepared(t.Context(), g.Token, born); err != nil {
				t.Fatal(err)
			}
		}
		late := c.Nodes[2].Host
		if err := late.Join(g.Group.Structure, c.Nodes[0].ID); err != nil {
			t.Fatal(err)
		}
		c.Wait(time.Minute, "a replica that has joined", func() bool {
			r, here := late.Group(g.Group.Structure)
			return here && r.Status().Applied > 0
		})
		if err := late.StartPrepared(t.Context(), g.Token, born); err != nil { // late, too
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if all := late.Groups(); len(all) != 1 || all[0].Replica != 3 || !all[0].Voter {
			t.Errorf("replicas %+v", all)
		}
	})
}

// TestJoinGoesOnWhereItWas: answers get lost and transfers are cut, and still a
// join takes one ReplicaID, one local number, and sends no byte twice.
func TestJoinGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := found(t, 1)
		defer f.stop()
		lost := 2
		f.net.answer = func(_ uint16, data []byte) ([]byte, error) {
			if lost > 0 {
				lost--
				return nil, errors.New("the answer is lost")
			}
			return data, nil
		}
		var offsets []int64
		f.net.onFetch(func(ctx context.Context, to id.Node, req grouppb.FetchRequest) (io.ReadCloser, error) {
			offsets = append(offsets, req.Offset)
			in, err := f.net.open(ctx, t, to, req)
			if err != nil || len(offsets) > 2 {
				return in, err
			}
			return stream{io.MultiReader(io.LimitReader(in, 700<<10), broken{}), in}, nil
		})
		f.join(t)
		f.Wait(time.Minute, "a learner", func() bool { _, l := voters(f.Cluster, f.structure); return l == 1 })
		for r := range f.Nodes[0].Host.Groups()[0].Learners {
			if r != 2 {
				t.Errorf("the replica has the ID %d, the first one that is free is 2", r)
			}
		}
		if len(offsets) != 3 || offsets[0] != 0 || offsets[1] < 512<<10 || offsets[2] < offsets[1]+512<<10 {
			t.Errorf("transfers began at %d", offsets)
		}
		if groups := f.seeds(t); !slices.Equal(groups, []uint64{1}) {
			t.Errorf("snapshot files under the local numbers %d", groups)
		}
	})
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("the transfer is cut") }

// TestJoinAsksForTheNewestSnapshot: the snapshot that the group has offered is
// gone before it could be fetched. The join asks again, and gets the newest
// under the same ReplicaID; what had come of the old one goes.
func TestJoinAsksForTheNewestSnapshot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := found(t, 1)
		defer f.stop()
		offered := f.Nodes[0].Host.Groups()[0].Snapshot
		var healed atomic.Bool
		f.net.onFetch(func(ctx context.Context, to id.Node, req grouppb.FetchRequest) (io.ReadCloser, error) {
			if !healed.Load() && req.Offset > 0 {
				return nil, errors.New("the holder is busy")
			}
			in, err := f.net.open(ctx, t, to, req)
			if err != nil || healed.Load() {
				return in, err
			}
			return stream{io.MultiReader(io.LimitReader(in, 700<<10), broken{}), in}, nil
		})
		f.join(t)
		time.Sleep(10 * time.Second)
		for i := 1; i < 4; i++ { // two are kept
			f.first.propose("b", 120)
			f.Wait(time.Minute, "another snapshot", func() bool { return f.Nodes[0].Host.Groups()[0].Snapshot.Commits > offered.Commits+uint64(100*i) })
		}
		healed.Store(true)
		f.Wait(time.Minute, "a learner", func() bool { _, l := voters(f.Cluster, f.structure); return l == 1 })
		if _, ok := f.Nodes[0].Host.Groups()[0].Learners[2]; !ok {
			t.Errorf("learners %v: the first ReplicaID that is free is 2", f.Nodes[0].Host.Groups()[0].Learners)
		}
		names, err := f.joiner.FS.List("snapshots/0000000000000001")
		old := fmt.Sprintf("%016x-", offered.Commits)
		if err != nil || slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, old) }) {
			t.Errorf("the old one began with %s; files %q, %v", old, names, err)
		}
	})
}

// TestCloseCutsAStalledTransfer: a stream that stands still, and that does not
// hear of the context, holds up a shutdown for no time; what had come goes,
// since the next process would not know what it is.
func TestCloseCutsAStalledTransfer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := found(t, 1)
		defer f.stop()
		stalled := make(chan struct{})
		f.net.onFetch(func(ctx context.Context, to id.Node, req grouppb.FetchRequest) (io.ReadCloser, error) {
			in, err := f.net.open(ctx, t, to, req)
			if err != nil {
				return nil, err
			}
			silent, w := io.Pipe() // nobody writes
			close(stalled)
			return stream{io.MultiReader(io.LimitReader(in, 700<<10), silent), closers{in, w}}, nil
		})
		f.join(t)
		<-stalled
		time.Sleep(time.Second)
		if groups := f.seeds(t); !slices.Equal(groups, []uint64{1}) {
			t.Errorf("nothing has come: %d", groups)
		}
		closed := make(chan error, 1)
		go func() { closed <- f.joiner.Host.Close() }()
		select {
		case err := <-closed:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(100 * time.Millisecond):
			t.Fatal("Close waits for the transfer")
		}
		if groups := f.seeds(t); len(groups) > 0 {
			t.Errorf("snapshot files under the local numbers %d", groups)
		}
	})
}

type closers [2]io.Closer

func (c closers) Close() error { return errors.Join(c[0].Close(), c[1].Close()) }

// TestJoinOfADeletedStructureEnds, and leaves nothing.
func TestJoinOfADeletedStructureEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := found(t, 1)
		defer f.stop()
		tried := make(chan struct{}, 1)
		f.net.onFetch(func(context.Context, id.Node, grouppb.FetchRequest) (io.ReadCloser, error) {
			select {
			case tried <- struct{}{}:
			default:
			}
			return nil, errors.New("no way")
		})
		f.join(t)
		<-tried
		if err := f.Nodes[0].Host.CommitDeleted(f.structure); err != nil {
			t.Fatal(err)
		}
		f.Wait(time.Minute, "the join's end", func() bool { return f.joiner.Host.Joins() == 0 })
		if groups := f.seeds(t); len(groups) > 0 {
			t.Errorf("snapshot files under the local numbers %d", groups)
		}
	})
}

// TestStartSweepsSeedsWithoutAReplica: a crash amid a join leaves files under a
// local number that no log knows. The next start removes them, and touches
// neither what replicas hold nor what was set aside with its log.
func TestStartSweepsSeedsWithoutAReplica(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 1, 1)
		n := c.Nodes[0]
		n.Start()
		s := rig.Structure(9)
		c.Born(s, 1, raftgroup.Options{SnapshotEntries: 100})
		j := subscribe(t, n, raftgroup.SubscriptionConfig{Structure: s})
		j.propose("a", 150)
		c.Wait(time.Minute, "a snapshot", func() bool { return n.Host.Groups()[0].Snapshot.Index > 0 })
		held := n.Host.Groups()[0].Snapshot
		n.Stop()
		<-j.done

		store, err := snapshot.OpenStore(snapshot.Options{FS: n.FS, Dir: "snapshots"})
		if err != nil {
			t.Fatal(err)
		}
		for _, local := range []uint64{77, 78} {
			w, err := store.Create(local, snapshot.Head{Structure: s, Index: 5, Term: 1})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(w, bytes.NewReader(make([]byte, 1<<20))); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Commit(); err != nil {
				t.Fatal(err)
			}
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		c.Tune = func(cfg *raftgroup.Config) {
			cfg.Log = &faultyLog{Log: n.Log, suspects: []wal.Suspect{{Group: 78, Why: "a test says so"}}}
		}
		n.Start()
		defer c.StopAll()
		var groups []uint64
		c.Wait(time.Minute, "the sweep", func() bool {
			groups, err = n.Snapshots.Groups()
			return err != nil || !slices.Contains(groups, 77)
		})
		if err != nil || !slices.Equal(groups, []uint64{1, 78}) {
			t.Errorf("snapshot files under the local numbers %d, %v", groups, err)
		}
		if err := n.Snapshots.Verify(1, held); err != nil {
			t.Error(err)
		}
	})
}
