package raftgroup_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

// TestTwoBases has two first subscribers bring different bases at the same
// moment. One wins; both end with the same lines, the base in front.
func TestTwoBases(t *testing.T) {
	t.Parallel()
	for seed := uint64(1); seed <= 20; seed++ {
		synctest.Test(t, func(t *testing.T) {
			c := rig.New(t, 3, seed)
			c.StartAll()
			s := rig.Structure(1)
			c.Born(s, 3, raftgroup.Options{})
			var js []*journal
			for i, n := range c.Nodes {
				j := newJournal(t, fmt.Sprintf("base-%d", i))
				j.subscribe(n, raftgroup.SubscriptionConfig{Structure: s})
				js = append(js, j)
			}
			for i, j := range js {
				j.sub.Propose() <- fmt.Appendf(nil, "own-%d", i)
			}
			c.Wait(time.Minute, "base and three lines", func() bool {
				return js[0].count() == 4 && js[1].count() == 4 && js[2].count() == 4
			})
			same(t, js...)
			if got := js[0].all()[0]; !strings.HasPrefix(got, "base-") {
				t.Errorf("seed %d: first line is %q", seed, got)
			}
			loads := js[0].loads + js[1].loads + js[2].loads
			if loads != 2 {
				t.Errorf("seed %d: %d loads; everybody but the winner loads", seed, loads)
			}
			c.StopAll()
		})
	}
}

// TestEmptyBaseAgainstFull has two first subscribers, of which one begins with
// nothing. If its base wins, the other one must let go of what it holds: it is
// given a load of no bytes. The one that holds nothing gets no nil then.
func TestEmptyBaseAgainstFull(t *testing.T) {
	t.Parallel()
	won := make(map[bool]int)
	for seed := uint64(1); seed <= 20; seed++ {
		synctest.Test(t, func(t *testing.T) {
			c := rig.New(t, 3, seed)
			c.StartAll()
			s := rig.Structure(1)
			c.Born(s, 3, raftgroup.Options{})
			empty, full := newJournal(t), newJournal(t, "base")
			for i, j := range []*journal{empty, full} {
				j.subscribe(c.Nodes[(int(seed)+i)%3], raftgroup.SubscriptionConfig{Structure: s})
			}
			empty.sub.Propose() <- []byte("one")
			full.sub.Propose() <- []byte("two")
			c.Wait(time.Minute, "both lines", func() bool {
				return contains(empty.all(), "one") && contains(empty.all(), "two") && contains(full.all(), "one") && contains(full.all(), "two")
			})
			same(t, empty, full)
			emptyWon := empty.count() == 2
			won[emptyWon]++
			if emptyWon == (empty.loads > 0) || emptyWon == (full.loads == 0) {
				t.Errorf("seed %d: the empty base won: %t; %d loads of the empty, %d of the full", seed, emptyWon, empty.loads, full.loads)
			}
			c.StopAll()
		})
	}
	if won[true] == 0 || won[false] == 0 {
		t.Errorf("who won: %v; both should now and then", won)
	}
}

// TestProviderFailsAtMake gives the consumer an older state and the commits
// after it again.
func TestProviderFailsAtMake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 1, 1)
		c.StartAll()
		s := rig.Structure(1)
		c.Born(s, 1, raftgroup.Options{SnapshotEntries: 100})
		j := newJournal(t, "base")
		var calls atomic.Int64
		broken := errors.New("broken")
		j.subscribe(c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s, Provider: func() ([]byte, error) {
			switch calls.Add(1) {
			case 2:
				return nil, broken
			case 3:
				panic("in the provider")
			}
			return j.provide()
		}})
		for round := range 5 {
			for i := range 120 {
				j.sub.Propose() <- fmt.Appendf(nil, "%d-%d", round, i)
			}
			c.Wait(10*time.Minute, "the round's lines", func() bool { return j.count() == 1+120*(round+1) })
			time.Sleep(time.Minute) // the failed maker's time-out passes
		}
		c.Wait(10*time.Minute, "a snapshot after all", func() bool {
			g, _ := c.Nodes[0].Host.Group(s)
			return g.Status().Snapshot.Commits > 0
		})
		lines := j.all()
		if lines[0] != "base" {
			t.Errorf("first line is %q", lines[0])
		}
		for i, l := range lines[1:] {
			if want := fmt.Sprintf("%d-%d", i/120, i%120); l != want {
				t.Fatalf("line %d is %q, want %q", i, l, want)
			}
		}
		var failed int
		for _, err := range j.errs {
			if errors.Is(err, raftgroup.ErrProvider) {
				failed++
			}
		}
		if failed != 2 {
			t.Errorf("%d provider errors reported, want 2: %v", failed, j.errs)
		}
		c.StopAll()
	})
}

