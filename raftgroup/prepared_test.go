package raftgroup_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/wal"
)

// TestStartedAsItIsDiscarded: a prepared replica is being started when it is
// removed, as of a birth whose group was rebuilt since: that the start is durable
// is heard in the replica's last step. Nothing is left of it.
func TestStartedAsItIsDiscarded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 1, 1)
		n, faulty := c.Nodes[0], &faultyLog{}
		c.Tune = func(cfg *raftgroup.Config) {
			faulty.Log = n.Log
			cfg.Log = faulty
		}
		c.StartAll()
		defer c.StopAll()
		s := rig.Structure(9)
		birth := c.Genesis(s, 1, raftgroup.Options{Voters: 1})
		if err := n.Host.Prepare(context.Background(), birth); err != nil {
			t.Fatal(err)
		}
		faulty.silence(func(u wal.Update) bool { return u.Meta != nil })
		started := make(chan error, 1)
		go func() { started <- n.Host.StartPrepared(context.Background(), birth.Token, id.Incarnation{Birth: 2}) }()
		c.Wait(time.Minute, "the start to be durable", func() bool { return faulty.unanswered() == 1 })
		if err := n.Host.DiscardAfter(birth.Token, faulty.speak); err != nil {
			t.Fatal(err)
		}
		if err := <-started; !errors.Is(err, raftgroup.ErrUnknownGroup) {
			t.Errorf("started: %v", err)
		}
		if _, here := n.Host.Group(s); here || len(n.Host.Groups()) > 0 || len(n.Log.Groups()) > 0 {
			t.Errorf("%+v are here, and %d logs", n.Host.Groups(), len(n.Log.Groups()))
		}
		if !n.Host.IsVacant() {
			t.Error("the node cannot leave")
		}
	})
}

// TestDiscardedTwice: two find at the same moment that a prepared replica is to go.
func TestDiscardedTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 1, 1)
		c.StartAll()
		defer c.StopAll()
		n := c.Nodes[0]
		birth := c.Genesis(rig.Structure(9), 1, raftgroup.Options{Voters: 1})
		if err := n.Host.Prepare(context.Background(), birth); err != nil {
			t.Fatal(err)
		}
		other := make(chan error, 1)
		err := n.Host.DiscardAfter(birth.Token, func() {
			go func() { other <- n.Host.DiscardPrepared(context.Background(), birth.Token) }()
			time.Sleep(time.Millisecond) // virtual: until it waits for the step
		})
		if err := errors.Join(err, <-other); err != nil {
			t.Error(err)
		}
		if !n.Host.IsVacant() || len(n.Log.Groups()) > 0 {
			t.Errorf("%d logs are here", len(n.Log.Groups()))
		}
	})
}
