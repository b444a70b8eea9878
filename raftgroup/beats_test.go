package raftgroup

import (
	"sync"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// TestNeedlessHeartbeats: a heartbeat is left out for one tick after its follower
// has acknowledged something new, and never if it carries a read.
func TestNeedlessHeartbeats(t *testing.T) {
	t.Parallel()
	var b beats
	to := func(r uint64) *raftpb.Message {
		return &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), To: u64(r)}
	}
	read := to(2)
	read.Context = make([]byte, 8)
	expect := func(when string, two, three bool) {
		t.Helper()
		if b.needless(to(2)) != two || b.needless(to(3)) != three || b.needless(read) {
			t.Fatalf("%s: left out for 2: %v, for 3: %v, with a read: %v; want %v, %v, false", when, b.needless(to(2)), b.needless(to(3)), b.needless(read), two, three)
		}
		b.tick()
	}
	expect("nothing was acknowledged", false, false)
	b.acked(2, 7)
	expect("the first acknowledgement may be an old one", false, false)
	b.acked(2, 8)
	expect("one follower has acknowledged", true, false)
	expect("a tick later", false, false)
	b.acked(2, 8)
	expect("a repetition", false, false)
	b.acked(3, 5)
	b.acked(2, 9)
	b.acked(3, 9)
	expect("both have", true, true)
	for r := range uint64(2 * maxBeats) {
		b.acked(100+r, 1)
		b.acked(100+r, 2)
	}
	if len(b.followers) != maxBeats || b.needless(to(100+2*maxBeats-1)) {
		t.Errorf("%d followers are remembered", len(b.followers))
	}
}

// TestTickRides: in a group with work a tick waits for the next step, and no
// longer than until the next tick.
func TestTickRides(t *testing.T) {
	t.Parallel()
	h := &Host{}
	h.ready.wake = sync.NewCond(&h.ready.mu)
	g := &Group{host: h}
	due := func() bool { return g.mailbox.due }
	g.mailbox.busy = true
	if g.tick(); due() || g.mailbox.ticks != 1 {
		t.Fatalf("after work: due %v with %d ticks", due(), g.mailbox.ticks)
	}
	if g.tick(); !due() || g.mailbox.ticks != 2 {
		t.Fatalf("a tick later: due %v with %d ticks", due(), g.mailbox.ticks)
	}
}
