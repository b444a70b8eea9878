package load

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestWake: the structures that are woken lie all over, and each proposal is timed by itself.
func TestWake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := testPlan()
		p.Structures, p.Proposers = 20, AtFollower
		l := New(p)
		seen := make(map[uint64]bool)
		slowAtFirst := func(node int, b []byte) [][]byte {
			if node == 0 {
				took := time.Millisecond
				if at := uint64(b[5]); !seen[at] { // the header's lane
					seen[at], took = true, 5*time.Millisecond
				}
				time.Sleep(took)
			}
			return [][]byte{b}
		}
		e := newEcho(l, slowAtFirst)
		w, err := l.Wake(t.Context(), e, 5)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		if len(w.First) != 5 || len(w.Next) != 5 || len(seen) != 5 {
			t.Fatalf("%d and %d proposals timed, of %d lanes, want 5 of each", len(w.First), len(w.Next), len(seen))
		}
		for i := range w.First {
			if w.First[i] != 5*time.Millisecond || w.Next[i] != time.Millisecond {
				t.Errorf("structure %d of those: %s and %s, want 5 and 1 ms", i, w.First[i], w.Next[i])
			}
		}
		if o := l.Outcome(); o.Errors() != 0 || o.Ops != 0 {
			t.Errorf("%d errors, %d operations in a window that there was not; the first error: %v", o.Errors(), o.Ops, o.FirstError)
		}
		for i, ln := range l.lanes {
			if ln.structure != 4*i {
				t.Errorf("woken %d: structure %d, want %d", i, ln.structure, 4*i)
			}
		}
	})
}

// TestWakeTellsOfFailures: a proposal that the system gives up is no latency.
func TestWakeTellsOfFailures(t *testing.T) {
	t.Parallel()
	l := New(testPlan())
	lost := errors.New("lost")
	e := newEcho(l, nil)
	e.refuse = lost
	_, err := l.Wake(t.Context(), e, 2)
	if !errors.Is(err, lost) {
		t.Errorf("%v, want %v", err, lost)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}
