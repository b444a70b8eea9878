package raftgroup_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/wal"
)

// ends waits for the end of a subscription that has left.
func ends(c *rig.Cluster, j *journal) {
	c.T.Helper()
	c.Wait(time.Minute, "the subscription's end", func() bool {
		select {
		case <-j.done:
			return true
		default:
			return false
		}
	})
}

func noState() ([]byte, error) { return nil, nil }

// TestOneGroupThatDoesNotStart: a log that contradicts itself stops its own
// replica. The host starts, the other groups work, and whoever subscribes to
// the stopped one is told why.
func TestOneGroupThatDoesNotStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 1, 1)
		n := c.Nodes[0]
		n.Start()
		bad, good := rig.Structure(1), rig.Structure(2)
		c.Born(bad, 1, raftgroup.Options{})
		c.Born(good, 1, raftgroup.Options{})
		n.Stop()
		c.Tune = func(cfg *raftgroup.Config) {
			cfg.Log = &faultyLog{Log: n.Log, groups: func(groups []wal.GroupState) []wal.GroupState {
				st := &groups[0]
				st.HardState = &raftpb.HardState{Term: new(st.HardState.GetTerm()), Vote: new(uint64(0)), Commit: new(st.LastIndex + 100)}
				return groups
			}}
		}
		n.Start() // fails the test if NewHost fails
		defer c.StopAll()
		if st := n.Host.Groups(); st[0].Role != "stopped" || st[0].Group.Structure != bad || st[1].Failed {
			t.Fatalf("%+v", st)
		}
		j := subscribe(t, n, raftgroup.SubscriptionConfig{Structure: good})
		j.propose("a", 10)
		c.Wait(time.Minute, "commits of the other group", func() bool { return j.count() == 10 })
		close(j.sub.Propose())
		ends(c, j)

		j = subscribe(t, n, raftgroup.SubscriptionConfig{Structure: bad})
		j.propose("a", 1)
		close(j.sub.Propose())
		ends(c, j)
		reported(t, j, 1)
	})
}

// reported checks that a subscription was told why its replica stands, and
// what became of each of its proposals.
func reported(t *testing.T, j *journal, proposals int) {
	t.Helper()
	why, lost := 0, 0
	for _, err := range j.errors() {
		var p *raftgroup.ProposalError
		switch {
		case errors.As(err, &p) && (errors.Is(err, raftgroup.ErrNeverCommitted) || errors.Is(err, raftgroup.ErrOutcomeUnknown)):
			lost++
		case errors.Is(err, raftgroup.ErrGroupFailed):
			why++
		default:
			t.Errorf("unexpected: %v", err)
		}
	}
	if why == 0 || lost != proposals {
		t.Errorf("%d errors about the replica, %d about %d proposals: %v", why, lost, proposals, j.errors())
	}
}

// TestUnsubscribeFromStoppedReplica: a subscription whose replica stopped under
// it, with proposals on their way, hears about each, and ends when it wants to.
func TestUnsubscribeFromStoppedReplica(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 1, 1)
		n := c.Nodes[0]
		var log *faultyLog
		c.Tune = func(cfg *raftgroup.Config) {
			log = &faultyLog{Log: n.Log}
			cfg.Log = log
		}
		n.Start()
		defer c.StopAll()
		s := rig.Structure(1)
		c.Born(s, 1, raftgroup.Options{})
		j := subscribe(t, n, raftgroup.SubscriptionConfig{Structure: s})
		j.propose("a", 10)
		c.Wait(time.Minute, "commits", func() bool { return j.count() == 10 })
		log.refuse(fmt.Errorf("%w: a test says so", wal.ErrFailed))
		j.propose("b", 5)
		c.Wait(time.Minute, "the replica to stop", func() bool { return n.Host.Groups()[0].Failed })
		j.propose("c", 5)
		close(j.sub.Propose())
		ends(c, j)
		reported(t, j, 10)
		c.Wait(time.Minute, "the subscription to be gone", func() bool { return n.Host.Groups()[0].Subscriptions == 0 })
	})
}

