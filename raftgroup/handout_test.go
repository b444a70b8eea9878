package raftgroup

import (
	"errors"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// TestHandoutCounts holds the count of bytes in a channel against a model,
// while sends, looks and receives come in any order.
func TestHandoutCounts(t *testing.T) {
	t.Parallel()
	seeds(t, 20, func(t *testing.T, rng *rand.Rand) {
		ch := make(chan []byte, 8)
		h := newHandout(ch)
		var inside []int
		sum := 0
		for range 2000 {
			size := rng.IntN(maxHandout / 3)
			if rng.IntN(20) == 0 {
				size = 2 * maxHandout
			}
			switch rng.IntN(3) {
			case 0:
				if len(inside) > 0 {
					<-ch
					sum -= inside[0]
					inside = inside[1:]
				}
				continue
			case 1:
				if got, want := h.fits(size), len(inside) == 0 || sum+size <= maxHandout; got != want {
					t.Fatalf("%d bytes beside %d in %d commits: fits %v", size, sum, len(inside), got)
				}
				continue
			}
			if h.fits(size) && len(inside) < cap(ch) {
				ch <- make([]byte, 0, 1)
				inside, sum = append(inside, size), sum+size
				h.sent(size)
			}
			if h.keep(len(ch)); h.bytes != sum || h.n != len(inside) {
				t.Fatalf("%d bytes in %d commits, want %d in %d", h.bytes, h.n, sum, len(inside))
			}
		}
	})
}

// TestCommitChannelIsBoundedInBytes sends large commits to a consumer that
// does not read, reads, and stops again: what waits for it stays within its
// bytes, nothing is lost or changes places, and the warning comes.
func TestCommitChannelIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSubscription(nil, SubscriptionConfig{}.withDefaults())
		const n, size = 40, maxHandout / 8
		go func() {
			for i := range n {
				p := make([]byte, size)
				if i == 20 {
					p = make([]byte, 3*maxHandout) // goes alone
				}
				p[0] = byte(i)
				if !s.sendCommit(p) { // the only one who touches s.out
					t.Error("stopped")
				}
			}
			close(s.commitCh)
		}()
		time.Sleep(2 * s.cfg.ConsumerPatience)
		if got := len(s.commitCh); got != 8 {
			t.Errorf("%d commits wait, want 8", got)
		}
		synctest.Wait()
		if e, ok, _ := s.errs.next(); !ok || !errors.Is(e.err, ErrSlowConsumer) {
			t.Errorf("warning: %v", e.err)
		}
		for i := range n {
			if i%7 == 0 {
				time.Sleep(time.Second)
				if held := len(s.commitCh) * size; held > maxHandout {
					t.Errorf("before commit %d, %d bytes wait", i, held)
				}
			}
			if p := <-s.commitCh; p[0] != byte(i) {
				t.Fatalf("commit %d is %d", i, p[0])
			}
		}
		if _, more := <-s.commitCh; more {
			t.Error("one too many")
		}
		// Empty commits and nils weigh nothing: the number bounds them.
		s = newSubscription(nil, SubscriptionConfig{}.withDefaults())
		go func() {
			for s.sendCommit(nil) {
			}
		}()
		synctest.Wait()
		if got := len(s.commitCh); got != commitBuffer {
			t.Errorf("%d nils wait, want %d", got, commitBuffer)
		}
		s.shut()
		synctest.Wait()
	})
}
