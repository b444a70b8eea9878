package catalog_test

import (
	"crypto/rand"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/wal"
)

// rebuild rebuilds a group from a stopped node's replica.
func (w *world) rebuild(i int, s id.Structure) raftgroup.Rebuild {
	w.t.Helper()
	return w.rebuildWith(i, s, rand.Reader)
}

// rebuildWith is rebuild with the randomness given.
func (w *world) rebuildWith(i int, s id.Structure, random io.Reader) raftgroup.Rebuild {
	w.t.Helper()
	n := w.c.Nodes[i]
	l, err := wal.Open(wal.Options{FS: n.FS, Dir: "wal", SegmentSize: 4 << 20, Cold: n.Cold})
	if err != nil {
		w.t.Fatal(err)
	}
	l.Start()
	defer func() {
		if err := l.Close(); err != nil {
			w.t.Error(err)
		}
	}()
	var commit []byte
	if s == catalog.ID {
		if commit, err = catalog.RecoveryCommand(0, time.Now()); err != nil {
			w.t.Fatal(err)
		}
	}
	for _, st := range l.Groups() {
		rec, err := raftgroup.DecodeReplica(st.Meta)
		if err != nil {
			w.t.Fatal(err)
		}
		if rec.Group.Structure != s {
			continue
		}
		term, err := l.Term(st.Group, st.LastIndex)
		if err != nil {
			w.t.Fatal(err)
		}
		u, r, err := raftgroup.PlanRebuild(st, term, raftgroup.RebuildOrder{Node: n.ID, Commit: commit, At: time.Now(), Reason: "the others burned"}, random)
		if err != nil {
			w.t.Fatal(err)
		}
		done := make(chan error, 1)
		l.Submit([]wal.Update{u}, func(err error) { done <- err })
		if err := <-done; err != nil {
			w.t.Fatal(err)
		}
		return r
	}
	w.t.Fatalf("node %s has no replica of %s", n.DataCenter, s)
	return raftgroup.Rebuild{}
}

// TestRebuild loses two of three nodes for good, with a subscriber that has
// proposed on all of them, and rebuilds the structure and the catalog from the
// third one. The group grows again on new nodes; births go on, later than all
// before; then the lost nodes return: they are no second history, their
// replicas are set aside and kept, and their subscribers are told.
func TestRebuild(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		synctest.Test(t, func(t *testing.T) { testRebuild(t, seed) })
	}
}

func testRebuild(t *testing.T, seed uint64) {
	w := newWorld(t, 3, seed)
	defer w.end()
	w.found(3)
	s := rig.Structure(5)
	old := w.born(s, raftgroup.Options{SnapshotEntries: 20})
	before := w.reader(0, s)
	for range 50 {
		before.sub.Propose() <- []byte("old")
	}
	w.c.Wait(time.Minute, "commits", func() bool { return len(before.all()) >= 50 })
	time.Sleep(5 * time.Second)
	lost := w.reader(1, s)
	w.c.Wait(time.Minute, "commits", func() bool { return len(lost.all()) > 0 })
	for i := range w.c.Nodes {
		w.stop(i)
	}
	<-before.done
	<-lost.done

	// Node 0 is all that is left.
	made := w.rebuild(0, s)
	again := w.rebuild(0, catalog.ID)
	if !old.Incarnation.Less(made.To) || made.To.Birth != old.Incarnation.Birth || again.To == catalog.Incarnation {
		t.Fatalf("seed %d: rebuilt as %s and %s", seed, made.To, again.To)
	}
	w.c.Nodes[0].Start()
	group := id.Group{Structure: s, Incarnation: made.To}
	w.c.Wait(time.Minute, "a leader of the rebuilt group", func() bool { return w.leads(group) })
	r := w.reader(0, s)
	r.sub.Propose() <- []byte("new")
	w.c.Wait(time.Minute, "a commit of the rebuilt group", func() bool { return slices.Contains(r.all(), "new") })
	next := rig.Structure(6)
	born := w.born(next, raftgroup.Options{Voters: 1})
	if born.Incarnation.Birth <= 1<<32 {
		t.Errorf("seed %d: born at %d after the catalog was rebuilt", seed, born.Incarnation.Birth)
	}
	for _, dc := range []string{"dc4", "dc5"} {
		w.c.Add(dc).Start()
	}
	w.c.Wait(3*time.Minute, "three voters again", func() bool {
		g, ok := w.c.Nodes[0].Host.Group(s)
		return ok && len(g.Status().Voters) == 3 && !g.Status().Joint
	})
	w.c.Wait(3*time.Minute, "the catalog too", func() bool {
		g, ok := w.c.Nodes[0].Host.Group(catalog.ID)
		return ok && len(g.Status().Voters) == 3 && g.Key().Incarnation == again.To
	})
	far := w.reader(3, s)
	w.c.Wait(time.Minute, "the new history on a new node", func() bool { return slices.Contains(far.all(), "new") })

	// A majority of the old members returns.
	oldGroup := id.Group{Structure: s, Incarnation: old.Incarnation}
	for i := 1; i < 3; i++ {
		w.c.Nodes[i].Start()
	}
	stale := w.reader(1, s)
	for i := 1; i < 3; i++ {
		host := w.on(i).Host
		w.c.Wait(2*time.Minute, "the old replicas are set aside", func() bool {
			kept := host.Kept()
			return slices.Contains(kept, oldGroup) && slices.Contains(kept, id.Group{Structure: catalog.ID, Incarnation: catalog.Incarnation})
		})
		if n := len(w.c.Nodes[i].Log.Groups()); n < 2 {
			t.Errorf("seed %d: node %d kept %d logs", seed, i, n)
		}
	}
	// Whoever subscribed there saw the old life end, or the new one at once.
	if !waitOver(w, stale) && !slices.Contains(stale.all(), "new") {
		t.Errorf("seed %d: the subscriber on a node that returned has %q", seed, stale.all())
	}
	after := w.reader(1, s)
	if err := w.on(1).Join(s, id.Node{}); err != nil {
		t.Fatal(err)
	}
	w.c.Wait(2*time.Minute, "the new history on a node that returned", func() bool { return slices.Contains(after.all(), "new") })
	if want, got := r.all(), after.all(); len(got) > len(want) {
		t.Errorf("seed %d: %d commits on the node that returned, %d on the survivor", seed, len(got), len(want))
	}
	// And it stays so over a restart.
	w.stop(1)
	w.c.Nodes[1].Start()
	if kept := w.on(1).Kept(); !slices.Contains(kept, oldGroup) {
		t.Errorf("seed %d: after a restart it keeps %v", seed, kept)
	}
}

// waitOver waits until a reader was told that its structure was rebuilt.
func waitOver(w *world, r *reader) bool {
	for range 60 {
		select {
		case <-r.done:
			return slices.ContainsFunc(r.errs, func(err error) bool { return errors.Is(err, raftgroup.ErrRebuilt) })
		case <-time.After(time.Second): // virtual
		}
	}
	return false
}
