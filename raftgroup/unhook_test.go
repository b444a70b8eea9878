package raftgroup

import "testing"

// A subscription that has ended before its attach was stepped is not taken on
// any more: its window is not the step's to touch.
func TestAttachAfterTheEnd(t *testing.T) {
	t.Parallel()
	h := &Host{}
	sub := newSubscription(h, SubscriptionConfig{}.withDefaults())
	g := &Group{host: h}
	sub.unhook()
	g.attach(sub)
	if len(g.subs) > 0 || sub.group.Load() != nil {
		t.Fatal("the subscription was taken on")
	}
}
