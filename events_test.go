package copycat

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/raftgroup"
)

// TestEventsAreDroppedAndCounted has nobody read: the newest events stay.
func TestEventsAreDroppedAndCounted(t *testing.T) {
	t.Parallel()
	var b eventBus
	s := b.add(3)
	for i := range 10 {
		b.tell(raftgroup.Event{Kind: EventLeaderChanged, At: time.Unix(int64(i), 0)})
	}
	if s.Dropped() != 7 {
		t.Errorf("%d dropped of 10, with room for 3", s.Dropped())
	}
	var got []int64
	for range 3 {
		got = append(got, (<-s.C).At.Unix())
	}
	if !slices.Equal(got, []int64{7, 8, 9}) {
		t.Errorf("kept %v", got)
	}
	b.close()
	s.Close()
	if _, ok := <-s.C; ok {
		t.Error("something after the end")
	}
	b.tell(raftgroup.Event{})
	if _, ok := <-b.add(1).C; ok {
		t.Error("something from a node that has ended")
	}
}

// TestEvents loses the quorum of a structure, and gets it back; a subscription
// that nobody reads does not keep the other from hearing of it.
func TestEvents(t *testing.T) {
	t.Parallel()
	cfgs := []*Config{testConfig(t, "dc1"), testConfig(t, "dc2"), testConfig(t, "dc3")}
	nodes := []CopyCat{start(t, cfgs[0])}
	for _, c := range cfgs[1:] {
		c.PeersToContact = []string{nodes[0].Status().GossipAddress}
		nodes = append(nodes, start(t, c))
	}
	waitStatus(t, nodes[0], "three nodes", func(s Status) bool { return len(s.Nodes) == 3 })
	l := newList(t, nodes[0], sampleID)
	l.propose <- []byte("x")
	l.waitFor(1)
	waitStatus(t, nodes[0], "three voters that have everything", func(s Status) bool {
		r, ok := structure(s, sampleID)
		return ok && len(r.Voters) == 3 && len(r.Members) == 3 && r.Leader != "" && r.LeaderDataCenter != ""
	})
	asleep := nodes[0].Events(1)
	defer asleep.Close()
	events := nodes[0].Events(100)
	defer events.Close()
	await := func(kind EventKind) Event {
		t.Helper()
		timeout := time.After(2 * time.Minute)
		for {
			select {
			case e := <-events.C:
				if e.Kind == kind && e.Structure.String() == sampleID {
					return e
				}
			case <-timeout:
				t.Fatalf("no event %q within two minutes", kind)
			}
		}
	}
	nodes[1].Shutdown()
	nodes[2].Shutdown()
	if e := await(EventQuorumLost); e.Catalog || e.Incarnation.Birth == 0 {
		t.Errorf("%+v", e)
	}
	waitStatus(t, nodes[0], "a lost quorum", func(s Status) bool { r, _ := structure(s, sampleID); return r.QuorumLost && r.Leader == "" })
	nodes[1] = start(t, cfgs[1])
	if e := await(EventQuorumRegained); e.Node == "" {
		t.Errorf("a quorum without a leader: %+v", e)
	}
	if asleep.Dropped() == 0 {
		t.Error("nothing was dropped for who does not read")
	}
	nodes[0].Shutdown()
	for range events.C { // closed by the end of the node
	}
}

// TestEventsBuffer asks for buffers that make no sense: they are brought within
// bounds. After Close, what waits can still be received.
func TestEventsBuffer(t *testing.T) {
	t.Parallel()
	var b eventBus
	for _, c := range []struct{ ask, get int }{{-1, 1}, {0, 1}, {7, 7}, {math.MaxInt, maxEvents}} {
		s := b.add(c.ask)
		if cap(s.C) != c.get {
			t.Errorf("%d asked for: %d", c.ask, cap(s.C))
		}
		b.tell(raftgroup.Event{Kind: raftgroup.EventLeaderChanged})
		s.Close()
		s.Close()
		if _, ok := <-s.C; !ok {
			t.Error("what waited is gone")
		}
		if _, ok := <-s.C; ok {
			t.Error("closed, and goes on")
		}
	}
}
