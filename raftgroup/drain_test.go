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
	"github.com/copycat-replication/copycat/wal"
)

// behind is how much a subscription of these tests has proposed and not read:
// more than its channel holds.
const behind = 400

// proposeSlowly proposes one change after the other, in entries of their own.
func (j *journal) proposeSlowly(from string) {
	for i := range behind {
		j.sub.Propose() <- fmt.Appendf(nil, "%s-%d", from, i)
		time.Sleep(time.Millisecond)
	}
}

// over reports whether a journal's channels are closed.
func (j *journal) over() bool {
	select {
	case <-j.done:
		return true
	default:
		return false
	}
}

// told reports whether a journal was given such an error.
func (j *journal) told(why error) bool {
	return slices.ContainsFunc(j.errors(), func(err error) bool { return errors.Is(err, why) })
}

// drains is a group with one voter, a learner elsewhere, and a subscription there
// that is behind: it has proposed much, all of it is committed, and it reads nothing.
type drains struct {
	t     *testing.T
	c     *rig.Cluster
	s     id.Structure
	n     *rig.Node // where it is
	first *journal  // of another subscription, which reads
	j     *journal
}

func newDrains(t *testing.T, c *rig.Cluster) *drains {
	d := &drains{t: t, c: c, s: rig.Structure(9), n: c.Nodes[1]}
	c.StartAll()
	c.Born(d.s, 1, raftgroup.Options{Voters: 1})
	d.first = subscribe(t, c.Nodes[0], raftgroup.SubscriptionConfig{Structure: d.s})
	d.join()
	d.j = newJournal(t)
	d.j.gate = make(chan struct{})
	d.j.subscribe(d.n, raftgroup.SubscriptionConfig{Structure: d.s})
	d.j.proposeSlowly("r0-n1")
	c.Wait(time.Minute, "all of it", func() bool { return d.first.count() == behind })
	time.Sleep(time.Second) // the learner has heard, and settled it
	return d
}

// join has the node get a replica, the first or another one.
func (d *drains) join() {
	d.t.Helper()
	if err := d.n.Host.Join(d.s, d.c.Nodes[0].ID); err != nil {
		d.t.Fatal(err)
	}
	d.c.Wait(time.Minute, "a learner", func() bool {
		g, ok := d.n.Host.Group(d.s)
		return ok && g.Status().Role == "learner"
	})
}

// remove takes the replica away under the subscription.
func (d *drains) remove() {
	d.t.Helper()
	if err := d.n.Host.RemoveReplica(d.s); err != nil {
		d.t.Fatal(err)
	}
}

// read opens the gate, and waits until what had been handed out is read.
func (d *drains) read() {
	close(d.j.gate)
	read := -1
	for d.j.count() != read || read == 0 {
		read = d.j.count()
		time.Sleep(3 * time.Second)
	}
}

// whole checks that the subscription ends, and not before its own last change.
func (d *drains) whole() {
	d.t.Helper()
	ends(d.c, d.j)
	got := d.j.all()
	if len(got) != behind {
		d.t.Fatalf("the channel closed after %d of %d changes", len(got), behind)
	}
	same(d.t, d.first, d.j)
	if errs := d.j.errors(); len(errs) > 0 && !d.j.told(raftgroup.ErrSlowConsumer) {
		d.t.Errorf("errors: %v", errs)
	}
}

// TestDrainWithoutReplica: a subscription that is behind when it unsubscribes,
// and whose replica is removed before it has read on, gets the rest from the
// replica that the node has next. The same if the replica goes first.
func TestDrainWithoutReplica(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"unsubscribes first", "replica goes first"} {
		t.Run(first, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := rig.New(t, 2, 1)
				d := newDrains(t, c)
				defer c.StopAll()
				if first == "unsubscribes first" {
					close(d.j.sub.Propose())
					time.Sleep(time.Second)
					d.remove()
				} else {
					d.remove()
					close(d.j.sub.Propose())
					time.Sleep(time.Second)
				}
				d.read()
				if d.j.over() {
					t.Fatalf("the channel closed after %d of %d changes", d.j.count(), behind)
				}
				d.join()
				d.whole()
				c.Wait(time.Minute, "the subscription to be gone", func() bool {
					g, ok := d.n.Host.Group(d.s)
					return ok && g.Status().Subscriptions == 0
				})
			})
		})
	}
}

// TestDrainOnAReplicaThatIsBehind: who unsubscribes from a replica that has not
// come to its own changes yet, which an earlier one had settled, gets them.
func TestDrainOnAReplicaThatIsBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 2, 1)
		d := newDrains(t, c)
		defer c.StopAll()
		d.remove()
		c.Net.SetLatency(50 * time.Millisecond)
		if err := d.n.Host.Join(d.s, c.Nodes[0].ID); err != nil {
			t.Fatal(err)
		}
		c.Wait(time.Minute, "a replica", func() bool { return holds(d.n, d.s) })
		c.Net.Cut(d.n.ID, c.Nodes[0].ID)
		c.Net.Cut(c.Nodes[0].ID, d.n.ID)
		time.Sleep(time.Second)
		if g, _ := d.n.Host.Group(d.s); g.Status().Applied > behind/2 {
			t.Fatal("the replica is not behind")
		}
		close(d.j.sub.Propose())
		d.read()
		if d.j.over() {
			t.Fatalf("the channel closed after %d of %d changes", d.j.count(), behind)
		}
		c.Net.Heal()
		d.whole()
	})
}

