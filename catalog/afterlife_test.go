package catalog_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

// born gives birth to a structure, and waits until its group is led.
func (w *world) born(s id.Structure, options raftgroup.Options) catalog.Record {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Minute)
	defer cancel()
	rec, err := w.on(0).svc.Create(ctx, s, options, w.pick(0))
	if err != nil {
		w.t.Fatalf("seed %d: create %s: %v", w.c.Seed, s, err)
	}
	w.c.Wait(time.Minute, "a leader", func() bool { return w.leads(rec.Group()) })
	return rec
}

func (w *world) leads(g id.Group) bool {
	return slices.ContainsFunc(w.c.Nodes, func(n *rig.Node) bool {
		if !n.Up() {
			return false
		}
		for _, st := range n.Host.Groups() {
			if st.Group == g && st.IsLeader {
				return true
			}
		}
		return false
	})
}

// gone waits until no live node has anything of an incarnation: no replica,
// no log, no snapshot file.
func (w *world) gone(g id.Group) {
	w.t.Helper()
	w.c.Wait(40*patience, "nothing is left of "+g.String(), func() bool {
		for _, n := range w.c.Nodes {
			if !n.Up() {
				continue
			}
			here := n.Host.Groups()
			if slices.ContainsFunc(here, func(st raftgroup.GroupStatus) bool { return st.Group == g }) {
				return false
			}
			files, err := n.Snapshots.Groups()
			if err != nil {
				w.t.Fatal(err)
			}
			if len(n.Log.Groups()) != len(here) || len(files) > len(here) {
				return false
			}
		}
		return true
	})
}

// reader is a subscriber that counts, and hears of its end.
type reader struct {
	sub   *raftgroup.Subscription
	mu    sync.Mutex
	lines []string
	errs  []error
	done  chan struct{}
}

func (w *world) reader(i int, s id.Structure) *reader {
	w.t.Helper()
	r := &reader{done: make(chan struct{})}
	var err error
	r.sub, err = w.on(i).Subscribe(raftgroup.SubscriptionConfig{Structure: s, Provider: func() ([]byte, error) { return nil, nil }})
	if err != nil {
		w.t.Fatal(err)
	}
	go func() {
		defer close(r.done)
		commits, errs := r.sub.Commits(), r.sub.Errors()
		for commits != nil || errs != nil {
			select {
			case c, ok := <-commits:
				if !ok {
					commits = nil
					continue
				}
				r.mu.Lock()
				r.lines = append(r.lines, string(c))
				r.mu.Unlock()
			case err, ok := <-errs:
				if !ok {
					errs = nil
					continue
				}
				r.mu.Lock()
				r.errs = append(r.errs, err)
				r.mu.Unlock()
			}
		}
	}()
	return r
}

func (r *reader) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lines)
}

// over waits until the reader's channels have closed, and checks why.
func (w *world) over(r *reader) {
	w.t.Helper()
	w.c.Wait(40*patience, "a subscription ends", func() bool {
		select {
		case <-r.done:
			return true
		default:
			return false
		}
	})
	if !slices.ContainsFunc(r.errs, func(err error) bool { return errors.Is(err, raftgroup.ErrDeleted) }) {
		w.t.Errorf("seed %d: ended without ErrDeleted: %v", w.c.Seed, r.errs)
	}
}

// TestDeleteLostAtEveryStep loses the node that deletes a structure at each step
// of it, its own sweeper's included, before and after the step. Somebody deletes
// again; then nothing is left anywhere, late subscribers are refused, and a new
// creation is another incarnation.
func TestDeleteLostAtEveryStep(t *testing.T) {
	t.Parallel()
	from, to := manySeeds(4)
	for seed := from; seed < to; seed++ {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 7))
			w := newWorld(t, 4, seed)
			defer w.end()
			w.found(3)
			w.c.Net.SetLatency(time.Duration(1+rng.IntN(30)) * time.Millisecond)
			for step := int64(1); ; step++ {
				if !w.loseDeleter(rng.IntN(4), rig.Structure(1000+uint64(step)), step, seed%2 == 0) {
					t.Logf("seed %d: the deleter was lost at each of %d steps", seed, step-1)
					break
				}
			}
		})
	}
}

