package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat"
	"github.com/copycat-replication/copycat/examples/distmap/mappb"
)

// fake is a CopyCat whose channels the test holds.
type fake struct {
	copycat.CopyCat
	propose  chan []byte
	commits  chan []byte
	errs     chan error
	snapshot func() ([]byte, error) // answers the SnapshotConsumer
	provider copycat.SnapshotProvider
}

func newFake() *fake {
	return &fake{propose: make(chan []byte), commits: make(chan []byte), errs: make(chan error)}
}

func (f *fake) SubscribeToDataStructureWithStringID(_ string, p copycat.SnapshotProvider) (chan<- []byte, <-chan []byte, <-chan error, copycat.SnapshotConsumer, error) {
	f.provider = p
	return f.propose, f.commits, f.errs, func() ([]byte, error) { return f.snapshot() }, nil
}

// end closes the channels, in CopyCat's order.
func (f *fake) end() {
	close(f.commits)
	close(f.errs)
}

// onFake runs a test with a Map on a fake, in virtual time.
func onFake(t *testing.T, test func(t *testing.T, f *fake, m *Map)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		m, err := Subscribe(f, mapID, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		test(t, f, m)
	})
}

func encode(t *testing.T, op *mappb.Operation) []byte {
	t.Helper()
	data, err := op.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func wantAll(t *testing.T, m *Map, want map[string]string) {
	t.Helper()
	synctest.Wait()
	if have, err := m.All(); err != nil || !maps.Equal(have, want) {
		t.Fatalf("map is %v, %v; want %v", have, err, want)
	}
}

func TestApply(t *testing.T) {
	onFake(t, func(t *testing.T, f *fake, m *Map) {
		for _, op := range []*mappb.Operation{
			{Key: "a", Value: "1"}, {Key: "b", Value: "2"}, {Key: "a", Value: "3"},
			{Key: "b", Delete: true}, {Key: "never there", Delete: true}, {Key: "empty"}, {},
		} {
			f.commits <- encode(t, op)
		}
		f.commits <- []byte("no operation")
		wantAll(t, m, map[string]string{"a": "3", "empty": "", "": ""})
		f.end()
	})
}

// TestPutWaits is the point of the example: a put that has returned was committed.
func TestPutWaits(t *testing.T) {
	onFake(t, func(t *testing.T, f *fake, m *Map) {
		done := make(chan error, 1)
		go func() { done <- m.Put(t.Context(), "k", "v") }()
		proposal := <-f.propose
		returned := func() bool {
			synctest.Wait()
			return len(done) > 0
		}
		if returned() {
			t.Fatal("returned before its commit")
		}
		op := &mappb.Operation{}
		if err := op.Unmarshal(proposal); err != nil {
			t.Fatal(err)
		}
		f.commits <- encode(t, &mappb.Operation{Key: "k", Value: "another's", Writer: []byte("another"), Request: op.Request})
		if returned() {
			t.Fatal("returned for another writer's commit of the same number")
		}
		f.commits <- proposal
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		wantAll(t, m, map[string]string{"k": "v"})
		f.commits <- proposal // delivered again, behind an older snapshot: nobody waits any more
		wantAll(t, m, map[string]string{"k": "v"})
		f.end()
	})
}

func TestPutFails(t *testing.T) {
	for _, c := range []struct {
		cause, want, not error
	}{
		{copycat.ErrNeverCommitted, ErrNotMade, copycat.ErrOutcomeUnknown},
		{copycat.ErrProposalTooLarge, ErrNotMade, copycat.ErrOutcomeUnknown},
		{copycat.ErrOutcomeUnknown, copycat.ErrOutcomeUnknown, ErrNotMade},
	} {
		t.Run(c.cause.Error(), func(t *testing.T) {
			onFake(t, func(t *testing.T, f *fake, m *Map) {
				done := make(chan error, 1)
				go func() { done <- m.Put(t.Context(), "k", "v") }()
				proposal := <-f.propose
				f.errs <- errors.New("a warning that concerns nobody")
				f.errs <- fmt.Errorf("wrapped: %w", &copycat.ProposalError{Proposal: proposal, Err: c.cause})
				if err := <-done; !errors.Is(err, c.want) || !errors.Is(err, c.cause) || errors.Is(err, c.not) {
					t.Fatalf("error is %v", err)
				}
				f.end()
			})
		})
	}
}

// TestPutTimesOut: a change that CopyCat never took was not made; of one that
// it took, nobody can say.
func TestPutTimesOut(t *testing.T) {
	onFake(t, func(t *testing.T, f *fake, m *Map) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := m.Put(ctx, "k", "v"); !errors.Is(err, ErrNotMade) || errors.Is(err, copycat.ErrOutcomeUnknown) {
			t.Fatalf("with a full channel: %v", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		go func() { <-f.propose }()
		if err := m.Delete(ctx, "k"); !errors.Is(err, copycat.ErrOutcomeUnknown) || errors.Is(err, ErrNotMade) {
			t.Fatalf("without a commit: %v", err)
		}
		if len(m.waiting) != 0 {
			t.Fatalf("%d are still waited for", len(m.waiting))
		}
		f.end()
	})
}

func TestReload(t *testing.T) {
	onFake(t, func(t *testing.T, f *fake, m *Map) {
		f.commits <- encode(t, &mappb.Operation{Key: "old", Value: "1"})
		other, err := (&mappb.ReplicatMap{M: map[string]string{"new": "2"}}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		f.snapshot = func() ([]byte, error) { return other, nil }
		f.commits <- nil
		wantAll(t, m, map[string]string{"new": "2"})

		// A make: CopyCat calls the provider inside the consumer's call.
		var made []byte
		f.snapshot = func() ([]byte, error) {
			var err error
			made, err = f.provider()
			return made, err
		}
		f.commits <- encode(t, &mappb.Operation{Key: "more", Value: "3"})
		f.commits <- nil
		wantAll(t, m, map[string]string{"new": "2", "more": "3"})
		held := &mappb.ReplicatMap{}
		if err := held.Unmarshal(made); err != nil || len(held.M) != 2 {
			t.Fatalf("snapshot holds %v, %v", held.M, err)
		}

		f.snapshot = func() ([]byte, error) { return []byte{}, nil }
		f.commits <- nil
		f.commits <- encode(t, &mappb.Operation{Key: "after", Value: "4"})
		wantAll(t, m, map[string]string{"after": "4"})
		f.end()
	})
}

// TestReloadFails: a copy that has missed a snapshot says so, does not pass its
// state on, and is whole again after the next one.
func TestReloadFails(t *testing.T) {
	onFake(t, func(t *testing.T, f *fake, m *Map) {
		broken := errors.New("no snapshot")
		f.snapshot = func() ([]byte, error) { return nil, broken }
		f.commits <- nil
		f.commits <- encode(t, &mappb.Operation{Key: "k", Value: "v"})
		synctest.Wait()
		if _, _, err := m.Get("k"); !errors.Is(err, ErrStale) || !errors.Is(err, broken) {
			t.Fatalf("error is %v", err)
		}
		if _, err := f.provider(); !errors.Is(err, ErrStale) {
			t.Fatalf("provider's error is %v", err)
		}
		f.snapshot = func() ([]byte, error) { return []byte{}, nil }
		f.commits <- nil
		wantAll(t, m, map[string]string{})
		f.end()
	})
}

func TestClose(t *testing.T) {
	onFake(t, func(t *testing.T, f *fake, m *Map) {
		done, blocked := make(chan error, 1), make(chan error, 1)
		go func() { done <- m.Put(t.Context(), "sent", "v") }()
		proposal := <-f.propose
		go func() { blocked <- m.Put(t.Context(), "not sent", "v") }()
		synctest.Wait()
		closed := make(chan error, 2)
		for range 2 {
			go func() { closed <- m.Close(t.Context()) }()
		}
		if p, ok := <-f.propose; ok {
			// Go may let the blocked sender win; then it was sent.
			f.errs <- &copycat.ProposalError{Proposal: p, Err: copycat.ErrNeverCommitted}
			if _, ok := <-f.propose; ok {
				t.Fatal("the propose channel is not closed")
			}
		}
		if err := <-blocked; !errors.Is(err, ErrNotMade) {
			t.Fatalf("blocked put: %v", err)
		}
		f.commits <- proposal // what was sent still comes
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		f.end()
		for range 2 {
			if err := <-closed; err != nil {
				t.Fatal(err)
			}
		}
		if err := m.Put(t.Context(), "k", "v"); !errors.Is(err, ErrNotMade) || !errors.Is(err, copycat.ErrClosed) {
			t.Fatalf("put after close: %v", err)
		}
	})
}

// TestShutdownUnderMap: the subscription ends without Close, and nobody hangs.
func TestShutdownUnderMap(t *testing.T) {
	onFake(t, func(t *testing.T, f *fake, m *Map) {
		sent, blocked := make(chan error, 1), make(chan error, 1)
		go func() { sent <- m.Put(t.Context(), "k", "v") }()
		<-f.propose
		go func() { blocked <- m.Put(t.Context(), "k", "v") }()
		synctest.Wait()
		f.end()
		if err := <-sent; !errors.Is(err, copycat.ErrOutcomeUnknown) {
			t.Fatalf("put that was sent: %v", err)
		}
		if err := <-blocked; !errors.Is(err, ErrNotMade) {
			t.Fatalf("put that was not sent: %v", err)
		}
		if err := m.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// TestCloseGivesUp: without a majority, what was sent never comes back.
func TestCloseGivesUp(t *testing.T) {
	onFake(t, func(t *testing.T, f *fake, m *Map) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := m.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("error is %v", err)
		}
		f.end()
	})
}

func TestFlags(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ args, want string }{
		{"-http :1", "-http needs -node"},
		{"-node a stray", `unexpected argument "stray"`},
		{"-node a -profile moon", "-profile"},
	} {
		err := run(t.Context(), strings.Fields(c.args), t.Output(), t.Output())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error is %v, want %q", c.args, err, c.want)
		}
	}
	o, _, err := parse([]string{"-node", "a", "-peers", "h:1, h:2 h:3"}, t.Output())
	if err != nil || len(o.config.PeersToContact) != 3 || o.config.CopyCatDataDir != "./distmap-a" {
		t.Errorf("options are %+v, %v", o.config, err)
	}
}