// TestDrainProposesWithoutReplica: who unsubscribes while there is no replica,
// with proposals on their way, waits for another one, and gets them.
func TestDrainProposesWithoutReplica(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 2, 1)
		d := newDrains(t, c)
		defer c.StopAll()
		c.Net.Cut(d.n.ID, c.Nodes[0].ID)
		d.j.sub.Propose() <- []byte("r0-n1-last")
		time.Sleep(time.Second) // it is in the window, and does not get through
		d.remove()
		close(d.j.sub.Propose())
		d.read()
		if d.j.over() {
			t.Fatalf("the channel closed after %d changes, with a proposal on its way; errors %v", d.j.count(), d.j.errors())
		}
		c.Net.Heal()
		d.join()
		ends(c, d.j)
		if got := d.j.all(); len(got) != behind+1 || got[behind] != "r0-n1-last" {
			t.Fatalf("%d changes; errors %v", len(got), d.j.errors())
		}
	})
}

// TestDrainAfterHealing: healing removes the replica under a subscription that
// drains; its node gets another one for it.
func TestDrainAfterHealing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 4, 11)
		s := rig.Structure(9)
		c.StartAll()
		c.Born(s, 3, raftgroup.Options{})
		n, rest := c.Nodes[2], []*rig.Node{c.Nodes[0], c.Nodes[1], c.Nodes[3]}
		first := subscribe(t, c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s})
		j := newJournal(t)
		j.gate = make(chan struct{})
		j.subscribe(n, raftgroup.SubscriptionConfig{Structure: s})
		j.proposeSlowly("r0-n1")
		c.Wait(time.Minute, "all of it", func() bool { return first.count() == behind })
		close(j.sub.Propose())
		time.Sleep(time.Second)
		g, _ := n.Host.Group(s)
		before := g.Status().Replica
		c.Partition(rest, []*rig.Node{n})
		c.Wait(2*time.Minute, "a voter in its place", func() bool { return onlyOn(c, s, rest...) })
		c.Partition(c.Nodes)
		c.Wait(2*time.Minute, "another replica", func() bool {
			g, ok := n.Host.Group(s)
			return ok && g.Status().Replica != before
		})
		close(j.gate)
		ends(c, j)
		if j.count() != behind {
			t.Fatalf("the channel closed after %d of %d changes", j.count(), behind)
		}
		same(t, first, j)
		c.StopAll()
	})
}

// TestDrainOfWhatIsDeleted: nothing comes any more of a structure that was
// deleted. A subscription that drains and has lost its replica ends, and hears
// that it has not been handed all of its own.
func TestDrainOfWhatIsDeleted(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"replica gone, then deleted", "deleted under it", "deleted, and removed as such"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := rig.New(t, 2, 1)
				d := newDrains(t, c)
				defer c.StopAll()
				key := id.Group{Structure: d.s, Incarnation: id.Incarnation{Birth: birth(t, d.n, d.s)}}
				close(d.j.sub.Propose())
				time.Sleep(time.Second)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if how == "replica gone, then deleted" {
					d.remove()
				}
				if err := c.Nodes[0].Host.EndGroup(ctx, d.s, key.Incarnation.Birth); err != nil {
					t.Fatal(err)
				}
				switch how {
				case "deleted under it": // the log tells it, and then the replica goes
					time.Sleep(time.Second)
					fallthrough
				case "deleted, and removed as such":
					if err := d.n.Host.RemoveEnded(ctx, key); err != nil {
						t.Fatal(err)
					}
				default:
					d.read()
					if d.j.over() {
						t.Fatal("ended before anybody knew that it was deleted")
					}
					d.n.Host.GiveUp(d.s)
				}
				if how != "replica gone, then deleted" {
					close(d.j.gate)
				}
				d.j.ended(c, raftgroup.ErrDeleted)
				if d.j.count() >= behind || !d.j.told(raftgroup.ErrUndelivered) {
					t.Errorf("%d of %d changes, errors %v", d.j.count(), behind, d.j.errors())
				}
			})
		})
	}
}

