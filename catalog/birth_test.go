package catalog_test

import (
	"context"
	"errors"
	"flag"
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

var (
	firstSeed = flag.Uint64("seed", 1, "first seed of the tests that have many")
	seeds     = flag.Int("seeds", 0, "how many seeds; 0: a few")
)

func manySeeds(few int) (from, to uint64) {
	if testing.Short() {
		few = max(few/4, 1)
	}
	if *seeds > 0 {
		few = *seeds
	}
	return *firstSeed, *firstSeed + uint64(few)
}

// TestOneBirth has all nodes give birth to the same structures at the same
// moment, over a network that is slow and loses messages: each structure has
// one group, and everybody was told the same.
func TestOneBirth(t *testing.T) {
	t.Parallel()
	from, to := manySeeds(30)
	for seed := from; seed < to; seed++ {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 2))
			n := 1 + rng.IntN(5)
			w := newWorld(t, n, seed)
			defer w.end()
			w.found(1)
			const structures = 10
			for k := range structures {
				w.c.Net.SetLatency(time.Duration(1+rng.IntN(60)) * time.Millisecond)
				w.c.Net.SetLoss(rng.Float64() * 0.2)
				s := rig.Structure(uint64(1000 + k))
				// In every other round most do not wait for the end of it.
				patient := func() bool { return k%2 == 0 || rng.IntN(4) == 0 }
				recs := w.birthOfAll(s, rng, patient)
				w.c.Net.SetLoss(0)
				w.settled()
				recs = append(recs, w.birthOfAll(s, rng, func() bool { return true })...)
				w.settled()
				for i, rec := range recs {
					if rec.Group() != recs[0].Group() {
						t.Fatalf("seed %d: one was told %s, another (%d) %s", seed, recs[0].Group(), i, rec.Group())
					}
				}
				w.check(s, recs[0])
			}
		})
	}
}

// birthOfAll has every node give birth at once, the first of them twice, and
// returns what they were told. Those without patience may give up.
func (w *world) birthOfAll(s id.Structure, rng *rand.Rand, patient func() bool) []catalog.Record {
	w.t.Helper()
	var mu sync.Mutex
	var recs []catalog.Record
	barrier := make(chan struct{})
	var wg sync.WaitGroup
	for i := range len(w.c.Nodes) + 1 {
		i %= len(w.c.Nodes)
		limit := 5 * time.Minute
		if !patient() {
			limit = time.Duration(rng.Int64N(int64(time.Second)))
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(w.t.Context(), limit)
			defer cancel()
			<-barrier
			rec, err := w.on(i).svc.Birth(ctx, s, raftgroup.Options{}, w.pick(i))
			switch {
			case err == nil:
				mu.Lock()
				recs = append(recs, rec)
				mu.Unlock()
			case limit > time.Second, !errors.Is(err, context.DeadlineExceeded),
				!errors.Is(err, catalog.ErrCatalogUnavailable) && !errors.Is(err, catalog.ErrNoNodes):
				w.t.Errorf("seed %d: birth on node %d within %s: %v", w.c.Seed, i, limit, err)
			}
		})
	}
	close(barrier)
	wg.Wait()
	return recs
}