func (w *world) loseDeleter(victim int, s id.Structure, step int64, late bool) bool {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Minute)
	defer cancel()
	rec := w.born(s, raftgroup.Options{})
	time.Sleep(2 * patience) // what is told of a new structure is no step of its deletion
	p := w.on(victim)
	p.dieLate.Store(late)
	p.dieAt.Store(p.steps.Load() + step)
	own, done := context.WithCancel(ctx)
	defer context.AfterFunc(own, done)()
	stop := make(chan struct{})
	go func() {
		select {
		case <-p.died:
			done()
		case <-stop:
		}
	}()
	err := p.svc.DeleteStructure(own, s)
	time.Sleep(3 * patience) // the sweepers' steps count too
	synctest.Wait()
	close(stop)
	p.dieAt.Store(0)
	lost := p.dead.Load()
	if !lost && err != nil {
		w.t.Errorf("seed %d, step %d: delete: %v", w.c.Seed, step, err)
	}
	if lost {
		w.crash(victim)
		w.c.Net.Heal()
	}
	other := (victim + 1) % len(w.c.Nodes)
	if err := w.on(other).svc.DeleteStructure(ctx, s); err != nil {
		w.t.Fatalf("seed %d, step %d: delete again: %v", w.c.Seed, step, err)
	}
	w.gone(rec.Group())
	if lost {
		w.c.Nodes[victim].Start()
		w.gone(rec.Group())
	}
	for i := range w.c.Nodes {
		w.c.Wait(time.Minute, "a late subscriber is refused", func() bool {
			got, err := w.on(i).svc.Birth(ctx, s, raftgroup.Options{}, w.pick(i))
			if err == nil && got.Group() == rec.Group() {
				return false // from a holder that has not heard of the deletion yet
			}
			if !errors.Is(err, catalog.ErrDeleted) {
				w.t.Fatalf("seed %d, step %d: a late subscriber on node %d: %+v, %v", w.c.Seed, step, i, got, err)
			}
			return true
		})
	}
	next, err := w.on(other).svc.Create(ctx, s, raftgroup.Options{}, w.pick(other))
	if err != nil || !rec.Incarnation.Less(next.Incarnation) {
		w.t.Fatalf("seed %d, step %d: created anew: %+v, %v", w.c.Seed, step, next, err)
	}
	if err := w.on(victim).svc.DeleteStructure(ctx, s); err != nil {
		w.t.Fatalf("seed %d, step %d: delete what was created anew: %v", w.c.Seed, step, err)
	}
	w.gone(next.Group())
	return lost
}

// TestDeleteDuringPartition deletes a structure while a node that holds a
// replica and a subscriber is cut off, and creates it anew before the node is
// back: the old replica goes, the old subscriber is told, and neither sees
// anything of the new life; a new subscriber there sees nothing of the old one.
func TestDeleteDuringPartition(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 4, seed)
			defer w.end()
			w.found(3)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
			defer cancel()
			s := rig.Structure(77)
			rec := w.born(s, raftgroup.Options{})
			away := slices.IndexFunc(w.c.Nodes, func(n *rig.Node) bool { _, ok := n.Host.Group(s); return ok })
			old := w.reader(away, s)
			old.sub.Propose() <- []byte("old")
			w.c.Wait(time.Minute, "a commit", func() bool { return len(old.all()) == 1 })
			for i, n := range w.c.Nodes {
				if i != away {
					w.c.Net.Cut(n.ID, w.c.Nodes[away].ID)
					w.c.Net.Cut(w.c.Nodes[away].ID, n.ID)
				}
			}
			old.sub.Propose() <- []byte("lost")
			here := (away + 1) % 4
			if err := w.on(here).svc.DeleteStructure(ctx, s); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			pick := func() []id.Node {
				return slices.DeleteFunc(w.all(), func(n id.Node) bool { return n == w.c.Nodes[away].ID })
			}
			next, err := w.on(here).svc.Create(ctx, s, raftgroup.Options{}, pick)
			if err != nil || !rec.Incarnation.Less(next.Incarnation) {
				t.Fatalf("seed %d: created anew: %+v, %v", seed, next, err)
			}
			now := w.reader(here, s)
			now.sub.Propose() <- []byte("new")
			w.c.Wait(time.Minute, "a commit of the new life", func() bool { return slices.Equal(now.all(), []string{"new"}) })
			time.Sleep(time.Duration(seed) * 30 * time.Second)
			w.c.Net.Heal()
			w.over(old)
			w.gone(rec.Group())
			if got := old.all(); !slices.Equal(got, []string{"old"}) {
				t.Errorf("seed %d: the old subscriber has %q", seed, got)
			}
			late := w.reader(away, s)
			if err := w.on(away).Join(s, id.Node{}); err != nil {
				t.Fatal(err)
			}
			w.c.Wait(time.Minute, "the new life on the node that was away", func() bool { return slices.Equal(late.all(), []string{"new"}) })
			close(late.sub.Propose())
			close(now.sub.Propose())
		})
	}
}

