package catalog_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

// loss is how one round loses its victim.
type loss struct {
	step    int64         // it dies at this step of its service; 0: by time
	late    bool          // the step has its effect first
	after   time.Duration // it dies after that, if step is 0
	crowd   bool          // the other nodes give birth to the same ID at the same time
	returns bool          // it comes back at once, else after all is settled
}

// TestLostAtEveryStep loses a node at every step of its birth: before and
// after each prepare, each call, each start, in a crowd and alone, and has it
// come back at once, or when the others have settled what it left behind.
func TestLostAtEveryStep(t *testing.T) {
	t.Parallel()
	from, to := manySeeds(8) // two for each variant
	for seed := from; seed < to; seed++ {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 3))
			w := newWorld(t, 3+rng.IntN(3), seed)
			defer w.end()
			w.found(3)
			w.c.Net.SetLatency(time.Duration(1+rng.IntN(30)) * time.Millisecond)
			victim := rng.IntN(len(w.c.Nodes))
			for step := int64(1); ; step++ {
				l := loss{step: step, late: seed%2 == 0, crowd: seed%4 < 2, returns: rng.IntN(2) == 0}
				if !w.lose(victim, rig.Structure(1000+uint64(step)), l) {
					t.Logf("seed %d: node %d of %d was lost at each of %d steps (late %t, crowd %t)", seed, victim, len(w.c.Nodes), step-1, l.late, l.crowd)
					break // the birth has fewer steps
				}
			}
		})
	}
}

// TestLostAnyTime loses a node at any moment, also between a proposal to its
// own replica of the catalog and the result.
func TestLostAnyTime(t *testing.T) {
	t.Parallel()
	from, to := manySeeds(5)
	for seed := from; seed < to; seed++ {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 4))
			w := newWorld(t, 3+rng.IntN(3), seed)
			defer w.end()
			w.found(3)
			latency := time.Duration(1+rng.IntN(30)) * time.Millisecond
			w.c.Net.SetLatency(latency)
			for k := range uint64(10) {
				l := loss{after: time.Duration(rng.Int64N(int64(16 * latency))), crowd: rng.IntN(2) == 0, returns: rng.IntN(2) == 0}
				w.lose(rng.IntN(len(w.c.Nodes)), rig.Structure(1000+k), l)
			}
		})
	}
}

// lose runs one birth in which the victim is lost, and reports whether it was.
func (w *world) lose(victim int, s id.Structure, l loss) bool {
	w.t.Helper()
	p := w.on(victim)
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	told := make([]catalog.Record, len(w.c.Nodes))
	for i, n := range w.c.Nodes {
		if i != victim && !l.crowd {
			continue
		}
		svc, own := w.on(i).svc, ctx
		if i == victim {
			var done context.CancelFunc
			own, done = context.WithCancel(ctx)
			defer context.AfterFunc(own, done)()
			go func() {
				select {
				case <-p.died:
				case <-own.Done():
				}
				done()
			}()
			if l.step > 0 {
				p.dieLate.Store(l.late)
				p.dieAt.Store(p.steps.Load() + l.step)
			} else {
				time.AfterFunc(l.after, p.die)
			}
		}
		wg.Go(func() {
			rec, err := svc.Birth(own, s, raftgroup.Options{}, w.pick(i))
			if err != nil && i != victim {
				w.t.Errorf("seed %d: %+v: birth on node %s: %v", w.c.Seed, l, n.DataCenter, err)
			}
			if err != nil && !errors.Is(err, catalog.ErrCatalogUnavailable) && !errors.Is(err, context.Canceled) && !errors.Is(err, catalog.ErrNoNodes) {
				w.t.Errorf("seed %d: %+v: victim: %v", w.c.Seed, l, err)
			}
			told[i] = rec
		})
	}
	wg.Wait()
	if l.step == 0 {
		<-p.died
	} else {
		time.Sleep(time.Second) // virtual: what the birth left in the background is counted as steps too
		synctest.Wait()
		p.dieAt.Store(0)
	}
	lost := p.dead.Load()
	if lost {
		w.crash(victim)
		w.c.Net.Heal()
		if l.returns {
			w.c.Nodes[victim].Start()
		}
	}
	w.settled()
	rec := w.agreed(s, victim, told)
	w.check(s, rec)
	if lost && !l.returns {
		w.c.Nodes[victim].Start()
		w.settled()
		w.check(s, rec)
	}
	return lost
}

// agreed gives birth once more, from another node: whatever became of the
// first attempt, everybody who was told something was told of the same group.
func (w *world) agreed(s id.Structure, victim int, told []catalog.Record) catalog.Record {
	w.t.Helper()
	other := (victim + 1) % len(w.c.Nodes)
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Minute)
	defer cancel()
	rec, err := w.on(other).svc.Birth(ctx, s, raftgroup.Options{}, w.pick(other))
	if err != nil {
		w.t.Fatalf("seed %d: birth after the loss: %v", w.c.Seed, err)
	}
	for i, r := range told {
		if r.Incarnation.Birth != 0 && r.Group() != rec.Group() {
			w.t.Fatalf("seed %d: node %d was told %s, now it is %s", w.c.Seed, i, r.Group(), rec.Group())
		}
	}
	w.settled()
	return rec
}
