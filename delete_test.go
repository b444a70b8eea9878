package copycat

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

// TestDeleteDataStructure deletes a structure with subscribers on two nodes while a third one,
// which holds a replica, is down. All that was committed arrives, the channels
// close, and nothing is left on any node, the third included. The ID is refused
// until it is created anew, and then it has nothing of the old life.
func TestDeleteDataStructure(t *testing.T) {
	t.Parallel()
	cfgs := []*Config{testConfig(t, "dc1"), testConfig(t, "dc2"), testConfig(t, "dc3")}
	a := start(t, cfgs[0])
	cfgs[1].PeersToContact = []string{a.Status().GossipAddress}
	cfgs[2].PeersToContact = cfgs[1].PeersToContact
	b, c := start(t, cfgs[1]), start(t, cfgs[2])
	for _, n := range []CopyCat{a, b, c} {
		waitStatus(t, n, "three nodes, and a catalog of three voters", func(s Status) bool {
			return len(s.Nodes) == 3 && slices.ContainsFunc(s.Structures, func(st StructureStatus) bool { return st.Catalog && len(st.Voters) == 3 })
		})
	}
	s, err := ParseID(sampleID)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := b.CreateDataStructure(ctx, s, WithVoters(3)); err != nil {
		t.Fatal(err)
	}
	if err := a.CreateDataStructure(ctx, s); !errors.Is(err, ErrExists) {
		t.Fatalf("created again: %v", err)
	}
	la, lb := newList(t, a, sampleID), newList(t, b, sampleID)
	for range 50 {
		la.propose <- []byte("old")
	}
	la.waitFor(50)
	lb.waitFor(50)
	for _, n := range []CopyCat{a, b, c} {
		waitStatus(t, n, "a replica", func(st Status) bool {
			r, ok := structure(st, sampleID)
			return ok && len(r.Voters) == 3 && r.Applied > 0
		})
	}
	waitStatus(t, b, "the list has it, with three replicas", func(Status) bool { // of those that came after its birth it is told later
		listed, err := b.DataStructures(ctx)
		if err != nil || len(listed) != 1 || listed[0].ID != *s || listed[0].Options.Voters != 3 {
			t.Fatalf("listed: %+v, %v", listed, err)
		}
		return len(listed[0].Replicas) == 3
	})
	c.Shutdown()
	if err := b.DeleteDataStructure(ctx, s); err != nil {
		t.Fatal(err)
	}
	if err := a.DeleteDataStructure(ctx, s); err != nil {
		t.Fatalf("deleted again: %v", err)
	}
	for _, l := range []*list{la, lb} {
		l.waitError(ErrDeleted)
		<-l.done
		if len(l.all()) != 50 {
			t.Errorf("a subscriber has %d lines", len(l.all()))
		}
	}
	c = start(t, cfgs[2])
	for _, n := range []CopyCat{a, b, c} {
		waitStatus(t, n, "no replica", func(st Status) bool {
			return !slices.ContainsFunc(st.Structures, func(r StructureStatus) bool { return r.ID == *s })
		})
	}
	for _, n := range []CopyCat{a, b, c} {
		// Where gossip still names a holder, a subscription begins, and ends.
		_, commits, errs, _, err := n.SubscribeToDataStructure(s, func() ([]byte, error) { return nil, nil })
		if err == nil {
			err = <-errs
			for range commits {
				t.Error("a late subscriber was handed something")
			}
		}
		if !errors.Is(err, ErrDeleted) {
			t.Errorf("a late subscriber: %v", err)
		}
	}
	if err := a.AlterDataStructure(ctx, s, WithVoters(5)); !errors.Is(err, ErrDeleted) {
		t.Errorf("altered what is deleted: %v", err)
	}
	if err := c.CreateDataStructure(ctx, s); err != nil {
		t.Fatal(err)
	}
	again := newList(t, b, sampleID)
	again.propose <- []byte("new")
	again.waitFor(1)
	if lines := again.all(); !slices.Equal(lines, []string{"new"}) {
		t.Errorf("the new life has %q", lines)
	}
	if err := a.DeleteDataStructure(ctx, new(ID)); !errors.Is(err, ErrMalformedID) {
		t.Errorf("no ID: %v", err)
	}
	none, err := a.NewDataStructureID()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.DeleteDataStructure(ctx, none); !errors.Is(err, ErrUnknownStructure) {
		t.Errorf("what never was: %v", err)
	}
}

// TestListOnALoneNode: without a quorum in time the error says so.
func TestListOnALoneNode(t *testing.T) {
	t.Parallel()
	cc := start(t, testConfig(t, "here"))
	if got, err := cc.DataStructures(t.Context()); err != nil || len(got) != 0 {
		t.Fatalf("%v, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := cc.DataStructures(ctx); !errors.Is(err, ErrCatalogUnavailable) {
		t.Errorf("with a context that has ended: %v", err)
	}
	cc.Shutdown()
	if _, err := cc.DataStructures(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}
