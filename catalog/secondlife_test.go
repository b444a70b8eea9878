package catalog_test

import (
	"bytes"
	"context"
	"errors"
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

// TestSecondRecoveryOutlivesTheFirst rebuilds a structure from node 0, which
// burns too; then the disk of node 1 is found, and it is rebuilt from there, by
// somebody who cannot know of the first time: which of the two numbers is greater
// is chance. The second life serves and grows. When it has no leader for a
// moment, the catalog's record of the first one, of which nothing is left, must
// not have it set aside everywhere.
func TestSecondRecoveryOutlivesTheFirst(t *testing.T) {
	t.Parallel()
	for _, tags := range [][2]byte{{0x10, 0x20}, {0x20, 0x10}} { // of the first life, of the second
		synctest.Test(t, func(t *testing.T) { testSecondRecovery(t, tags) })
	}
}

func testSecondRecovery(t *testing.T, tags [2]byte) {
	w := newWorld(t, 5, 1)
	defer w.end()
	w.found(5)
	s := rig.Structure(5)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	rec, err := w.on(3).svc.Create(ctx, s, raftgroup.Options{PinnedDataCenters: []string{"dc1", "dc2", "dc3"}}, func() []id.Node {
		return []id.Node{w.c.Nodes[0].ID, w.c.Nodes[1].ID, w.c.Nodes[2].ID}
	})
	if err != nil {
		t.Fatal(err)
	}
	w.c.Wait(time.Minute, "a leader", func() bool { return w.leads(rec.Group()) })
	r0 := w.reader(0, s)
	w.commits(r0, "old")
	time.Sleep(5 * time.Second)
	for i := range 3 {
		w.stop(i)
	}
	tagged := func(tag byte) *bytes.Reader { return bytes.NewReader(bytes.Repeat([]byte{tag}, 64)) }
	x := w.rebuildWith(0, s, tagged(tags[0]))
	w.c.Nodes[0].Start()
	w.c.Wait(time.Minute, "the catalog knows the first life", func() bool {
		got, err := w.on(3).svc.Lookup(ctx, s)
		return err == nil && got.Incarnation == x.To
	})
	w.stop(0) // burns
	y := w.rebuildWith(1, s, tagged(tags[1]))
	w.c.Nodes[1].Start()
	group := id.Group{Structure: s, Incarnation: y.To}
	w.c.Wait(time.Minute, "the second life leads", func() bool { return w.leads(group) })
	w.c.Add("dc1").Start()
	w.c.Add("dc3").Start()
	w.c.Wait(3*time.Minute, "three voters", func() bool {
		g, ok := w.c.Nodes[1].Host.Group(s)
		return ok && len(g.Status().Voters) == 3 && !g.Status().Joint
	})
	r1 := w.reader(1, s)
	w.commits(r1, "new")
	time.Sleep(time.Minute)

	// The three do not reach each other for half a minute; all others do.
	three := []*rig.Node{w.c.Nodes[1], w.c.Nodes[5], w.c.Nodes[6]}
	for _, a := range three {
		for _, b := range three {
			if a != b {
				w.c.Net.Cut(a.ID, b.ID)
			}
		}
	}
	time.Sleep(30 * time.Second)
	w.c.Net.Heal()
	w.c.Wait(2*time.Minute, "a leader again", func() bool { return w.leads(group) })
	w.commits(r1, "later")
	for i, n := range w.c.Nodes {
		if n.Up() && slices.Contains(n.Host.Kept(), group) {
			t.Errorf("tags %x: node %d has set the only life aside", tags, i)
		}
	}
}

// TestRebuiltAfterItsDeletion deletes a structure while node 3 is away. There, an
// operator sees a structure whose majority is gone, and rebuilds it. What lives
// again learns of its deletion, also if the structure was created anew meanwhile:
// it ends by its own log, its subscriber is told, and its replicas go.
func TestRebuiltAfterItsDeletion(t *testing.T) {
	t.Parallel()
	for _, anew := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 4, 1)
			defer w.end()
			w.found(3)
			s := rig.Structure(5)
			if err := w.bornOn(0, s, 1, 2, 3); err != nil {
				t.Fatal(err)
			}
			w.commits(w.reader(1, s), "old")
			w.stop(3)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			if err := w.on(0).svc.DeleteStructure(ctx, s); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			var next catalog.Record
			if anew {
				next = w.born(s, raftgroup.Options{})
			}
			undead := id.Group{Structure: s, Incarnation: w.rebuild(3, s).To}
			w.c.Nodes[3].Start()
			late := w.reader(3, s)
			w.c.Wait(5*time.Minute, "its subscriber is told", func() bool {
				late.mu.Lock()
				defer late.mu.Unlock()
				return slices.ContainsFunc(late.errs, func(err error) bool { return errors.Is(err, raftgroup.ErrDeleted) })
			})
			w.gone(undead)
			got, err := w.on(0).svc.Confirm(ctx, s)
			if anew && (err != nil || got.Incarnation != next.Incarnation || !w.leads(next.Group())) {
				t.Errorf("created anew as %s; the catalog has %s, %v", next.Incarnation, got.Incarnation, err)
			}
			if !anew && !errors.Is(err, catalog.ErrDeleted) {
				t.Errorf("the catalog has %s, %v", got.Incarnation, err)
			}
		})
	}
}

