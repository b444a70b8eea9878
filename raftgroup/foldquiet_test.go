package raftgroup_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

// TestQuietReplicasAreFolded: what rests holds on to nothing that only busy times
// need. With TestReplicaIsSmall it keeps ten thousand idle structures cheap.
func TestQuietReplicasAreFolded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, 3)
		c.StartAll()
		defer c.StopAll()
		s := rig.Structure(9)
		c.Born(s, 3, raftgroup.Options{})
		for range 2 {
			awaitQuiet(c)
			leader, others := leaderOf(c, s)
			time.Sleep(time.Second) // of the test's clock: the last step is over
			synctest.Wait()
			if errands, duties := leader.Host.Unfolded(s); errands || !duties {
				t.Errorf("the leader that rests has errands %t, want none; duties %t, want them", errands, duties)
			}
			for _, n := range others {
				if errands, duties := n.Host.Unfolded(s); errands || duties {
					t.Errorf("a follower that rests has errands %t and duties %t, want none", errands, duties)
				}
			}
			leader.Crash(1) // once more behind an election that did not wait for a time-out
			c.Wait(time.Minute, "another leader", func() bool { now, _ := leaderOf(c, s); return now != nil && now != leader })
			leader.Start()
		}
	})
}
