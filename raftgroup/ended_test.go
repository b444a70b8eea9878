package raftgroup_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

// ended waits for a journal's channels to close, and reports whether it was
// told why.
func (j *journal) ended(c *rig.Cluster, why error) {
	j.t.Helper()
	c.Wait(time.Minute, "both channels closed", func() bool {
		select {
		case <-j.done:
			return true
		default:
			return false
		}
	})
	if !slices.ContainsFunc(j.errors(), func(err error) bool { return errors.Is(err, why) }) {
		j.t.Errorf("ended without %q; errors %v", why, j.errors())
	}
}

func birth(t *testing.T, n *rig.Node, s id.Structure) uint64 {
	t.Helper()
	g, ok := n.Host.Group(s)
	if !ok {
		t.Fatalf("node %s has no replica", n.DataCenter)
	}
	return g.Key().Incarnation.Birth
}

// TestEndGroup deletes a structure under load, asked on a node without a
// replica: what was committed before arrives everywhere, all proposals are
// accounted for, and all channels close.
func TestEndGroup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 4, 5)
		c.StartAll()
		s := rig.Structure(7)
		c.Born(s, 3, raftgroup.Options{})
		var js []*journal
		for _, n := range c.Nodes[:3] {
			js = append(js, subscribe(t, n, raftgroup.SubscriptionConfig{Structure: s}))
		}
		js[0].propose("before", 100)
		c.Wait(time.Minute, "commits", func() bool { return js[0].count() == 100 && js[1].count() == 100 && js[2].count() == 100 })
		born := birth(t, c.Nodes[0], s)
		for _, j := range js {
			go func() {
				for {
					select {
					case j.sub.Propose() <- []byte("x"):
					case <-j.done:
						return
					}
					time.Sleep(time.Millisecond)
				}
			}()
		}
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for range 2 { // the second time changes nothing
			if err := c.Nodes[3].Host.EndGroup(ctx, s, born); err != nil {
				t.Fatal(err)
			}
		}
		for _, j := range js {
			j.ended(c, raftgroup.ErrDeleted)
		}
		same(t, js...)
		if js[0].count() <= 100 {
			t.Error("nothing was committed while it was deleted")
		}
		late := subscribe(t, c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s})
		if _, err := c.Nodes[0].Host.Alter(ctx, s, raftgroup.OptionsChange{Options: raftgroup.Options{Voters: 5}, Fields: []raftgroup.Option{raftgroup.OptionVoters}}); !errors.Is(err, raftgroup.ErrDeleted) {
			t.Errorf("alter what was deleted: %v", err)
		}
		key := id.Group{Structure: s, Incarnation: id.Incarnation{Birth: born}}
		for _, n := range c.Nodes[:3] {
			for range 2 {
				if err := n.Host.RemoveEnded(ctx, key); err != nil {
					t.Fatal(err)
				}
			}
			if len(n.Host.Groups()) != 0 || len(n.Log.Groups()) != 0 {
				t.Errorf("node %s keeps %d replicas, %d logs", n.DataCenter, len(n.Host.Groups()), len(n.Log.Groups()))
			}
			if files, err := n.Snapshots.Groups(); err != nil || len(files) != 0 {
				t.Errorf("node %s keeps snapshots: %v, %v", n.DataCenter, files, err)
			}
		}
		c.Nodes[0].Host.GiveUp(s)
		late.ended(c, raftgroup.ErrDeleted)
		c.StopAll()
	})
}

// TestEndOfWhatIsAway removes, on a node that was cut off, the replica of a
// structure that was deleted meanwhile, with proposals under way.
func TestEndOfWhatIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, 6)
		c.StartAll()
		s := rig.Structure(7)
		c.Born(s, 3, raftgroup.Options{})
		j := subscribe(t, c.Nodes[2], raftgroup.SubscriptionConfig{Structure: s})
		j.propose("a", 10)
		c.Wait(time.Minute, "commits", func() bool { return j.count() == 10 })
		for _, n := range c.Nodes[:2] {
			c.Net.Cut(n.ID, c.Nodes[2].ID)
			c.Net.Cut(c.Nodes[2].ID, n.ID)
		}
		j.propose("b", 10)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		if err := c.Nodes[0].Host.EndGroup(ctx, s, birth(t, c.Nodes[2], s)); err != nil {
			t.Fatal(err)
		}
		key := id.Group{Structure: s, Incarnation: id.Incarnation{Birth: birth(t, c.Nodes[2], s)}}
		if err := c.Nodes[2].Host.RemoveEnded(ctx, key); err != nil {
			t.Fatal(err)
		}
		j.ended(c, raftgroup.ErrDeleted)
		lost := 0
		for _, err := range j.errors() {
			var p *raftgroup.ProposalError
			if errors.As(err, &p) && (errors.Is(err, raftgroup.ErrOutcomeUnknown) || errors.Is(err, raftgroup.ErrNeverCommitted)) {
				lost++
			}
		}
		if lost != 10 || j.count() != 10 {
			t.Errorf("%d commits, %d errors about proposals: %v", j.count(), lost, j.errors())
		}
		c.StopAll()
	})
}

