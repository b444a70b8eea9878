package transport

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Of two processes that run on copies of one data directory, and so come as one
// node and one incarnation, the second is refused, in both directions; it does
// not cut the first one's connections. One that was started once more than the
// first takes over: that is what a restart looks like.
func TestSecondProcessOfOneIncarnationIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := NewMemNetwork()
		c := memCluster(t, network)
		h := newRecorder()
		a := c.start(c.config(1, h))
		first := c.start(c.config(2, newRecorder()))
		cfg := c.config(2, newRecorder())
		cfg.Network, cfg.BindAddress, cfg.Random = network.Host("copy"), "copy", randomness(77)
		copied := c.start(cfg) // and found where the first was

		if err := first.Send(nodeID(1), numbered(1, 1, 8)); err != nil {
			t.Fatal(err)
		}
		await(t, h.messages, "message")
		for range 10 {
			if _, err := copied.Call(t.Context(), nodeID(1), 1, nil); !errors.Is(err, ErrStaleIncarnation) {
				t.Fatalf("the copy is let in: %v", err)
			}
			if _, err := a.Call(t.Context(), nodeID(2), 1, nil); !errors.Is(err, ErrStaleIncarnation) {
				t.Fatalf("the copy is spoken to: %v", err)
			}
			time.Sleep(2 * a.cfg.BackoffMax)
		}
		if err := first.Send(nodeID(1), numbered(1, 2, 8)); err != nil {
			t.Fatal(err)
		}
		if m := await(t, h.messages, "message"); number(m) != 2 {
			t.Fatal(m)
		}
		for len(h.events) > 0 {
			if e := <-h.events; e.err != nil {
				t.Errorf("the first process is reported: %s", e)
			}
		}

		// What does not say which process it is, as version 1.0 does not, is
		// believed as ever.
		rawNode(t, a, network.Host("nine"), purposeCalls, 3)
		rawNode(t, a, network.Host("ten"), purposeMessages, 3)

		cfg = c.config(2, newRecorder())
		cfg.Network, cfg.BindAddress, cfg.Incarnation = network.Host("again"), "again", 2
		again := c.start(cfg)
		if _, err := again.Call(t.Context(), nodeID(1), 1, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Call(t.Context(), nodeID(2), 1, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * a.cfg.BackoffMax)
		if _, err := first.Call(t.Context(), nodeID(1), 1, nil); !errors.Is(err, ErrStaleIncarnation) {
			t.Fatal(err)
		}
	})
}
