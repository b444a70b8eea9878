package raftgroup

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func newCredit(limit int64) *credit { return &credit{limit: limit, room: make(chan struct{}, 1)} }

func TestCreditTake(t *testing.T) {
	t.Parallel()
	c := newCredit(10)
	if !c.take(6) || !c.take(4) || c.take(1) || c.used.Load() != 10 {
		t.Fatalf("used %d", c.used.Load())
	}
	c.give(10)
	if !c.take(50) { // larger than the window, but alone
		t.Fatal("what is larger than the window never goes")
	}
	if c.take(1) || c.used.Load() != 50 {
		t.Fatalf("used %d", c.used.Load())
	}
	c.force(5)
	c.give(55)
	if c.used.Load() != 0 {
		t.Fatalf("used %d", c.used.Load())
	}
}

func TestCreditWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, stop := newCredit(10), make(chan struct{})
		c.take(10)
		got := make(chan bool, 1)
		go func() { got <- c.wait(4, stop) }()
		synctest.Wait()
		c.give(3) // not enough
		synctest.Wait()
		select {
		case <-got:
			t.Fatal("took what is not there")
		default:
		}
		c.give(1)
		if !<-got || c.used.Load() != 10 {
			t.Fatalf("used %d", c.used.Load())
		}
		go func() { got <- c.wait(1, stop) }()
		synctest.Wait()
		close(stop)
		if <-got || c.used.Load() != 10 {
			t.Fatalf("after stop: used %d", c.used.Load())
		}
	})
}

func TestCreditBlocksWhileOverdrawn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, stop, free := newCredit(10), make(chan struct{}), make(chan struct{})
		c.force(30)
		go func() { c.block(stop); close(free) }()
		synctest.Wait()
		c.give(19)
		synctest.Wait()
		select {
		case <-free:
			t.Fatal("let go while overdrawn")
		default:
		}
		c.give(1)
		<-free
		c.force(1)
		close(stop)
		c.block(stop) // returns
	})
}

// Takers and givers in every order: no wake-up is lost, or the bubble would
// find everybody asleep; the bound holds; and nothing is left at the end.
func TestCreditLosesNoWakeUp(t *testing.T) {
	t.Parallel()
	seeds(t, 100, func(t *testing.T, rng *rand.Rand) {
		sizes, delays := make([]int64, 200), make([]time.Duration, 200)
		for i := range sizes {
			sizes[i], delays[i] = rng.Int64N(14)+1, time.Duration(rng.IntN(3))
		}
		synctest.Test(t, func(t *testing.T) {
			c := newCredit(10)
			var givers sync.WaitGroup
			for i, n := range sizes {
				if !c.wait(n, nil) {
					t.Fatal("stopped")
				}
				if used := c.used.Load(); used > 10 && used != n {
					t.Fatalf("used %d after %d was taken", used, n)
				}
				givers.Go(func() {
					time.Sleep(delays[i])
					c.give(n)
				})
			}
			givers.Wait()
			if c.used.Load() != 0 {
				t.Fatalf("used %d", c.used.Load())
			}
		})
	})
}

// The same with real threads, for the race detector.
func TestCreditUnderLoad(t *testing.T) {
	t.Parallel()
	c := newCredit(100)
	stop := make(chan struct{})
	back := make(chan int64, 1000)
	var givers sync.WaitGroup
	for range 4 {
		givers.Go(func() {
			for n := range back {
				c.give(n)
			}
		})
	}
	rng := seeded(1)
	for range 20_000 {
		n := rng.Int64N(60) + 1
		if rng.IntN(50) == 0 {
			c.force(n)
			back <- n
			c.block(stop)
			continue
		}
		if !c.wait(n, stop) {
			t.Fatal("stopped")
		}
		back <- n
	}
	close(back)
	givers.Wait()
	if c.used.Load() != 0 {
		t.Fatalf("used %d", c.used.Load())
	}
}