// TestAlter changes options from a node without a replica, and finds them
// after a snapshot and a restart.
func TestAlter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 4, 5)
		c.StartAll()
		s := rig.Structure(7)
		c.Born(s, 3, raftgroup.Options{SnapshotEntries: 50})
		j := subscribe(t, c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s})
		j.propose("a", 10)
		c.Wait(time.Minute, "commits", func() bool { return j.count() == 10 })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		change := raftgroup.OptionsChange{Options: raftgroup.Options{PreferredDataCenter: "dc2"}, Fields: []raftgroup.Option{raftgroup.OptionPreferredDataCenter}}
		opt, err := c.Nodes[3].Host.Alter(ctx, s, change, c.Nodes[1].ID)
		if err != nil || opt.PreferredDataCenter != "dc2" || opt.Voters != 3 || opt.SnapshotEntries != 50 {
			t.Fatalf("%+v, %v", opt, err)
		}
		if _, err := c.Nodes[3].Host.Alter(ctx, s, raftgroup.OptionsChange{Options: raftgroup.Options{Voters: 4}, Fields: []raftgroup.Option{raftgroup.OptionVoters}}); !errors.Is(err, raftgroup.ErrInvalidOptions) {
			t.Fatalf("four voters: %v", err)
		}
		j.propose("b", 200)
		c.Wait(time.Minute, "a snapshot", func() bool { g, ok := c.Nodes[1].Host.Group(s); return ok && g.Status().Snapshot.Commits > 100 })
		c.StopAll()
		<-j.done
		c.StartAll()
		for _, n := range c.Nodes[:3] {
			c.Wait(time.Minute, "the options again", func() bool {
				g, ok := n.Host.Group(s)
				return ok && g.Status().Options.PreferredDataCenter == "dc2"
			})
		}
		_, err = c.Nodes[3].Host.Alter(canceled(), rig.Structure(8), change)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a structure that nobody knows: %v", err)
		}
		c.StopAll()
	})
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// TestAlterAfterCreatedAnew asks a node first that still has the ended replica
// of a structure which was created anew elsewhere: that one is altered.
func TestAlterAfterCreatedAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, 5)
		c.StartAll()
		s := rig.Structure(7)
		c.Born(s, 1, raftgroup.Options{Voters: 1})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		born := birth(t, c.Nodes[0], s)
		if err := c.Nodes[0].Host.EndGroup(ctx, s, born); err != nil {
			t.Fatal(err)
		}
		next := c.Genesis(s, 1, raftgroup.Options{Voters: 1})
		next.Token[0]++
		next.Members = map[id.Replica]id.Node{1: c.Nodes[1].ID}
		if err := c.Nodes[1].Host.Prepare(ctx, next); err != nil {
			t.Fatal(err)
		}
		if err := c.Nodes[1].Host.StartPrepared(ctx, next.Token, id.Incarnation{Birth: born + 1}); err != nil {
			t.Fatal(err)
		}
		c.Wait(time.Minute, "a leader of the next life", func() bool {
			g, ok := c.Nodes[1].Host.Group(s)
			return ok && g.Status().IsLeader
		})
		change := raftgroup.OptionsChange{Options: raftgroup.Options{PreferredDataCenter: "dc2"}, Fields: []raftgroup.Option{raftgroup.OptionPreferredDataCenter}}
		if opt, err := c.Nodes[2].Host.Alter(ctx, s, change, c.Nodes[0].ID, c.Nodes[1].ID); err != nil || opt.PreferredDataCenter != "dc2" {
			t.Errorf("%+v, %v", opt, err)
		}
		c.StopAll()
	})
}

// TestProposedAfterTheEnd: a structure is deleted, and the consumer here is slow, so
// that its subscription goes on for a while. What it proposes until the commit
// channel closes is reported, each one, and sending does not block meanwhile.
func TestProposedAfterTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 1, 1)
		c.StartAll()
		defer c.StopAll()
		s := rig.Structure(9)
		c.Born(s, 1, raftgroup.Options{})
		j := newJournal(t)
		j.gate = make(chan struct{})
		j.subscribe(c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s, Window: 1 << 10})
		first := 400 // more than lie in the commit channel
		for i := range first {
			j.sub.Propose() <- fmt.Appendf(nil, "a-%d", i)
			time.Sleep(time.Millisecond)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := c.Nodes[0].Host.EndGroup(ctx, s, birth(t, c.Nodes[0], s)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		late := 1000 // more than lie in the propose channel, and in the window
		for i := range late {
			j.sub.Propose() <- fmt.Appendf(nil, "late-%d", i)
		}
		if j.over() {
			t.Fatal("it is over before its consumer has read anything")
		}
		close(j.gate)
		<-j.done
		told := make(map[string]bool)
		for _, err := range j.errors() {
			if p := (*raftgroup.ProposalError)(nil); errors.As(err, &p) && errors.Is(err, raftgroup.ErrNeverCommitted) && errors.Is(err, raftgroup.ErrDeleted) {
				told[string(p.Proposal)] = true
			}
		}
		if len(told) != late || j.count() != first {
			t.Errorf("of %d changes %d are delivered, of %d after the end %d are reported", first, j.count(), late, len(told))
		}
	})
}
