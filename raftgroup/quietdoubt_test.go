package raftgroup_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

// TestDoubtOfAWokenGroupIsOver breaks a connection while a group rests, and has a
// proposal wake it before the watch does. The doubt does not stay in line until
// the group rests again: it would forget a leader that is well.
func TestDoubtOfAWokenGroupIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, 1)
		c.StartAll()
		s := rig.Structure(1)
		c.Born(s, 3, raftgroup.Options{})
		c.Wait(time.Minute, "a leader", func() bool { l, _ := leaderOf(c, s); return l != nil })
		leader, others := leaderOf(c, s)
		j := subscribe(t, others[0], raftgroup.SubscriptionConfig{Structure: s})
		j.propose("a", 1)
		awaitQuiet(c)
		others[0].Host.PeerDown(leader.ID)
		j.propose("b", 1)
		c.Wait(time.Minute, "the second", func() bool { return j.count() == 2 })
		time.Sleep(time.Second)
		awaitQuiet(c)
		time.Sleep(200 * time.Millisecond)
		if _, q := quiet(c); q != 3 {
			t.Errorf("only %d of 3 replicas rest, a moment after all of them did", q)
		}
		began := time.Now()
		j.propose("c", 1)
		c.Wait(time.Minute, "the third", func() bool { return j.count() == 3 })
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("a proposal took %s, soon after its group came to rest", took)
		}
		c.StopAll()
		<-j.done
	})
}

// TestSupersededAreNotWatched sets replicas aside while they rest: their hosts
// have nothing left to ask one another.
func TestSupersededAreNotWatched(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, 1)
		said := countTalk(c)
		c.StartAll()
		s := rig.Structure(1)
		c.Born(s, 3, raftgroup.Options{})
		awaitQuiet(c)
		key := id.Group{Structure: s, Incarnation: id.Incarnation{Birth: 2}}
		for _, n := range c.Nodes {
			if err := n.Host.Supersede(context.Background(), key, id.Incarnation{Birth: 2, Recovery: 1}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		_, before := said()
		time.Sleep(time.Minute)
		if _, now := said(); now != before {
			t.Errorf("hosts without any replica sent one another %d messages in a minute", now-before)
		}
		c.StopAll()
	})
}

// TestLateWordAsAGroupFallsQuiet has gossip tell of a new process between a
// leader's last look at its sessions, which comes twice a second, and its offer of
// rest: the sessions of the old process are expired all the same.
func TestLateWordAsAGroupFallsQuiet(t *testing.T) {
	t.Parallel()
	for _, phase := range []time.Duration{600, 700, 800} {
		for _, moment := range []time.Duration{3120, 3150, 3180} {
			t.Run(fmt.Sprintf("phase %d moment %d", phase, moment), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { lateWord(t, phase*time.Millisecond, moment*time.Millisecond) })
			})
		}
	}
}

func lateWord(t *testing.T, phase, moment time.Duration) {
	c := rig.New(t, 3, 6)
	defer c.StopAll()
	began := time.Now()
	late, s, leader, others := restartedUnheard(t, c, 25)
	other := subscribe(t, others[1], raftgroup.SubscriptionConfig{Structure: s})
	time.Sleep(30 * time.Second)
	awaitQuiet(c)
	sessions := func() int {
		g, _ := leader.Host.Group(s)
		return g.Status().Sessions
	}
	if now, _ := leaderOf(c, s); now != leader || sessions() != 2 {
		t.Fatalf("the leader is another one, or there are %d sessions", sessions())
	}
	// A whole second since the start, and the phase: duties run by the clock.
	time.Sleep(time.Second - time.Since(began)%time.Second + phase + 50*time.Millisecond)
	c.Net.SetLatency(60 * time.Millisecond)
	time.AfterFunc(moment, func() { late.Store(nil) })
	for i := range 3 {
		other.sub.Propose() <- fmt.Appendf(nil, "x%d", i)
		time.Sleep(150 * time.Millisecond)
	}
	c.Wait(5*time.Minute, "the session of the old process to end", func() bool { return sessions() == 1 })
}