// TestSlowConsumerJumps stops reading on one node while the others make
// snapshots and compact. Its delivery goes on behind a newer snapshot; its
// proposals are settled all the while.
func TestSlowConsumerJumps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, 1)
		c.Tune = func(cfg *raftgroup.Config) { cfg.CompactionTail = 1 }
		c.StartAll()
		s := rig.Structure(1)
		c.Born(s, 3, raftgroup.Options{SnapshotEntries: 1000})
		slow := newJournal(t)
		slow.gate = make(chan struct{})
		slow.subscribe(c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s, Window: 64 << 10})
		fast := subscribe(t, c.Nodes[1], raftgroup.SubscriptionConfig{Structure: s})
		// Far more than its window and its commit channel hold: a consumer that
		// stalls does not stop its own proposals.
		for i := range 10_000 {
			slow.sub.Propose() <- fmt.Append(nil, i)
		}
		c.Wait(10*time.Minute, "all at the other", func() bool { return fast.count() == 10_000 })
		c.Wait(10*time.Minute, "the log compacted past the slow one", func() bool {
			first, err := c.Nodes[0].Log.FirstIndex(1)
			return err == nil && first > 2
		})
		time.Sleep(30 * time.Second)
		close(slow.gate)
		c.Wait(10*time.Minute, "the slow one caught up", func() bool { return slow.count() == 10_000 })
		same(t, slow, fast)
		if slow.loads == 0 {
			t.Error("the slow one has seen no load")
		}
		warned := false
		for _, err := range slow.errs {
			warned = warned || errors.Is(err, raftgroup.ErrSlowConsumer)
		}
		if !warned {
			t.Errorf("no warning about the slow consumer: %v", slow.errs)
		}
		c.StopAll()
	})
}

// TestConsumerProposes proposes from the goroutine that consumes, with a
// window that holds few proposals.
func TestConsumerProposes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, 1)
		c.StartAll()
		s := rig.Structure(1)
		c.Born(s, 3, raftgroup.Options{})
		sub, err := c.Nodes[0].Host.Subscribe(raftgroup.SubscriptionConfig{
			Structure: s, Window: 1024, Provider: func() ([]byte, error) { return nil, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		sub.Propose() <- []byte{}
		for n := range 5000 {
			p := <-sub.Commits()
			if p == nil {
				t.Fatal("an empty proposal came back nil")
			}
			if len(p) != n%100 {
				t.Fatalf("commit %d has %d bytes", n, len(p))
			}
			sub.Propose() <- bytes.Repeat([]byte("x"), (n+1)%100)
		}
		c.StopAll()
	})
}

