package sim

import (
	"flag"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

var (
	townSeeds = flag.Uint64("sim.towns", defaultTowns, "how many seeds of towns to run")
	townTime  = flag.Duration("sim.town", townDefault, "how long each town lives, in its own time")
)

// townPlan is the plan of a seed: smaller under the race detector, which makes a
// town some ten times slower.
func townPlan(seed uint64) Plan {
	p := Plan{Seed: seed, Town: true, Faulty: *townTime}
	if raced && p.Faulty == townDefault {
		p.Faulty, p.Groups = 20*time.Minute, 20
	}
	return p
}

const townDefault = 2 * time.Hour

// TestTown lives through hours of a town, and prints what happened. A seed that
// fails is run again by: go test ./internal/sim -run TestTown -sim.seed N -sim.towns 1
// with the same -sim.town, and made smaller with -sim.shrink 20 in addition.
func TestTown(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	begin := time.Now()
	for seed := *firstSeed; seed < *firstSeed+*townSeeds; seed++ {
		p := townPlan(seed)
		r, err := Run(p, options())
		if err := verdict(r, err); err != nil {
			if r != nil {
				t.Log(strings.Join(r.Scene, "\n"))
			}
			if *shrink > 0 {
				shrunk(t, p, *shrink, options())
			}
			t.Fatalf("seed %d: %v", seed, err)
		}
		t.Logf("seed %d, %s, %d steps: %d proposals, %d deliveries, %d births, %d deletions, %d snapshots; %s; happened: %s",
			seed, r.Virtual.Round(time.Second), r.Steps, r.Proposals, r.Commits, r.Births, r.Deaths, r.Stored, r.Town.String(), sorted(r.Faults))
	}
	t.Logf("%d towns in %s", *townSeeds, time.Since(begin).Round(time.Millisecond))
}

// TestTownReplays lives through a small town twice: the same events, in the same
// order.
func TestTownReplays(t *testing.T) {
	var before *Result
	for range 2 {
		r, err := Run(Plan{Seed: 3, Town: true, Groups: 6, Faulty: 8 * time.Minute}, Options{})
		if err := verdict(r, err); err != nil {
			t.Fatal(err)
		}
		if before != nil && (r.Trace != before.Trace || r.Steps != before.Steps) {
			t.Errorf("trace %016x of %d steps, then %016x of %d", before.Trace, before.Steps, r.Trace, r.Steps)
		}
		before = r
	}
}
