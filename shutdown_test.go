package copycat

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestUnsubscribe closes the propose channel: what was sent is delivered, then
// the commit channel closes, and only then the error channel.
func TestUnsubscribe(t *testing.T) {
	t.Parallel()
	cc := start(t, testConfig(t, ""))
	propose, commits, errs, _, err := cc.SubscribeToDataStructureWithStringID(sampleID, func() ([]byte, error) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	const n = commitRoom
	for i := range n {
		propose <- fmt.Appendf(nil, "%d", i)
	}
	close(propose)
	for err := range errs { // ends first for a reader who leaves the commits in their channel
		t.Error(err)
	}
	for i := range n {
		p, ok := <-commits
		if !ok || string(p) != fmt.Sprint(i) {
			t.Fatalf("commit %d is %q, %v", i, p, ok)
		}
	}
	select {
	case p, ok := <-commits:
		if ok {
			t.Errorf("one more commit: %q", p)
		}
	default:
		t.Error("the error channel was closed, and the commit channel is not")
	}
}

// commitRoom is no more than what a commit channel holds.
const commitRoom = 100

// TestUnsubscribeAtOnce closes propose channels before anything was delivered,
// or even decided.
func TestUnsubscribeAtOnce(t *testing.T) {
	t.Parallel()
	cc := start(t, testConfig(t, ""))
	for i := range 20 {
		l := newList(t, cc, sampleID)
		if i%2 == 0 {
			l.propose <- fmt.Appendf(nil, "%d", i)
		}
		close(l.propose)
		<-l.done
		if want := i/2 + 1; len(l.all()) != want && i%2 == 0 {
			t.Errorf("subscription %d: %d lines, want %d", i, len(l.all()), want)
		}
		if errs := l.errors(); len(errs) > 0 {
			t.Errorf("subscription %d: %v", i, errs)
		}
	}
}

// TestShutdownFreesAll wants ports, files and the lock free when Shutdown
// returns, whatever the consumers do, and Status to go on telling.
func TestShutdownFreesAll(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "")
	cfg.Hostname, cfg.SnapshotEntries = ownHost(), 10
	cc := start(t, cfg)
	l := newList(t, cc, sampleID)
	for i := range 40 {
		l.propose <- fmt.Appendf(nil, "%d", i)
	}
	l.waitFor(40)
	waitStatus(t, cc, "a snapshot", func(s Status) bool {
		st, ok := structure(s, sampleID)
		return ok && st.Snapshot > 0
	})
	// One consumer never reads, and one never serves its nil.
	provider := func() ([]byte, error) { return nil, nil }
	if _, _, _, _, err := cc.SubscribeToDataStructureWithStringID(sampleID, provider); err != nil {
		t.Fatal(err)
	}
	_, commits, _, consume, err := cc.SubscribeToDataStructureWithStringID(sampleID, provider)
	if err != nil {
		t.Fatal(err)
	}
	if p := <-commits; p != nil {
		t.Fatalf("first commit %q, want the nil of a load", p)
	}
	before := cc.Status()
	cc.Shutdown()
	<-l.done
	mustBeFree(t, before.CopyCatAddress)
	mustBeFree(t, before.GossipAddress)
	mustBeClosed(t, cfg.CopyCatDataDir)
	if after := cc.Status(); after.NodeID != before.NodeID || after.GossipAddress != before.GossipAddress {
		t.Errorf("status was %+v and is %+v", before, after)
	} else if before.Storage != nil || !errors.Is(after.Storage, ErrClosed) {
		t.Errorf("storage was %v, and is %v after Shutdown", before.Storage, after.Storage)
	}
	for range commits {
		t.Error("a commit after Shutdown")
	}
	// The outstanding nil can still be served, or fails; it does not hang.
	if _, err := consume(); err != nil && !errors.Is(err, ErrClosed) {
		t.Errorf("consume after Shutdown: %v", err)
	}
	mustBeClosed(t, cfg.CopyCatDataDir)
	cc.Shutdown()
	works(t, cfg)
}

// TestShutdownFromWithin shuts a node down from where CopyCat calls, or is
// waited for: the provider that brings the base, the one inside the
// SnapshotConsumer, and the goroutine that receives.
func TestShutdownFromWithin(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"base", "snapshot", "consumer"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t, "")
			cfg.SnapshotEntries = 10
			cc := start(t, cfg)
			calls := 0
			propose, commits, errs, consume, err := cc.SubscribeToDataStructureWithStringID(sampleID, func() ([]byte, error) {
				if calls++; calls == 1 && where == "base" || calls == 2 && where == "snapshot" {
					cc.Shutdown()
				}
				return nil, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			for range 20 {
				propose <- []byte("x")
			}
			for p := range commits {
				if p == nil {
					if _, err := consume(); err != nil && !errors.Is(err, ErrClosed) {
						t.Errorf("consume: %v", err)
					}
				} else if where == "consumer" {
					cc.Shutdown()
				}
			}
			for err := range errs {
				var p *ProposalError
				if !errors.As(err, &p) {
					t.Errorf("on the error channel: %v", err)
				}
			}
			cc.Shutdown() // waits for the one that is under way
			mustBeClosed(t, cfg.CopyCatDataDir)
			works(t, cfg)
		})
	}
}