// TestNoQuorum gives up proposals while two of three nodes are gone: they are
// voided, which becomes known when the quorum is back.
func TestNoQuorum(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, 1)
		c.StartAll()
		s := rig.Structure(1)
		c.Born(s, 3, raftgroup.Options{})
		j := newJournal(t)
		j.subscribe(c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s, ProposalTimeout: 5 * time.Second})
		j.propose("a", 10)
		c.Wait(time.Minute, "ten lines", func() bool { return j.count() == 10 })
		c.Nodes[1].Stop()
		c.Nodes[2].Stop()
		j.propose("b", 10)
		time.Sleep(time.Minute)
		if j.count() != 10 || len(j.errors()) != 0 {
			t.Fatalf("%d lines and errors %v without a quorum", j.count(), j.errors())
		}
		c.Nodes[1].Start()
		c.Wait(time.Minute, "ten errors or lines", func() bool { return j.count()+len(j.errors()) == 20 })
		for _, err := range j.errors() {
			var pe *raftgroup.ProposalError
			if !errors.As(err, &pe) || !errors.Is(err, raftgroup.ErrProposalExpired) || !strings.HasPrefix(string(pe.Proposal), "b-") {
				t.Errorf("error %v", err)
			}
		}
		j.propose("c", 10)
		c.Wait(time.Minute, "and goes on", func() bool { return contains(j.all(), "c-9") })
		c.StopAll()
	})
}

// TestShutdownReports shuts down with proposals in flight and no quorum: each
// comes back.
func TestShutdownReports(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, 1)
		c.StartAll()
		s := rig.Structure(1)
		c.Born(s, 3, raftgroup.Options{})
		j := subscribe(t, c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s})
		j.propose("a", 10)
		c.Wait(time.Minute, "ten lines", func() bool { return j.count() == 10 })
		c.Nodes[1].Stop()
		c.Nodes[2].Stop()
		j.propose("b", 500)
		time.Sleep(time.Second)
		c.Nodes[0].Stop()
		<-j.done
		got := make(map[string]bool)
		for _, err := range j.errs {
			var pe *raftgroup.ProposalError
			if errors.As(err, &pe) && (errors.Is(err, raftgroup.ErrOutcomeUnknown) || errors.Is(err, raftgroup.ErrNeverCommitted)) {
				got[string(pe.Proposal)] = true
			}
		}
		if len(got) != 500 {
			t.Errorf("%d of 500 proposals reported", len(got))
		}
		if _, err := j.sub.Consume(); !errors.Is(err, raftgroup.ErrClosed) {
			t.Errorf("consume after the end: %v", err)
		}
	})
}

// TestShutdownReportsWhatWaits: a shutdown meets a full window, and behind it a propose
// channel full of what was sent before. Who reads errors gets one for each: those of the
// window, and of the channel, which come when there is room again.
func TestShutdownReportsWhatWaits(t *testing.T) {
	t.Parallel()
	for _, pause := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond} { // between two errors that are read
		synctest.Test(t, func(t *testing.T) {
			c := rig.New(t, 3, 1)
			c.StartAll()
			s := rig.Structure(1)
			c.Born(s, 3, raftgroup.Options{})
			sub, err := c.Nodes[0].Host.Subscribe(raftgroup.SubscriptionConfig{
				Structure: s, Window: 64 << 10, Provider: func() ([]byte, error) { return nil, nil },
			})
			if err != nil {
				t.Fatal(err)
			}
			sub.Propose() <- []byte("first")
			<-sub.Commits()
			c.Nodes[1].Stop()
			c.Nodes[2].Stop()
			sent := 0
			for full := false; !full; {
				select {
				case sub.Propose() <- fmt.Appendf(nil, "%01000d", sent):
					sent++
				case <-time.After(time.Minute):
					full = true
				}
			}
			got, done := make(map[string]error), make(chan struct{})
			go func() {
				defer close(done)
				for err := range sub.Errors() {
					var pe *raftgroup.ProposalError
					if errors.As(err, &pe) {
						if got[string(pe.Proposal)] != nil {
							t.Errorf("twice: %.40q", err)
						}
						got[string(pe.Proposal)] = err
					}
					time.Sleep(pause)
				}
			}()
			began := time.Now()
			c.Nodes[0].Stop()
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("the shutdown took %s", took)
			}
			<-done
			if sent < 300 || len(got) != sent {
				t.Errorf("pause %s: of %d proposals, %d were reported", pause, sent, len(got))
			}
		})
	}
}