// TestDrainWithoutHope: where no replica comes any more, a subscription that
// drains ends, and hears that it has not been handed all of its own: one that
// none is got for, and one on a node whose log takes no writes any more.
func TestDrainWithoutHope(t *testing.T) {
	t.Parallel()
	t.Run("log failed", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c := rig.New(t, 2, 1)
			logs := make(map[id.Node]*faultyLog)
			c.Tune = func(cfg *raftgroup.Config) {
				log := &faultyLog{Log: cfg.Log.(*wal.Log)}
				cfg.Log, logs[cfg.Node] = log, log
			}
			d := newDrains(t, c)
			defer c.StopAll()
			close(d.j.sub.Propose())
			time.Sleep(time.Second)
			d.remove()
			d.read()
			if d.j.over() {
				t.Fatal("ended while there was hope")
			}
			logs[d.n.ID].refuse(fmt.Errorf("%w: a test says so", wal.ErrFailed))
			d.j.ended(c, raftgroup.ErrUndelivered)
		})
	})
	t.Run("passive", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c := rig.New(t, 2, 1)
			d := newDrains(t, c)
			defer c.StopAll()
			j := newJournal(t)
			j.gate = make(chan struct{})
			j.subscribe(d.n, raftgroup.SubscriptionConfig{Structure: d.s, Passive: true})
			j.proposeSlowly("r0-n2")
			c.Wait(time.Minute, "all of it", func() bool { return d.first.count() == 2*behind })
			close(j.sub.Propose())
			time.Sleep(time.Second)
			d.remove()
			close(j.gate)
			j.ended(c, raftgroup.ErrUndelivered)
			close(d.j.gate)
		})
	})
}

// TestUnsubscribeUnderLoad: a subscription that reads more slowly than the others
// propose ends behind what it owes, and does not run after them.
func TestUnsubscribeUnderLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 1, 1)
		c.StartAll()
		defer c.StopAll()
		s := rig.Structure(9)
		c.Born(s, 1, raftgroup.Options{})
		first := subscribe(t, c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s})
		sub, err := c.Nodes[0].Host.Subscribe(raftgroup.SubscriptionConfig{Structure: s, Provider: noState})
		if err != nil {
			t.Fatal(err)
		}
		l := startLoad(first) // one each 20 ms
		defer func() { close(l.stop); <-l.done }()
		go func() {
			for range sub.Errors() {
			}
		}()
		for i := range 400 {
			sub.Propose() <- fmt.Appendf(nil, "r0-n9-%d", i)
		}
		time.Sleep(time.Second)
		close(sub.Propose())
		end := time.After(10 * time.Minute)
		for {
			select {
			case p, ok := <-sub.Commits():
				if !ok {
					return
				}
				if p == nil {
					if _, err := sub.Consume(); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(25 * time.Millisecond)
			case <-end:
				t.Fatal("it runs after the others, and does not end")
			}
		}
	})
}

// TestConsumeOfWhatIsDeleted: a SnapshotConsumer that waits for something to load,
// since the provider failed, waits no longer than there is hope.
func TestConsumeOfWhatIsDeleted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 2, 1)
		c.StartAll()
		defer c.StopAll()
		s := rig.Structure(9)
		c.Born(s, 1, raftgroup.Options{Voters: 1, SnapshotEntries: 100})
		n := c.Nodes[1]
		if err := n.Host.Join(s, c.Nodes[0].ID); err != nil {
			t.Fatal(err)
		}
		c.Wait(time.Minute, "a learner", func() bool { _, l := voters(c, s); return l == 1 })
		asked, fail := make(chan struct{}, 100), make(chan struct{})
		calls := 0
		sub, err := n.Host.Subscribe(raftgroup.SubscriptionConfig{Structure: s, Provider: func() ([]byte, error) {
			if calls++; calls == 1 {
				return nil, nil
			}
			asked <- struct{}{}
			<-fail
			return nil, errors.New("not now")
		}})
		if err != nil {
			t.Fatal(err)
		}
		told := false
		go func() {
			for err := range sub.Errors() {
				told = told || errors.Is(err, raftgroup.ErrDeleted)
			}
		}()
		consumed := make(chan error, 1)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for p := range sub.Commits() {
				if p == nil {
					if _, err := sub.Consume(); err != nil {
						consumed <- err
					}
				}
			}
		}()
		for i := range 300 {
			sub.Propose() <- fmt.Appendf(nil, "%d", i)
			time.Sleep(time.Millisecond)
		}
		<-asked
		if err := n.Host.RemoveReplica(s); err != nil {
			t.Fatal(err)
		}
		close(fail)
		time.Sleep(5 * time.Second)
		select {
		case err := <-consumed:
			t.Fatalf("given up while another replica may come: %v", err)
		default:
		}
		n.Host.GiveUp(s)
		select {
		case err := <-consumed:
			if !errors.Is(err, raftgroup.ErrClosed) || !errors.Is(err, raftgroup.ErrDeleted) {
				t.Errorf("consume: %v", err)
			}
		case <-time.After(time.Minute):
			t.Fatal("the consumer waits for a snapshot of what was deleted")
		}
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Fatal("the commit channel is open")
		}
		synctest.Wait()
		if !told {
			t.Error("not told that it was deleted")
		}
	})
}
