package raftgroup

import (
	"testing"
	"testing/synctest"
	"time"
)

// bubbleClock is the clock of a test's bubble.
type bubbleClock struct{}

func (bubbleClock) Now() time.Time { return time.Now() }

// A snapshot is made as fast as that goes while nothing is appended, and at the
// bandwidth of snapshots beside that.
func TestMakingIsPaced(t *testing.T) {
	t.Parallel()
	for _, busy := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			const rate, size = 16 << 20, 64 << 20
			h := &Host{cfg: Config{Clock: bubbleClock{}}, ctx: t.Context(), tasks: goTasks{}}
			h.making.rate = rate
			began := time.Now()
			for range size / makingPiece {
				if busy {
					h.making.appends.Add(1)
				}
				if err := h.paceMaking(makingPiece); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Millisecond) // it takes that
			}
			took := time.Since(began)
			switch {
			case busy && (took < 3800*time.Millisecond || took > 4200*time.Millisecond):
				t.Errorf("64 MiB at 16 MiB/s took %v", took)
			case !busy && took > time.Second:
				t.Errorf("alone it took %v", took)
			}
		})
	}
}

// The bound on the time of a maker leaves it the time that pacing takes.
func TestMakingTakes(t *testing.T) {
	t.Parallel()
	var m making
	m.rate = 64 << 20
	if d := m.takes(1 << 30); d != 16*time.Second {
		t.Error(d)
	}
	if m.rate = -1; m.takes(1<<30) != 0 {
		t.Error("without a bound it takes time")
	}
}
