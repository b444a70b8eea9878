package copycat

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

// TestLeave takes two of four nodes out of a cluster, one after the other: what
// they held is elsewhere before they go, and nobody waits out a grace period.
func TestLeave(t *testing.T) {
	t.Parallel()
	config := func(dc string, peers ...string) *Config {
		c := testConfig(t, dc, peers...)
		c.ReplaceAfter = 3 * time.Second // so long the last leave waits for a node that could take over
		return c
	}
	first := start(t, config("dc1"))
	nodes := []CopyCat{first}
	for _, dc := range []string{"dc2", "dc3", "dc3"} {
		nodes = append(nodes, start(t, config(dc, first.Status().GossipAddress)))
	}
	waitStatus(t, first, "four nodes alive", func(s Status) bool { return alive(s) == 4 })
	id, err := first.AllocateNewDataStructure()
	if err != nil {
		t.Fatal(err)
	}
	stays := nodes[3]
	l := newList(t, stays, id.String())
	l.propose <- []byte("before")
	l.waitFor(1)
	waitStatus(t, stays, "three voters", func(s Status) bool {
		st, ok := structure(s, id.String())
		return ok && len(st.Voters) == 3
	})
	for i, want := range []struct{ voters, learners int }{{3, 0}, {1, 1}} {
		goes := nodes[i]
		gone := goes.Status().NodeID
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		if err := goes.Leave(ctx); err != nil {
			t.Fatalf("node %d: %v", i, err)
		}
		cancel()
		if err := goes.Leave(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("leaving twice: %v", err)
		}
		waitStatus(t, stays, "the structure and the catalog are whole without it", func(s Status) bool {
			st, ok := structure(s, id.String())
			return ok && len(st.Voters) == want.voters && len(st.Learners) == want.learners &&
				!slices.Contains(append(st.Voters, st.Learners...), gone) &&
				!slices.ContainsFunc(s.Structures, func(c StructureStatus) bool { return c.Catalog && slices.Contains(c.Voters, gone) })
		})
		waitStatus(t, stays, "gossip knows that it has left", func(s Status) bool {
			return !slices.ContainsFunc(s.Nodes, func(n NodeStatus) bool { return n.NodeID == gone && n.Alive })
		})
	}
	l.propose <- []byte("after")
	l.waitFor(2)
	if _, err := nodes[2].AllocateNewDataStructure(); err != nil {
		t.Fatalf("the catalog without its first nodes: %v", err)
	}
}

// TestLastNodeDoesNotLeave: there is nobody to take what it has. It goes on.
func TestLastNodeDoesNotLeave(t *testing.T) {
	t.Parallel()
	cc := start(t, testConfig(t, "dc1"))
	l := newList(t, cc, sampleID)
	l.propose <- []byte("x")
	l.waitFor(1)
	var left *LeaveError
	if err := cc.Leave(t.Context()); !errors.As(err, &left) || !errors.Is(err, ErrNoOtherNode) || len(left.Structures) != 2 {
		t.Fatalf("the only node left: %v", err)
	}
	if cc.Status().Leaving {
		t.Error("it still says that it leaves")
	}
	l.propose <- []byte("y")
	l.waitFor(2)
}

// TestNothingBeginsOnANodeThatLeaves has a leave that cannot end, and asks the
// node for new things meanwhile: each is refused, and nothing of it is left in
// the catalog. A shutdown ends the leave.
func TestNothingBeginsOnANodeThatLeaves(t *testing.T) {
	t.Parallel()
	a := start(t, testConfig(t, "dc1"))
	b := start(t, testConfig(t, "dc2", a.Status().GossipAddress))
	waitStatus(t, b, "two nodes alive", func(s Status) bool { return alive(s) == 2 })
	here, err := b.AllocateNewDataStructure(WithPinnedDataCenters("dc2"), WithVoters(1))
	if err != nil {
		t.Fatal(err)
	}
	left := make(chan error, 1)
	go func() { left <- b.Leave(t.Context()) }()
	waitStatus(t, b, "it leaves", func(s Status) bool { return s.Leaving })
	waitStatus(t, a, "the other one knows", func(s Status) bool {
		return slices.ContainsFunc(s.Nodes, func(n NodeStatus) bool { return n.Leaving })
	})
	if err := b.Leave(t.Context()); !errors.Is(err, ErrLeaving) {
		t.Errorf("leave: got %v, want ErrLeaving", err)
	}
	if _, err := b.AllocateNewDataStructure(); !errors.Is(err, ErrLeaving) {
		t.Errorf("allocate: got %v, want ErrLeaving", err)
	}
	fresh, err := b.NewDataStructureID()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.CreateDataStructure(t.Context(), fresh); !errors.Is(err, ErrLeaving) {
		t.Errorf("create: got %v, want ErrLeaving", err)
	}
	if _, _, _, _, err := b.SubscribeToDataStructure(fresh, func() ([]byte, error) { return nil, nil }); !errors.Is(err, ErrLeaving) {
		t.Errorf("subscribe: got %v, want ErrLeaving", err)
	}
	if list, err := a.DataStructures(t.Context()); err != nil || len(list) != 1 || list[0].ID != *here {
		t.Errorf("the catalog has %+v, %v", list, err)
	}
	b.Shutdown()
	var rest *LeaveError
	if err := <-left; !errors.As(err, &rest) || !errors.Is(err, ErrClosed) {
		t.Errorf("cut short by a shutdown: %v", err)
	}
}
