package catalog_test

import (
	"context"
	"flag"
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
	from, to := manySeeds(12)
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
				recs := w.birthOfAll(s)
				for i, rec := range recs {
					if rec.Group() != recs[0].Group() {
						t.Fatalf("seed %d: node %d was told %s, node 0 %s", seed, i, rec.Group(), recs[0].Group())
					}
				}
				w.c.Net.SetLoss(0)
				w.settled()
				w.check(s, recs[0])
			}
		})
	}
}

// birthOfAll has every node give birth at once.
func (w *world) birthOfAll(s id.Structure) []catalog.Record {
	w.t.Helper()
	recs := make([]catalog.Record, len(w.c.Nodes))
	barrier := make(chan struct{})
	var wg sync.WaitGroup
	for i := range w.c.Nodes {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Minute)
			defer cancel()
			<-barrier
			rec, err := w.on(i).svc.Birth(ctx, s, raftgroup.Options{}, w.pick(i))
			if err != nil {
				w.t.Errorf("seed %d: birth on node %d: %v", w.c.Seed, i, err)
			}
			recs[i] = rec
		})
	}
	close(barrier)
	wg.Wait()
	return slices.Clip(recs)
}