// TestLateHolderAfterTheCatalogWasRebuilt deletes a structure while node 3 is
// away, rebuilds the catalog, and creates the structure anew. When node 3 is back,
// its replica of the old life goes, though the catalog was rebuilt since: the new
// record says which deletion it followed. Its subscriber is told.
func TestLateHolderAfterTheCatalogWasRebuilt(t *testing.T) {
	t.Parallel()
	for _, rebuilt := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 4, 1)
			defer w.end()
			w.found(3)
			s := rig.Structure(5)
			if err := w.bornOn(0, s, 1, 2, 3); err != nil {
				t.Fatal(err)
			}
			g, ok := w.c.Nodes[3].Host.Group(s)
			if !ok {
				t.Fatal("no replica on node 3")
			}
			old := g.Key()
			w.commits(w.reader(1, s), "old")
			w.stop(3)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			if err := w.on(0).svc.DeleteStructure(ctx, s); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if rebuilt {
				for i := range 3 {
					w.stop(i)
				}
				w.rebuild(0, catalog.ID)
				for i := range 3 {
					w.c.Nodes[i].Start()
				}
				time.Sleep(time.Minute)
			}
			next := w.born(s, raftgroup.Options{})
			w.c.Nodes[3].Start()
			late := w.reader(3, s)
			w.c.Wait(5*time.Minute, "the subscriber on the late node is told, or served", func() bool {
				late.mu.Lock()
				defer late.mu.Unlock()
				return slices.ContainsFunc(late.errs, func(err error) bool { return errors.Is(err, raftgroup.ErrDeleted) })
			})
			w.c.Wait(time.Minute, "its old replica is gone", func() bool {
				return !slices.ContainsFunc(w.c.Nodes[3].Log.Groups(), func(st wal.GroupState) bool {
					rec, err := raftgroup.DecodeReplica(st.Meta)
					return err != nil || rec.Group == old
				})
			})
			if !w.leads(next.Group()) {
				t.Errorf("%s, born after it, is not led", next.Group())
			}
			if err := w.on(3).Join(s, id.Node{}); err != nil {
				t.Fatal(err)
			}
			w.commits(w.reader(3, s), "new")
		})
	}
}

// TestReplicaBesideAnotherLife: the catalog is rebuilt from a survivor that knows
// nothing of a structure, which is then created once more, while the only node of
// its first life is away. When that is back, nothing proves that what it has was
// deleted: with a leader it lives, beside the other one. Without, its subscriber
// hears why it waits.
func TestReplicaBesideAnotherLife(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5, 1)
		defer w.end()
		w.found(3)
		s := rig.Structure(5)
		w.stop(0) // its replica of the catalog does not hear of the birth
		if err := w.bornOn(1, s, 1, 3, 4); err != nil {
			t.Fatal(err)
		}
		for i := 1; i < 5; i++ {
			w.stop(i)
		}
		w.rebuild(0, catalog.ID)
		w.c.Nodes[0].Start()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		next, err := w.on(0).svc.Create(ctx, s, raftgroup.Options{Voters: 1}, func() []id.Node { return []id.Node{w.c.Nodes[0].ID} })
		if err != nil {
			t.Fatal(err)
		}
		w.c.Nodes[3].Start() // one of three: it has no quorum
		late := w.reader(3, s)
		w.c.Wait(5*time.Minute, "the subscriber is told", func() bool {
			late.mu.Lock()
			defer late.mu.Unlock()
			return slices.ContainsFunc(late.errs, func(err error) bool { return errors.Is(err, raftgroup.ErrOtherLife) })
		})
		if g, ok := w.c.Nodes[3].Host.Group(s); !ok || g.Key().Incarnation == next.Incarnation {
			t.Error("what the rebuilt catalog may have lost was removed")
		}
	})
}
