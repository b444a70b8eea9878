package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

// holders are the indices of the nodes of the catalog's voters, as its leader
// sees them; nil while there is no leader, or the membership changes.
func (w *world) holders() (voters []int, leader int) {
	newest := uint64(0)
	for i, n := range w.c.Nodes {
		if !n.Up() {
			continue
		}
		g, ok := n.Host.Group(catalog.ID)
		if !ok {
			continue
		}
		if st := g.Status(); st.IsLeader && st.Term > newest {
			newest, leader, voters = st.Term, i, nil
			for at, o := range w.c.Nodes {
				for _, v := range st.Voters {
					if v == o.ID && !st.Joint {
						voters = append(voters, at)
					}
				}
			}
		}
	}
	return voters, leader
}

// spread counts nodes by their data centers.
func (w *world) spread(nodes []int) map[string]int {
	out := make(map[string]int)
	for _, i := range nodes {
		out[w.c.Nodes[i].DataCenter]++
	}
	return out
}

// bornOn has a structure created by one node, on others.
func (w *world) bornOn(creator int, s id.Structure, on ...int) error {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	rec, err := w.on(creator).svc.Create(ctx, s, raftgroup.Options{Voters: uint32(len(on))}, func() []id.Node {
		var out []id.Node
		for _, i := range on {
			out = append(out, w.c.Nodes[i].ID)
		}
		return out
	})
	if err == nil {
		w.c.Wait(time.Minute, "a leader of what was born", func() bool { return w.leads(rec.Group()) })
	}
	return err
}

// TestCatalogHeals grows a cluster to seven nodes in three data centers: the
// catalog has five voters then, spread over all three. It loses one of them for
// good, and then three of the five at once. The first is replaced by itself;
// after the second structures go on, births say what is missing, and an operator
// rebuilds the catalog from one of the two voters that are left.
func TestCatalogHeals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testCatalogHeals)
}

func testCatalogHeals(t *testing.T) {
	w := newWorld(t, 0, 31)
	defer w.end()
	for i := range 7 {
		n := w.c.Add([]string{"berlin", "lisbon", "paris"}[i%3])
		n.Start()
		if i == 0 {
			if err := w.on(0).svc.FoundCatalog(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	whole := func(dead ...int) func() bool {
		return func() bool {
			voters, _ := w.holders()
			per := w.spread(voters)
			return len(voters) == 5 && len(per) == 3 && per["berlin"] <= 2 && per["lisbon"] <= 2 && per["paris"] <= 2 &&
				!slices.ContainsFunc(dead, func(i int) bool { return slices.Contains(voters, i) })
		}
	}
	w.c.Wait(3*time.Minute, "five voters in three data centers", whole())
	if err := w.bornOn(6, rig.Structure(1), 0, 1, 2); err != nil {
		t.Fatal(err)
	}

	// One is lost for good: births go on at once, and it is replaced.
	_, first := w.holders()
	live := func(i int) bool { return w.c.Nodes[i].Up() }
	w.crash(first)
	var left []int
	for i := range w.c.Nodes {
		if live(i) {
			left = append(left, i)
		}
	}
	for i := range 10 {
		if err := w.bornOn(left[i%len(left)], rig.Structure(uint64(10+i)), left[(i+1)%len(left)]); err != nil {
			t.Errorf("birth %d after the catalog's leader was lost: %v", i, err)
		}
		time.Sleep(time.Second)
	}
	w.c.Wait(3*time.Minute, "another voter in its place", whole(first))

	// Three of the five are lost at once.
	voters, _ := w.holders()
	victims := voters[:3]
	var stay []int
	for _, i := range left {
		if !slices.Contains(victims, i) {
			stay = append(stay, i)
		}
	}
	survivors := voters[3:]
	s := rig.Structure(30)
	if err := w.bornOn(stay[0], s, stay...); err != nil {
		t.Fatal(err)
	}
	r := w.reader(stay[0], s)
	w.commits(r, "before")
	for _, i := range victims {
		w.crash(i)
	}
	w.commits(r, "without a catalog")
	for _, i := range stay {
		err := w.bornOn(i, rig.Structure(31), stay...)
		if !errors.Is(err, catalog.ErrCatalogUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a birth on node %d: %v", i, err)
		}
		if !strings.Contains(fmt.Sprint(err), "no leader") {
			t.Errorf("a birth on node %d does not say what is missing: %v", i, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if rec, err := w.on(i).svc.Lookup(ctx, s); err != nil || rec.Structure != s {
			t.Errorf("a lookup on node %d: %+v, %v", i, rec, err)
		}
		cancel()
	}
	time.Sleep(3 * time.Minute)
	for _, i := range survivors {
		g, ok := w.c.Nodes[i].Host.Group(catalog.ID)
		if !ok || len(g.Status().Voters) != 5 || !g.Status().QuorumLost {
			t.Fatalf("the catalog without a quorum on node %d: %+v", i, g.Status())
		}
	}
	w.commits(r, "still without")

	// An operator rebuilds it from the one of the two that has more of the log.
	from, most := 0, uint64(0)
	for _, i := range survivors {
		for _, st := range w.c.Nodes[i].Log.Groups() {
			if rec, err := raftgroup.DecodeReplica(st.Meta); err == nil && rec.Group.Structure == catalog.ID && st.LastIndex > most {
				from, most = i, st.LastIndex
			}
		}
	}
	if from == stay[0] {
		close(r.sub.Propose())
		<-r.done
	}
	w.stop(from)
	made := w.rebuild(from, catalog.ID)
	w.c.Nodes[from].Start()
	w.c.Wait(5*time.Minute, "the rebuilt catalog has three voters", func() bool {
		g, ok := w.c.Nodes[from].Host.Group(catalog.ID)
		return ok && g.Key().Incarnation == made.To && len(g.Status().Voters) == 3 && !g.Status().Joint
	})
	for n, i := range stay {
		if err := w.bornOn(i, rig.Structure(uint64(40+n)), stay...); err != nil {
			t.Errorf("a birth on node %d after the catalog was rebuilt: %v", i, err)
		}
	}
	listed, err := w.on(stay[0]).svc.List(t.Context())
	// A birth that was given up may be in the log of the voter that the catalog was
	// rebuilt from: if that led, it took it before it knew that it was alone.
	listed = slices.DeleteFunc(listed, func(r catalog.Record) bool { return r.Structure == rig.Structure(31) })
	if err != nil || len(listed) != 1+10+1+len(stay) {
		t.Errorf("%d structures are listed, %v", len(listed), err)
	}
	w.commits(w.reader(stay[1], s), "after")
}

// commits proposes a change, and waits until it is delivered.
func (w *world) commits(r *reader, what string) {
	w.t.Helper()
	r.sub.Propose() <- []byte(what)
	w.c.Wait(time.Minute, fmt.Sprintf("a commit %s", what), func() bool { return slices.Contains(r.all(), what) })
}
