package raftgroup

import (
	"testing"
	"testing/synctest"
)

// TestRefusalsAreBounded: a subscription ends while a thousand senders wait for
// room in its propose channel, each of them with its next proposal at once, and
// nobody reads an error. What is refused meanwhile stays within the window, and
// what lies in the channel when all can know of the end is all that comes behind.
func TestRefusalsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const senders, window = 1000, 16
		s := newSubscription(&Host{}, SubscriptionConfig{Window: window * (proposalOverhead + 1)}.withDefaults())
		for range senders {
			go func() { s.proposeCh <- []byte("a") }()
		}
		synctest.Wait()
		close(s.halt)
		go s.pump()
		synctest.Wait()
		held := func() int { return len(s.inbox) + len(s.errs.proposals) }
		if n := held(); n > window+1 {
			t.Errorf("%d proposals are kept, the window has room for %d", n, window)
		}
		before := held()
		close(s.shown)
		synctest.Wait()
		if n := held() - before; n > proposeBuffer+1 {
			t.Errorf("%d more were refused when all could know of the end, the channel holds %d", n, proposeBuffer)
		}
		for sent := held(); sent < senders; sent++ {
			<-s.proposeCh
		}
	})
}