// TestDeleteWhileALearnerIsAway cuts a learner off, which never forgets its leader
// by itself, and deletes the structure meanwhile.
func TestDeleteWhileALearnerIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4, 2)
		defer w.end()
		w.found(3)
		s := rig.Structure(79)
		rec := w.born(s, raftgroup.Options{})
		away := slices.IndexFunc(w.c.Nodes, func(n *rig.Node) bool { _, ok := n.Host.Group(s); return !ok })
		r := w.reader(away, s)
		if err := w.on(away).Join(s, id.Node{}); err != nil {
			t.Fatal(err)
		}
		r.sub.Propose() <- []byte("x")
		w.c.Wait(time.Minute, "a learner with a subscriber", func() bool {
			g, ok := w.on(away).Host.Group(s)
			return ok && g.Status().Role == "learner" && len(r.all()) == 1
		})
		for i, n := range w.c.Nodes {
			if i != away {
				w.c.Net.Cut(n.ID, w.c.Nodes[away].ID)
				w.c.Net.Cut(w.c.Nodes[away].ID, n.ID)
			}
		}
		if err := w.on((away+1)%4).svc.DeleteStructure(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		w.c.Net.Heal()
		w.over(r)
		w.gone(rec.Group())
	})
}

// TestLateSubscriberOfWhatIsGone waits for a structure that was deleted, on a node
// whose gossip was stale, and is told.
func TestLateSubscriberOfWhatIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4, 1)
		defer w.end()
		w.found(3)
		s := rig.Structure(78)
		rec := w.born(s, raftgroup.Options{})
		if err := w.on(0).svc.DeleteStructure(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		w.gone(rec.Group())
		late := w.reader(3, s)
		if err := w.on(3).Join(s, w.c.Nodes[0].ID); err != nil {
			t.Fatal(err)
		}
		w.over(late)
		w.c.Wait(time.Minute, "nobody waits", func() bool { return len(w.on(3).Waiting()) == 0 })
	})
}

// TestList lists what lives, over several pages, from a node without a replica
// of the catalog; without its quorum the error says so.
func TestList(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 6, 1)
		defer w.end()
		w.found(5)
		var want []id.Structure
		for k := range uint64(5) {
			s := rig.Structure(100 + k)
			w.born(s, raftgroup.Options{Voters: 1, PreferredDataCenter: "dc1"})
			want = append(want, s)
		}
		if err := w.on(5).svc.DeleteStructure(t.Context(), want[2]); err != nil {
			t.Fatal(err)
		}
		want = slices.Delete(want, 2, 3)
		for i := range w.c.Nodes {
			got, err := w.on(i).svc.List(t.Context())
			if err != nil || len(got) != len(want) {
				t.Fatalf("node %d: %d records, %v", i, len(got), err)
			}
			for k, r := range got {
				if r.Structure != want[k] || r.Options.PreferredDataCenter != "dc1" {
					t.Errorf("node %d: record %d is %+v", i, k, r)
				}
			}
		}
		g, _ := w.on(0).Group(catalog.ID)
		voters := g.Status().Voters
		for i, stopped := 0, 0; stopped < 3; i++ { // of five
			for _, n := range voters {
				if n == w.c.Nodes[i].ID {
					w.stop(i)
					stopped++
				}
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := w.on(5).svc.List(ctx); !errors.Is(err, catalog.ErrCatalogUnavailable) {
			t.Fatalf("without a quorum: %v", err)
		}
	})
}
