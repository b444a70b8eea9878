package raftgroup

import (
	"sync"
	"testing"
	"time"
)

// TestCarriedOverWindowSettlesOnce: a subscription moves to a replica that was
// seeded before its last batch counted. The batch comes by again, and must not
// settle the proposals that stand in the window now, which were never sent.
func TestCarriedOverWindowSettlesOnce(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	settled := make(fates)
	p := proposerWith(20, 1)
	p.opened(7, now)
	old := sendOne(t, p, 1<<20, now)
	p.counted(&old, 1, now, settled.settle)
	for range 20 {
		p.add([]byte{1}, time.Time{})
	}
	p.reconcile(0, now, settled.settle) // the table of the new replica: nothing has counted
	p.counted(&old, 1, now, settled.settle)
	if settled[fateCommitted] != 20 || len(p.window) != 20 {
		t.Fatalf("settled %v, %d proposals left of 20 that were not sent", settled, len(p.window))
	}
	// What goes out now comes right behind.
	b := sendOne(t, p, 1<<20, now)
	if b.first != 21 || b.count != 20 {
		t.Fatalf("the next batch holds %d from %d on", b.count, b.first)
	}
	p.counted(&b, 21, now, settled.settle)
	if settled[fateCommitted] != 40 || len(p.window) != 0 {
		t.Fatalf("settled %v, %d proposals left", settled, len(p.window))
	}
}

// TestCarriedOverWindowSkipsWhatItMissed: the other way round, the new replica
// stands behind entries whose numbers counted and that this proposer never saw.
func TestCarriedOverWindowSkipsWhatItMissed(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	settled := make(fates)
	p := proposerWith(20, 1)
	p.opened(7, now)
	b := sendOne(t, p, 1<<20, now)
	p.counted(&b, 11, now, settled.settle) // 1 to 10 counted in an earlier copy
	if settled[fateCommitted] != 20 || len(p.window) != 0 {
		t.Fatalf("settled %v, %d proposals left", settled, len(p.window))
	}
}

type fixedClock struct{}

func (fixedClock) Now() time.Time { return time.Unix(0, 0) }

// TestWakeUpDuringAStep: somebody wakes a group while it is being stepped, after
// the step has looked. The group stands in the line once more; if it waited for
// the next tick instead, a commit would take 100 ms now and then.
func TestWakeUpDuringAStep(t *testing.T) {
	t.Parallel()
	h := &Host{cfg: Config{Clock: fixedClock{}}.withDefaults()}
	h.ready.wake = sync.NewCond(&h.ready.mu)
	g := &Group{host: h}
	steps := 0
	g.call(func() { steps++; g.wake(); g.wake() })
	for h.Step() {
		steps++
	}
	if steps != 3 { // the call, its step, and one more step
		t.Fatalf("%d, want 3", steps)
	}
	g.wake()
	if !h.Step() || h.Step() {
		t.Fatal("a wake-up at rest is not one step")
	}
}