// TestUnsubscribeBeforeTheBase: a subscription whose provider never brings the
// base ends when it wants to.
func TestUnsubscribeBeforeTheBase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 1, 1)
		c.StartAll()
		defer c.StopAll()
		s := rig.Structure(1)
		c.Born(s, 1, raftgroup.Options{})
		var calls atomic.Int32
		j := subscribe(t, c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s, Provider: func() ([]byte, error) {
			calls.Add(1)
			return nil, errors.New("not now")
		}})
		c.Wait(time.Minute, "the provider to be asked again", func() bool { return calls.Load() > 2 })
		close(j.sub.Propose())
		ends(c, j)
	})
}

// TestCloseWaitsForUnreadErrors: a subscription has ended, and nobody has read
// its errors. After Close there is no goroutine left that could hand them over:
// what the channel holds can be read, and it is closed.
func TestCloseWaitsForUnreadErrors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 1, 1)
		c.StartAll()
		s := rig.Structure(7)
		c.Born(s, 1, raftgroup.Options{})
		sub, err := c.Nodes[0].Host.Subscribe(raftgroup.SubscriptionConfig{Structure: s, Provider: noState})
		if err != nil {
			t.Fatal(err)
		}
		for range 200 {
			sub.Propose() <- nil // refused
		}
		close(sub.Propose())
		for range sub.Commits() {
		}
		c.StopAll()
		buffered, read := len(sub.Errors()), 0
		for range sub.Errors() {
			read++
		}
		if buffered == 0 || read != buffered {
			t.Errorf("%d errors in the channel after Close, and then %d", buffered, read)
		}
	})
}

// TestRemovedReplicaHandsOverSubscriptions: a replica is taken away under a
// subscription that proposes, with a session, and another one takes its place.
// The subscription goes on there: each proposal once, in order.
func TestRemovedReplicaHandsOverSubscriptions(t *testing.T) {
	t.Parallel()
	for seed := uint64(1); seed <= 5; seed++ {
		synctest.Test(t, func(t *testing.T) {
			c := rig.New(t, 2, seed)
			c.Net.SetLatency(5 * time.Millisecond)
			c.StartAll()
			s := rig.Structure(9)
			c.Born(s, 1, raftgroup.Options{Voters: 1, SnapshotEntries: 100})
			n := c.Nodes[1]
			join := func(learners int) {
				t.Helper()
				if err := n.Host.Join(s, c.Nodes[0].ID); err != nil {
					t.Fatal(err)
				}
				c.Wait(time.Minute, "a learner", func() bool { _, l := voters(c, s); return l == learners })
			}
			first := subscribe(t, c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s})
			first.propose("a", 10)
			c.Wait(time.Minute, "the first ten", func() bool { return first.count() == 10 })
			join(1)
			moved := subscribe(t, n, raftgroup.SubscriptionConfig{Structure: s})
			go moved.propose("r0-n1", 600)
			c.Wait(time.Minute, "some of them", func() bool { return first.count() > 100 })
			if err := n.Host.RemoveReplica(s); err != nil {
				t.Fatal(err)
			}
			between := subscribe(t, n, raftgroup.SubscriptionConfig{Structure: s})
			between.propose("r0-n2", 10)
			leaving := subscribe(t, n, raftgroup.SubscriptionConfig{Structure: s})
			close(leaving.sub.Propose())
			ends(c, leaving)
			join(2) // of the one that was removed, the group does not know
			c.Wait(time.Minute, "all of them", func() bool {
				return first.count() == 620 && moved.count() == 620 && between.count() == 620
			})
			same(t, first, moved, between)
			check(t, first.all()[10:]) // each once, in order
			for _, j := range []*journal{first, moved, between} {
				for _, err := range j.errors() {
					if p := (*raftgroup.ProposalError)(nil); errors.As(err, &p) {
						t.Error(err)
					}
				}
			}
			c.StopAll()
			<-first.done
			<-moved.done
			<-between.done
		})
	}
}
