package sim

import (
	"errors"
	"flag"
	"strings"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/internal/vfs"
)

var (
	planText = flag.String("sim.plan", "", "run this plan alone, as a failure prints it")
	shrink   = flag.Int("sim.shrink", 0, "runs to spend on making a failing seed small")
)

// TestPlan runs the plan of -sim.plan.
func TestPlan(t *testing.T) {
	if *planText == "" {
		t.Skip("no -sim.plan")
	}
	p, err := Parse(*planText)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Run(p, options())
	if err := verdict(r, err); err != nil {
		t.Log(strings.Join(r.Scene, "\n"))
		t.Fatalf("%s: %v", p, err)
	}
	t.Logf("%d proposals, %d deliveries, %d crashes, faults: %s", r.Proposals, r.Commits, r.Crashes, sorted(r.Faults))
}

// verdict is what is wrong with a run, if anything is.
func verdict(r *Result, err error) error {
	if r == nil || err != nil {
		return err
	}
	return r.Report.Err()
}

// shrunk makes a failing plan small, and says how to run it again.
func shrunk(t *testing.T, p Plan, budget int, opt Options) Plan {
	t.Helper()
	opt.Logger = nil
	small := Shrink(p, budget, func(q Plan) bool { return verdict(Run(q, opt)) != nil })
	t.Logf("run it again by: go test ./internal/sim -run TestPlan -sim.plan '%s'", small)
	return small
}

// TestShrink plants a bug: disks that do not sync. It takes the power from
// nodes; whatever else a failing seed has among its faults can go.
func TestShrink(t *testing.T) {
	if raced {
		t.Skip("some dozens of runs on one thread: nothing for the race detector")
	}
	lying := Options{Disk: func(m *vfs.Mem) vfs.FS { return lyingDisk{m} }}
	// Some ten faults; with more of them each run that fails waits longer for what never comes.
	p := Plan{Seed: 1, Nodes: 4, Groups: 1, Faulty: 8 * time.Second}
	for verdict(Run(p, lying)) == nil {
		if p.Seed++; p.Seed > 20 {
			t.Fatal("no seed finds disks that do not sync")
		}
	}
	small := shrunk(t, p, 30, lying)
	if n, all := len(small.Faults), len(p.schedule()); n > all/4 {
		t.Errorf("seed %d with %d faults was reduced to %d faults only: %s", p.Seed, all, n, small)
	}
	again, err := Parse(small.String())
	if err != nil {
		t.Fatal(err)
	}
	r, err := Run(again, lying)
	if verdict(r, err) == nil {
		t.Fatalf("%s does not fail again", small)
	}
	for name := range r.Faults {
		if !strings.Contains(name, "crash") && !strings.Contains(name, "fsync") {
			t.Logf("the plan has kept %q", name)
		}
	}
	if r, err := Run(again, Options{}); verdict(r, err) != nil {
		t.Errorf("%s fails on disks that sync, too: %v", small, verdict(r, err))
	}
}

// TestPlanText: a plan that is printed and read is the same.
func TestPlanText(t *testing.T) {
	t.Parallel()
	for _, p := range []Plan{
		{Seed: 7},
		{Seed: 1 << 60, Salt: 3, Nodes: 4, Groups: 2, Faulty: 1500 * time.Millisecond, Faults: []int{0, 5, 11}, Kind: "clock jump", Registers: true},
		{Seed: 1, Faults: []int{}},
	} {
		q, err := Parse(p.String())
		if err != nil || q.String() != p.String() || (q.Faults == nil) != (p.Faults == nil) {
			t.Errorf("%s became %s: %v", p, q, err)
		}
	}
	for _, bad := range []string{"", "seed", "seed=x", "speed=1", "seed=1,faults=a", "seed=1,faulty=1", "seed=1,kind=bad day"} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
	if _, err := Parse("seed=1,faults=0+x"); err == nil || errors.Is(err, errInvariant) {
		t.Error("no number")
	}
}
