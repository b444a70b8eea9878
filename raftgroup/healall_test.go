package raftgroup_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

// TestSeveralLeaveAtOnce has the nodes of several voters leave at the same
// time, also those of all: each goes soon, and who subscribes elsewhere loses nothing.
// With all on the way out the leader once waited for somebody to take its lead,
// and nobody else was replaced.
func TestSeveralLeaveAtOnce(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ nodes, voters, leave int }{
		{2, 1, 1}, {3, 3, 2}, {5, 3, 2}, {4, 3, 3}, {6, 3, 3}, {5, 5, 2}, {5, 5, 3}, {5, 5, 4}, {7, 5, 3}, {7, 5, 5},
	} {
		for seed := uint64(1); seed <= 2; seed++ {
			t.Run(fmt.Sprintf("%d nodes, %d voters, %d leave, seed %d", c.nodes, c.voters, c.leave, seed), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { severalLeave(t, c.nodes, c.voters, c.leave, seed) })
			})
		}
	}
}

func severalLeave(t *testing.T, nodes, voters, leave int, seed uint64) {
	c := rig.New(t, nodes, seed)
	s := rig.Structure(9)
	c.StartAll()
	defer c.StopAll()
	c.Born(s, voters, raftgroup.Options{Voters: uint32(max(voters, 3))})
	c.Wait(time.Minute, "a leader", func() bool { _, _, ok := leadNode(c, s); return ok })
	last := c.Nodes[nodes-1]
	if !holds(last, s) {
		if err := last.Host.Join(s, c.Nodes[0].ID); err != nil {
			t.Fatal(err)
		}
		c.Wait(time.Minute, "a replica where the subscription is to be", func() bool { return holds(last, s) })
	}
	j := subscribe(t, last, raftgroup.SubscriptionConfig{Structure: s})
	j.propose("a", 10)
	c.Wait(time.Minute, "ten changes", func() bool { return j.count() == 10 })
	var wg sync.WaitGroup
	errs := make([]error, leave)
	for i := range leave {
		wg.Go(func() {
			if errs[i] = vacate(t, c.Nodes[i], 2*time.Minute); errs[i] == nil {
				c.Nodes[i].Stop()
			}
		})
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("node %d: %v", i+1, err)
		}
	}
	j.propose("b", 10)
	c.Wait(2*time.Minute, "twenty changes", func() bool { return j.count() == 20 })
}

// TestMovedElsewhere has an operator pin a structure to data centers where it
// has no voter: all its voters get there, the leader's too.
func TestMovedElsewhere(t *testing.T) {
	t.Parallel()
	for seed := uint64(1); seed <= 3; seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := rig.New(t, 6, seed)
				s := rig.Structure(9)
				c.StartAll()
				defer c.StopAll()
				c.Born(s, 3, raftgroup.Options{})
				c.Wait(time.Minute, "a leader", func() bool { _, _, ok := leadNode(c, s); return ok })
				alter(t, c.Nodes[0], raftgroup.OptionPinnedDataCenters, raftgroup.Options{PinnedDataCenters: []string{"dc4", "dc5", "dc6"}})
				c.Wait(2*time.Minute, "all voters there", func() bool { return onlyOn(c, s, c.Nodes[3:]...) })
			})
		})
	}
}

func alter(t *testing.T, n *rig.Node, field raftgroup.Option, to raftgroup.Options) {
	t.Helper()
	if _, err := n.Host.Alter(t.Context(), rig.Structure(9), raftgroup.OptionsChange{Options: to, Fields: []raftgroup.Option{field}}, n.ID); err != nil {
		t.Fatal(err)
	}
}

// TestFewerVotersWhileSomeAreLost loses two of five voters, with no node to take
// their place, and has the operator wish for three: they go, and one of the
// three may fail. The lost ones once kept the wish from being looked at.
func TestFewerVotersWhileSomeAreLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 5, 61)
		s := rig.Structure(9)
		c.StartAll()
		defer c.StopAll()
		c.Born(s, 5, raftgroup.Options{Voters: 5})
		j := subscribe(t, c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s})
		j.propose("a", 10)
		c.Wait(time.Minute, "ten changes", func() bool { return j.count() == 10 })
		c.Nodes[3].Crash(1)
		c.Nodes[4].Crash(1)
		c.Wait(5*time.Minute, "word that they are lost, and nobody is there", func() bool {
			_, st, ok := leadNode(c, s)
			return ok && strings.Contains(st.Waits, "no node can take its place")
		})
		alter(t, c.Nodes[0], raftgroup.OptionVoters, raftgroup.Options{Voters: 3})
		c.Wait(time.Minute, "three voters, without the lost ones", func() bool { return onlyOn(c, s, c.Nodes[:3]...) })
		c.Nodes[2].Crash(1)
		j.propose("b", 10)
		c.Wait(time.Minute, "changes with one of the three lost", func() bool { return j.count() == 20 })
	})
}
