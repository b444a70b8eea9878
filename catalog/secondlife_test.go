package catalog_test

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
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
