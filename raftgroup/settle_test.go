package raftgroup_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

// TestLeaveSettlesThoughRaftCountsAnew has one of three nodes leave where the
// leader's look at its group falls, now and then, on the moment at which raft has
// begun to count anew who answers: for the time that nobody must have been there
// to take the place this says nothing, and it does not begin anew either.
func TestLeaveSettlesThoughRaftCountsAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, 31)
		c.Tune = func(cfg *raftgroup.Config) { cfg.ElectionTicks = 9 } // a look takes five
		s := rig.Structure(9)
		c.StartAll()
		c.Born(s, 3, raftgroup.Options{})
		c.Wait(time.Minute, "a leader", func() bool { _, _, ok := leadNode(c, s); return ok })
		leader, _, _ := leadNode(c, s)
		goes := c.Nodes[(slices.Index(c.Nodes, leader)+1)%3]
		began := time.Now()
		if err := vacate(t, goes, 5*time.Minute); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 15*time.Second || took > 25*time.Second {
			t.Errorf("it left after %s, want some 15 s", took)
		}
		c.StopAll()
	})
}
