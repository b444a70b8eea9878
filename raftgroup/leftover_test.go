package raftgroup_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/pb/grouppb"
	"github.com/copycat-replication/copycat/raftgroup"
)

// snapshotNames lists the files that the only replica on a node has.
func snapshotNames(t testing.TB, n *rig.Node) []string {
	t.Helper()
	names, err := n.FS.List("snapshots/0000000000000001")
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestStartRemovesHalfMadeSnapshots: a process that ends while it writes a snapshot
// leaves a part as large as the disk allows. The next start removes it, though nobody
// makes another snapshot: there may be no room for one. What was half fetched stays,
// since that goes on.
func TestStartRemovesHalfMadeSnapshots(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 1, 1)
		n := c.Nodes[0]
		n.Start()
		s := rig.Structure(9)
		c.Born(s, 1, raftgroup.Options{SnapshotEntries: 100})
		j := subscribe(t, n, raftgroup.SubscriptionConfig{Structure: s})
		j.propose("a", 250)
		c.Wait(time.Minute, "a snapshot", func() bool { return n.Host.Groups()[0].Snapshot.Commits >= 200 })
		held := n.Host.Groups()[0].Snapshot
		n.Stop()
		<-j.done
		before := snapshotNames(t, n)
		for _, name := range []string{"make-7.tmp", strings.Repeat("0", 33) + "-abc.part", "0000000000000001-abc.bad"} {
			f, err := n.FS.Create(path.Join("snapshots/0000000000000001", name))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt(make([]byte, 1<<20), 0); err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
		n.Start()
		defer c.StopAll()
		var names []string
		c.Wait(time.Minute, "the sweep", func() bool {
			names = snapshotNames(t, n)
			return !slices.Contains(names, "make-7.tmp")
		})
		if want := append(slices.Clone(before), "0000000000000001-abc.bad", strings.Repeat("0", 33)+"-abc.part"); len(before) == 0 || !slices.Equal(slices.Sorted(slices.Values(want)), names) {
			t.Errorf("files %q, before the end %q", names, before)
		}
		if err := n.Snapshots.Verify(1, held); err != nil {
			t.Error(err)
		}
	})
}

// TestCutTransfersDoNotPileUp: transfers of snapshots are cut, one after the other,
// and each time there is a newer one when the replica goes on. What came of those
// before it is of no use, and goes before the next one is there.
func TestCutTransfersDoNotPileUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLagging(t, 1)
		defer l.stop()
		var asked atomic.Uint64
		l.net.onFetch(func(ctx context.Context, to id.Node, req grouppb.FetchRequest) (io.ReadCloser, error) {
			asked.Store(req.Ref.Index)
			in, err := l.net.open(ctx, t, to, req)
			if err != nil {
				return nil, err
			}
			return stream{io.MultiReader(io.LimitReader(in, 200), cutReader{}), in}, nil
		})
		l.moveOn("a")
		for _, name := range []string{"b", "c", "d"} {
			before := asked.Load()
			l.cutOff()
			l.moveOn(name)
			l.Net.Heal()
			l.Wait(time.Minute, "the fetch of a newer one", func() bool { return asked.Load() > before })
		}
		time.Sleep(5 * time.Second)
		// One that is announced, and one that is offered.
		if names := snapshotNames(t, l.behind); len(names) > 2 {
			t.Errorf("files %q", names)
		}
		l.net.onFetch(func(ctx context.Context, to id.Node, req grouppb.FetchRequest) (io.ReadCloser, error) {
			return l.net.open(ctx, t, to, req)
		})
		l.Wait(2*time.Minute, "the third to catch up", func() bool { return l.snap(2) == l.snap(0) })
	})
}

type cutReader struct{}

func (cutReader) Read([]byte) (int, error) { return 0, errors.New("the test cuts this transfer") }

// TestFoundSnapshotSurvivesAPowerCut: the directory's sync fails behind the rename
// that gives a fetched snapshot its name. The next try finds the file, and must not
// name it in the log as long as a power cut may take it.
func TestFoundSnapshotSurvivesAPowerCut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLagging(t, 1)
		defer l.stop()
		var failed atomic.Int64
		l.behind.FS.SetFault(func(op vfs.Op, name string, _, _ int64) error {
			// The first sync is that of the new directory's own name, with its parent.
			if op == vfs.OpSyncDir && path.Base(name) == "0000000000000001" && failed.CompareAndSwap(0, 1) {
				return fmt.Errorf("a test says so")
			}
			return nil
		})
		l.moveOn("a")
		l.Wait(2*time.Minute, "the snapshot at the third", func() bool { return l.snap(2) == l.snap(0) })
		if failed.Load() == 0 {
			t.Fatal("no sync has failed")
		}
		after := l.behind.FS.CrashClone(vfs.LoseAll)
		l.cutOff()
		l.behind.Stop()
		l.behind.FS = after
		l.behind.Start()
		if st := l.behind.Host.Groups()[0]; st.Role == "waiting for snapshot" || st.Snapshot.Index == 0 {
			t.Errorf("after a power cut: %+v", st)
		}
	})
}

// TestRemovedAmidItsFetch: a replica is removed while the snapshot that it lacks is on
// its way. The transfer ends, no other holder is asked for the same, and nothing of it
// stays on the disk.
func TestRemovedAmidItsFetch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLagging(t, 1)
		defer l.stop()
		var asked atomic.Int64
		arrives := make(chan struct{})
		l.net.onFetch(func(ctx context.Context, to id.Node, req grouppb.FetchRequest) (io.ReadCloser, error) {
			asked.Add(1)
			in, err := l.net.open(ctx, t, to, req)
			if err != nil {
				return nil, err
			}
			return stream{io.MultiReader(io.LimitReader(in, 200), &slowReader{arrives, in}), in}, nil
		})
		l.moveOn("a")
		l.Wait(time.Minute, "the fetch", func() bool { return asked.Load() == 1 })
		time.Sleep(time.Second)
		if err := l.behind.Host.RemoveReplica(l.structure); err != nil {
			t.Fatal(err)
		}
		l.cutOff() // it would get another replica
		close(arrives)
		time.Sleep(5 * time.Second)
		if n := asked.Load(); n != 1 {
			t.Errorf("asked for %d times", n)
		}
		if names, err := l.behind.FS.List("snapshots"); err != nil || len(names) > 0 {
			t.Errorf("left on the disk: %q, %v", names, err)
		}
	})
}

// slowReader waits, and then gives a little at a time.
type slowReader struct {
	arrives <-chan struct{}
	io.Reader
}

func (r *slowReader) Read(p []byte) (int, error) {
	<-r.arrives
	return r.Reader.Read(p[:min(len(p), 10)])
}
