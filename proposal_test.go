package copycat

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

// TestRefusedProposals wants a proposal above the limit, and a nil, back with
// their bytes, and what comes before and after them delivered.
func TestRefusedProposals(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "")
	cfg.MaxProposalBytes = 1000
	cc := start(t, cfg)
	l := newList(t, cc, sampleID)
	large := bytes.Repeat([]byte("x"), 1001)
	l.propose <- []byte("before")
	l.propose <- large
	l.propose <- nil
	l.propose <- large[:1000]
	l.propose <- []byte("after")
	l.waitFor(3)
	close(l.propose)
	<-l.done
	for i, want := range []string{"before", string(large[:1000]), "after"} {
		if got := l.all(); len(got) != 3 || got[i] != want {
			t.Fatalf("delivered %q", got)
		}
	}
	errs := l.errors()
	if len(errs) != 2 {
		t.Fatalf("errors %v, want two", errs)
	}
	var pe *ProposalError
	if !errors.As(errs[0], &pe) || !errors.Is(errs[0], ErrProposalTooLarge) || !bytes.Equal(pe.Proposal, large) {
		t.Errorf("got %v, want ErrProposalTooLarge with the bytes", errs[0])
	}
	if !errors.As(errs[1], &pe) || !errors.Is(errs[1], ErrNilProposal) || pe.Proposal != nil {
		t.Errorf("got %v, want ErrNilProposal", errs[1])
	}
}

// TestDefaultLimit wants 8 MiB to be taken and one byte more refused.
func TestDefaultLimit(t *testing.T) {
	t.Parallel()
	cc := start(t, testConfig(t, ""))
	l := newList(t, cc, sampleID)
	l.propose <- bytes.Repeat([]byte("x"), 8<<20+1)
	l.propose <- bytes.Repeat([]byte("y"), 8<<20)
	l.waitFor(1)
	if got := l.all(); len(got) != 1 || len(got[0]) != 8<<20 || got[0][0] != 'y' {
		t.Fatalf("%d delivered", len(got))
	}
	var pe *ProposalError
	if err := l.waitError(ErrProposalTooLarge); !errors.As(err, &pe) || len(pe.Proposal) != 8<<20+1 {
		t.Errorf("%v does not carry the bytes", err)
	}
}

// TestEmptyProposal wants an empty proposal back as an empty slice, not as the
// nil that asks for a load, also when it comes from the log after a restart.
func TestEmptyProposal(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "")
	for run := range 2 {
		cc := start(t, cfg)
		propose, commits, errs, consume, err := cc.SubscribeToDataStructureWithStringID(sampleID, func() ([]byte, error) { return nil, nil })
		if err != nil {
			t.Fatal(err)
		}
		if run == 0 {
			propose <- []byte("a")
			propose <- []byte{}
			propose <- []byte("b")
			propose <- make([]byte, 0, 10)
		}
		for i, want := range []string{"a", "", "b", ""} {
			if got := <-commits; got == nil || string(got) != want {
				t.Fatalf("run %d, commit %d is %#v, want %q", run, i, got, want)
			}
		}
		if _, err := consume(); !errors.Is(err, ErrNoSnapshotDue) {
			t.Errorf("consume without a nil: got %v, want ErrNoSnapshotDue", err)
		}
		close(propose)
		for range commits {
			t.Error("one commit too many")
		}
		for err := range errs {
			t.Error(err)
		}
		if _, err := consume(); !errors.Is(err, ErrClosed) {
			t.Errorf("consume after the end: got %v, want ErrClosed", err)
		}
		cc.Shutdown()
		if _, err := consume(); !errors.Is(err, ErrClosed) {
			t.Errorf("consume after Shutdown: got %v, want ErrClosed", err)
		}
	}
}

// TestCommitsBelongToTheConsumer overwrites what it receives, and wants the
// other subscription, and a load after a restart, unharmed.
func TestCommitsBelongToTheConsumer(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "")
	cc := start(t, cfg)
	l := newList(t, cc, sampleID)
	propose, commits, _, _, err := cc.SubscribeToDataStructureWithStringID(sampleID, func() ([]byte, error) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	const n = 200
	for i := range n {
		propose <- fmt.Appendf(nil, "%03d", i)
	}
	for range n {
		p := <-commits
		for i := range p[:cap(p)] {
			p[:cap(p)][i] = '!'
		}
	}
	l.waitFor(n)
	cc.Shutdown()
	<-l.done
	again := newList(t, start(t, cfg), sampleID)
	again.waitFor(n)
	for i := range n {
		if want := fmt.Sprintf("%03d", i); l.all()[i] != want || again.all()[i] != want {
			t.Fatalf("commit %d is %q, and %q after the restart", i, l.all()[i], again.all()[i])
		}
	}
}

// TestTwoSubscriptions has two subscriptions of one structure on one node:
// both get everything, each has a session, and one goes on without the other.
func TestTwoSubscriptions(t *testing.T) {
	t.Parallel()
	cc := start(t, testConfig(t, ""))
	a, b := newList(t, cc, sampleID), newList(t, cc, sampleID)
	const n = 300
	for _, l := range []*list{a, b} {
		go func() {
			for i := range n {
				l.propose <- fmt.Appendf(nil, "%p %d", l, i)
			}
		}()
	}
	a.waitFor(2 * n)
	b.waitFor(2 * n)
	sameLists(t, a, b)
	for _, l := range []*list{a, b} {
		inOrder(t, a.all(), fmt.Sprintf("%p ", l), n)
	}
	sessions := func(n int) func(Status) bool {
		return func(s Status) bool {
			st, ok := structure(s, sampleID)
			return ok && st.Sessions == n && st.Interactive
		}
	}
	waitStatus(t, cc, "two sessions", sessions(2))
	close(a.propose)
	<-a.done
	waitStatus(t, cc, "one session", sessions(1))
	b.propose <- []byte("alone")
	b.waitFor(2*n + 1)
	close(b.propose)
	<-b.done
	waitStatus(t, cc, "a detached replica", func(s Status) bool {
		st, ok := structure(s, sampleID)
		return ok && st.Sessions == 0 && !st.Interactive
	})
	if errs := append(a.errors(), b.errors()...); len(errs) > 0 {
		t.Errorf("errors: %v", errs)
	}
}

// inOrder wants the lines with a prefix to be 0 to n-1, each once.
func inOrder(t testing.TB, lines []string, prefix string, n int) {
	t.Helper()
	next := 0
	for _, line := range lines {
		if len(line) > len(prefix) && line[:len(prefix)] == prefix {
			if line != fmt.Sprintf("%s%d", prefix, next) {
				t.Fatalf("%q where number %d should be", line, next)
			}
			next++
		}
	}
	if next != n {
		t.Fatalf("%d lines of %q, want %d", next, prefix, n)
	}
}
