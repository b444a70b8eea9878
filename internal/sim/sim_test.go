package sim

import (
	"flag"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"
)

var (
	firstSeed = flag.Uint64("sim.seed", 1, "first seed to run")
	seeds     = flag.Uint64("sim.seeds", defaultSeeds, "how many seeds to run")
	soak      = flag.Duration("sim.soak", 0, "run seeds for so long instead")
	verbose   = flag.Bool("sim.log", false, "print the nodes' logs")
)

func options() (opt Options) {
	if *verbose {
		opt.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return opt
}

// TestSeeds runs whole clusters under random faults. A seed that fails is run
// again by: go test ./internal/sim -run TestSeeds -sim.seed N -sim.seeds 1
// and made smaller with -sim.shrink 200 in addition.
func TestSeeds(t *testing.T) {
	begin := time.Now()
	var proposals, commits, crashes, births, deaths, stored int
	faults, flips, found := make(map[string]int), make(map[string]int), make(map[string]int)
	ran := uint64(0)
	for ; ran < *seeds || time.Since(begin) < *soak; ran++ {
		seed := *firstSeed + ran
		r, err := Run(Plan{Seed: seed}, options())
		if err := verdict(r, err); err != nil {
			if r != nil {
				t.Log(strings.Join(r.Scene, "\n"))
			}
			if *shrink > 0 {
				shrunk(t, Plan{Seed: seed}, *shrink, options())
			}
			t.Fatalf("seed %d: %v", seed, err)
		}
		proposals, commits, crashes = proposals+r.Proposals, commits+r.Commits, crashes+r.Crashes
		births, deaths, stored = births+r.Births, deaths+r.Deaths, stored+r.Stored
		add(faults, r.Faults)
		add(flips, r.Flips)
		add(found, r.Found)
	}
	t.Logf("%d seeds in %s: %d proposals, %d deliveries, %d crashes, %d births, %d deletions, %d snapshots held against their labels; faults: %s; bits flipped: %s; found: %s",
		ran, time.Since(begin).Round(time.Millisecond), proposals, commits, crashes, births, deaths, stored, sorted(faults), sorted(flips), sorted(found))
	if commits == 0 || crashes == 0 || stored == 0 {
		t.Error("nothing happened")
	}
}

func add(to, more map[string]int) {
	for k, n := range more {
		to[k] += n
	}
}

// TestRegisters has the programs read and write registers, a few at a time, and
// holds what they read against a model, besides all the rest.
func TestRegisters(t *testing.T) {
	ops := 0
	for seed := range uint64(max(*seeds/5, 1)) {
		p := Plan{Seed: *firstSeed + seed, Registers: true}
		r, err := Run(p, options())
		if err := verdict(r, err); err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		ops += r.Registers
	}
	t.Logf("%d operations on registers", ops)
	if ops == 0 {
		t.Error("nothing was read or written")
	}
}

// TestReplay runs a seed twice: the same events, in the same order.
func TestReplay(t *testing.T) {
	for seed := uint64(1); seed <= replayedSeeds; seed++ {
		a, err := Run(Plan{Seed: seed}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		b, err := Run(Plan{Seed: seed}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if a.Trace != b.Trace || a.Steps != b.Steps {
			t.Errorf("seed %d: trace %016x of %d steps, then %016x of %d", seed, a.Trace, a.Steps, b.Trace, b.Steps)
		}
	}
}

// ofOneKind runs a few seeds in which one kind of fault happens and no other,
// and begins again before it has ended, and checks all that is always checked.
func ofOneKind(t *testing.T, kind string) {
	t.Helper()
	happened := 0
	for seed := range min(*seeds, 2) {
		p := Plan{Seed: *firstSeed + seed, Kind: kind}
		r, err := Run(p, options())
		if err := verdict(r, err); err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		if r.Commits == 0 || len(r.Faults) != 1 {
			t.Errorf("%s: %d deliveries under %v", p, r.Commits, r.Faults)
		}
		happened += r.Faults[kind]
	}
	if happened == 0 {
		t.Errorf("no %s in any run", kind)
	}
}

// TestLossAndReordering loses up to 30 % of all messages and sends 10 % twice;
// each message is late by itself, so that they overtake one another.
func TestLossAndReordering(t *testing.T) { ofOneKind(t, "loss") }

// TestClockJumps sets nodes' clocks forwards and backwards by up to an hour.
func TestClockJumps(t *testing.T) { ofOneKind(t, "clock jump") }

// TestSlowDisks has syncs take up to a second.
func TestSlowDisks(t *testing.T) { ofOneKind(t, "slow disk") }
