package copycat

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/raftgroup"
)

func TestOptionsAreCollected(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		opts []AllocationOption
		want raftgroup.Options
	}{
		{nil, raftgroup.Options{}},
		{[]AllocationOption{WithDataCenterReplicas(2)}, raftgroup.Options{Voters: 3, DataCenters: 2}},
		{[]AllocationOption{WithDataCenterReplicas(5)}, raftgroup.Options{Voters: 5, DataCenters: 5}},
		{[]AllocationOption{WithVoters(5), WithDataCenterReplicas(2)}, raftgroup.Options{Voters: 5, DataCenters: 2}},
		{[]AllocationOption{WithPinnedDataCenters("a", "b"), WithPreferredDataCenter("b"), WithLearnersPerDataCenter(1)},
			raftgroup.Options{PinnedDataCenters: []string{"a", "b"}, PreferredDataCenter: "b", LearnersPerDataCenter: 1}},
	} {
		got, err := collect(c.opts)
		if err != nil || !reflect.DeepEqual(got.Options, c.want) {
			t.Errorf("%+v, %v; want %+v", got.Options, err, c.want)
		}
	}
	for i, o := range []AllocationOption{WithVoters(0), WithVoters(2), WithVoters(11), WithDataCenterReplicas(0), WithLearnersPerDataCenter(-1), WithLearnersPerDataCenter(17), nil} {
		if _, err := collect([]AllocationOption{o}); !errors.Is(err, ErrInvalidOptions) {
			t.Errorf("option %d: %v, want ErrInvalidOptions", i, err)
		}
	}
}

// TestAlterDataStructure gives options at the creation of a structure, changes
// one on another node, and finds all of them after a restart.
func TestAlterDataStructure(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "dc1")
	a := start(t, cfg)
	b := start(t, testConfig(t, "dc2", a.Status().GossipAddress))
	if _, err := a.AllocateNewDataStructure(WithPinnedDataCenters("dc1"), WithPreferredDataCenter("dc2")); !errors.Is(err, ErrInvalidOptions) {
		t.Fatalf("options that contradict: %v", err)
	}
	s, err := a.AllocateNewDataStructure(WithVoters(1), WithPinnedDataCenters("dc1"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := b.AlterDataStructure(ctx, s, WithLearnersPerDataCenter(1)); err != nil {
		t.Fatal(err)
	}
	if err := b.AlterDataStructure(ctx, s, WithPreferredDataCenter("dc2")); !errors.Is(err, ErrInvalidOptions) {
		t.Fatalf("a leader where no replica may be: %v", err)
	}
	other, err := a.NewDataStructureID()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.AlterDataStructure(ctx, other, WithVoters(3)); !errors.Is(err, ErrUnknownStructure) {
		t.Fatalf("a structure that nobody made: %v", err)
	}
	a.Shutdown()
	if err := a.AlterDataStructure(ctx, s, WithVoters(3)); !errors.Is(err, ErrClosed) {
		t.Fatalf("on a node that was shut down: %v", err)
	}
	a = start(t, cfg)
	waitStatus(t, a, "the options", func(st Status) bool {
		r, ok := structure(st, s.String())
		return ok && r.Options.Voters == 1 && r.Options.LearnersPerDataCenter == 1 && reflect.DeepEqual(r.Options.PinnedDataCenters, []string{"dc1"})
	})
}

// TestAlterConfirmsDeletion: a replica says that its group has ended, which the
// catalog knows of a little later. Until then that may be an earlier life of
// the structure: only the catalog tells a caller that it was deleted.
func TestAlterConfirmsDeletion(t *testing.T) {
	t.Parallel()
	a := start(t, testConfig(t, "dc1"))
	s, err := a.AllocateNewDataStructure(WithVoters(1))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	n := a.(*node)
	g, ok := n.host.Load().Group(*s)
	if !ok {
		t.Fatal("no replica on the only node")
	}
	if err := n.host.Load().EndGroup(ctx, *s, g.Key().Incarnation.Birth); err != nil {
		t.Fatal(err)
	}
	if err := a.AlterDataStructure(ctx, s, WithPreferredDataCenter("dc1")); !errors.Is(err, ErrDeleted) {
		t.Errorf("altered what has ended: %v", err)
	}
	if rec, err := n.catalog.Load().Lookup(ctx, *s); !errors.Is(err, ErrDeleted) {
		t.Errorf("said to be deleted, and the catalog has %+v, %v", rec, err)
	}
}

// TestContextsThatHaveEnded calls all that takes a context with one that has
// ended: each returns at once, and says so by its documented errors.
func TestContextsThatHaveEnded(t *testing.T) {
	t.Parallel()
	cc := start(t, testConfig(t, "dc1"))
	known, err := cc.AllocateNewDataStructure()
	if err != nil {
		t.Fatal(err)
	}
	unknown, err := cc.NewDataStructureID()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = cc.DataStructures(ctx)
	calls := map[string]error{"list": err}
	for name, s := range map[string]*ID{"known": known, "unknown": unknown} {
		calls["alter "+name] = cc.AlterDataStructure(ctx, s, WithVoters(1))
		calls["create "+name] = cc.CreateDataStructure(ctx, s)
		calls["delete "+name] = cc.DeleteDataStructure(ctx, s)
	}
	for call, err := range calls {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", call, err)
		}
		if !strings.HasPrefix(call, "alter") && !errors.Is(err, ErrCatalogUnavailable) {
			t.Errorf("%s: %v is not ErrCatalogUnavailable", call, err)
		}
	}
}

// TestNoNodeForAStructure asks for a structure where there is no node: that has
// an error of its own, since to wait for the catalog would be in vain.
func TestNoNodeForAStructure(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "dc1")
	cfg.JoinTimeout = time.Second
	cc := start(t, cfg)
	if _, err := cc.AllocateNewDataStructure(WithPinnedDataCenters("atlantis")); !errors.Is(err, ErrNoNodes) {
		t.Errorf("allocate: got %v, want ErrNoNodes", err)
	}
	s, err := cc.NewDataStructureID()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := cc.CreateDataStructure(ctx, s, WithPinnedDataCenters("atlantis")); !errors.Is(err, ErrNoNodes) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), s.String()) {
		t.Errorf("create: got %v, want ErrNoNodes with the structure and the context's error", err)
	}
	if err := cc.CreateDataStructure(t.Context(), s, WithPinnedDataCenters("dc1")); err != nil {
		t.Error(err)
	}
}