// TestClosed wants ErrClosed from what needs a node, after Shutdown.
func TestClosed(t *testing.T) {
	t.Parallel()
	cc := start(t, testConfig(t, ""))
	l := newList(t, cc, sampleID)
	l.propose <- []byte("x")
	l.waitFor(1)
	var both sync.WaitGroup
	for range 2 {
		both.Go(cc.Shutdown)
	}
	both.Wait()
	<-l.done
	other, err := cc.NewDataStructureID()
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{sampleID, other.String()} {
		if _, _, _, _, err := cc.SubscribeToDataStructureWithStringID(id, func() ([]byte, error) { return nil, nil }); !errors.Is(err, ErrClosed) {
			t.Errorf("subscribe to %s: got %v, want ErrClosed", id, err)
		}
	}
	if _, err := cc.AllocateNewDataStructure(); !errors.Is(err, ErrClosed) {
		t.Errorf("allocate: got %v, want ErrClosed", err)
	}
}

// TestShutdownAmidSubscribers shuts a node down while it is being subscribed
// to: each call gives ErrClosed, or channels that close.
func TestShutdownAmidSubscribers(t *testing.T) {
	t.Parallel()
	for round := range 3 {
		cfg := testConfig(t, "")
		cc := start(t, cfg)
		// Some subscribe to what exists, some give birth.
		l := newList(t, cc, sampleID)
		l.propose <- []byte("x")
		l.waitFor(1)
		var subscribers sync.WaitGroup
		const each = 8
		begun := make(chan struct{}, 2*each)
		for i := range 2 * each {
			subscribers.Go(func() {
				for k := 0; ; k++ {
					id := sampleID
					if i >= each {
						fresh, err := cc.NewDataStructureID()
						if err != nil {
							t.Error(err)
							return
						}
						id = fresh.String()
					}
					propose, commits, errs, consume, err := cc.SubscribeToDataStructureWithStringID(id, func() ([]byte, error) { return []byte("base"), nil })
					if err != nil {
						if !errors.Is(err, ErrClosed) {
							t.Errorf("round %d, subscription %d.%d: got %v, want ErrClosed", round, i, k, err)
						}
						return
					}
					select {
					case propose <- []byte("y"):
					default:
					}
					if k == 0 { // stays
						begun <- struct{}{}
						subscribers.Go(func() { drain(commits, errs, consume) })
						continue
					}
					close(propose)
					drain(commits, errs, consume)
				}
			})
		}
		for range (round + 1) * 4 {
			<-begun
		}
		cc.Shutdown()
		subscribers.Wait()
		<-l.done
		mustBeClosed(t, cfg.CopyCatDataDir)
	}
}

// drain reads a subscription to its end.
func drain(commits <-chan []byte, errs <-chan error, consume SnapshotConsumer) {
	for commits != nil || errs != nil {
		select {
		case p, ok := <-commits:
			if !ok {
				commits = nil
			} else if p == nil {
				_, _ = consume() // after a shutdown, an error is fine
			}
		case _, ok := <-errs:
			if !ok {
				errs = nil
			}
		}
	}
}

// TestUnresolvedProposals takes the quorum away, proposes, and shuts down:
// every proposal comes back with its bytes and what is known of its fate. When
// the group is whole again, the log must not say otherwise.
func TestUnresolvedProposals(t *testing.T) {
	t.Parallel()
	cfgs := []*Config{testConfig(t, "dc1"), testConfig(t, "dc2"), testConfig(t, "dc3")}
	nodes := []CopyCat{start(t, cfgs[0]), nil, nil}
	for i := 1; i < 3; i++ {
		cfgs[i].PeersToContact = []string{nodes[0].Status().GossipAddress}
		nodes[i] = start(t, cfgs[i])
	}
	waitStatus(t, nodes[0], "three nodes alive", func(s Status) bool { return alive(s) == 3 })
	l := newList(t, nodes[0], sampleID)
	l.propose <- []byte("settled")
	l.waitFor(1)
	waitStatus(t, nodes[0], "three voters", func(s Status) bool {
		st, ok := structure(s, sampleID)
		return ok && len(st.Voters) == 3
	})
	nodes[1].Shutdown()
	nodes[2].Shutdown()
	const n = 50
	for i := range n {
		l.propose <- fmt.Appendf(nil, "open %d", i)
		if i == n/2 {
			waitStatus(t, nodes[0], "the loss of the leader", func(s Status) bool {
				st, ok := structure(s, sampleID)
				return ok && st.Role != "leader"
			})
		}
	}
	began := time.Now()
	nodes[0].Shutdown()
	if took := time.Since(began); took > time.Minute {
		t.Errorf("Shutdown took %s", took)
	}
	<-l.done
	if got := l.all(); len(got) != 1 {
		t.Errorf("delivered without a quorum: %q", got[1:])
	}
	fates := make(map[string]error)
	for _, err := range l.errors() {
		var pe *ProposalError
		if !errors.As(err, &pe) {
			t.Logf("warning: %v", err)
			continue
		}
		if !errors.Is(err, ErrOutcomeUnknown) && !errors.Is(err, ErrNeverCommitted) {
			t.Errorf("%q: %v says nothing of its fate", pe.Proposal, err)
		}
		if fates[string(pe.Proposal)] != nil {
			t.Errorf("%q was reported twice", pe.Proposal)
		}
		fates[string(pe.Proposal)] = err
	}
	if len(fates) != n {
		t.Errorf("%d proposals were reported, want %d", len(fates), n)
	}
	for i := range nodes {
		nodes[i] = start(t, cfgs[i])
	}
	l = newList(t, nodes[1], sampleID)
	l.propose <- []byte("whole again")
	l.wait("the new proposal", func(lines []string) bool { return slices.Contains(lines, "whole again") })
	for _, line := range l.all() {
		if errors.Is(fates[line], ErrNeverCommitted) {
			t.Errorf("%q was committed, and reported as %v", line, fates[line])
		}
	}
}
