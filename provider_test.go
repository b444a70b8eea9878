package copycat

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var errProvider = errors.New("no room for the snapshot")

// atCall returns a wrapper that puts f in front of a provider, with the number
// of the call, from 1; an error from f is the provider's.
func atCall(f func(call int64) error) func(SnapshotProvider) SnapshotProvider {
	var calls atomic.Int64
	return func(p SnapshotProvider) SnapshotProvider {
		return func() ([]byte, error) {
			if err := f(calls.Add(1)); err != nil {
				return nil, err
			}
			return p()
		}
	}
}

// TestProviderFailsForBase has the provider fail, or panic, when it is asked
// for the base: that is reported, and it is asked again until it answers.
func TestProviderFailsForBase(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(){"error": nil, "panic": func() { panic("provider's own") }} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cc := start(t, testConfig(t, ""))
			l := newListBy(t, cc, sampleID, atCall(func(call int64) error {
				if call == 1 && fault != nil {
					fault()
				}
				if call == 1 {
					return errProvider
				}
				return nil
			}))
			l.propose <- []byte("a")
			err := l.waitError(ErrProvider)
			if fault == nil && !errors.Is(err, errProvider) {
				t.Errorf("%v does not wrap the provider's error", err)
			}
			if fault != nil && !strings.Contains(err.Error(), "provider's own") {
				t.Errorf("%v does not say what panicked", err)
			}
			if !strings.Contains(err.Error(), sampleID) {
				t.Errorf("%v does not name the structure", err)
			}
			l.waitFor(1)
			close(l.propose)
			<-l.done
		})
	}
}

// TestProviderFailsAtMake has the provider fail, or panic, from its second
// snapshot on: the consumer gets the one before and the commits after that
// again, once, and is not stopped by it.
func TestProviderFailsAtMake(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(){"error": nil, "panic": func() { panic("provider's own") }} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t, "")
			cfg.SnapshotEntries = 100
			cc := start(t, cfg)
			l := newListBy(t, cc, sampleID, atCall(func(call int64) error {
				if call >= 3 && fault != nil { // after the base and a first make
					fault()
				}
				if call >= 3 {
					return errProvider
				}
				return nil
			}))
			n := 0
			proposeSome := func() {
				for range 100 {
					l.propose <- fmt.Appendf(nil, "n %d", n)
					n++
				}
			}
			proposeSome()
			waitStatus(t, cc, "a snapshot", func(s Status) bool {
				st, ok := structure(s, sampleID)
				return ok && st.Snapshot >= 100
			})
			proposeSome()
			l.waitError(ErrProvider)
			proposeSome()
			l.waitFor(n)
			inOrder(t, l.all(), "n ", n)
			l.mu.Lock()
			if l.loads != 2 {
				t.Errorf("%d loads, want one of the snapshot made, and one of the same again", l.loads)
			}
			l.mu.Unlock()
			waitStatus(t, cc, "no more than the first snapshot", func(s Status) bool {
				st, ok := structure(s, sampleID)
				return ok && st.Commits == uint64(n) && st.Snapshot < 200
			})
			cc.Shutdown()
			<-l.done
			l = newList(t, start(t, cfg), sampleID)
			l.waitFor(n)
			inOrder(t, l.all(), "n ", n)
		})
	}
}

// TestProviderBlocks has the provider block for good, for the base and at a
// make: Shutdown returns, all is free, and when the provider returns after all
// nothing comes of it.
func TestProviderBlocks(t *testing.T) {
	t.Parallel()
	for _, blockAt := range []int64{1, 2} {
		t.Run(fmt.Sprint("call ", blockAt), func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t, "")
			cfg.SnapshotEntries = 10
			cc := start(t, cfg)
			blocked, release := make(chan struct{}), make(chan struct{})
			propose, commits, errs, consume, err := cc.SubscribeToDataStructureWithStringID(sampleID, atCall(func(call int64) error {
				if call == blockAt {
					close(blocked)
					<-release
				}
				return nil
			})(func() ([]byte, error) { return []byte{}, nil }))
			if err != nil {
				t.Fatal(err)
			}
			for i := range 20 {
				propose <- fmt.Appendf(nil, "n %d", i)
			}
			consumed := make(chan struct{})
			go func() { // left behind in the provider until release
				defer close(consumed)
				for p := range commits {
					if p == nil {
						if _, err := consume(); err != nil {
							t.Errorf("consume: %v", err)
						}
					}
				}
				for range errs {
				}
			}()
			t.Cleanup(func() {
				close(release)
				<-consumed
			})
			<-blocked
			cc.Shutdown()
			mustBeClosed(t, cfg.CopyCatDataDir)
			l := newList(t, start(t, cfg), sampleID)
			l.propose <- []byte("works")
			l.wait("the proposal", func(lines []string) bool { return len(lines) > 0 && lines[len(lines)-1] == "works" })
		})
	}
}

// TestProviderExits has the provider end its goroutine, as a test does that fails
// in it: at the start that is reported like any failure, and the provider is asked
// again; inside the SnapshotConsumer, whose caller is gone then, it is reported.
func TestProviderExits(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "")
	cfg.SnapshotEntries = 10
	cc := start(t, cfg)
	var calls atomic.Int64
	propose, commits, errs, consume, err := cc.SubscribeToDataStructureWithStringID(sampleID, func() ([]byte, error) {
		if calls.Add(1) != 2 {
			runtime.Goexit()
		}
		return nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		propose <- []byte("x")
	}
	awaitExit := func() {
		t.Helper()
		select {
		case err := <-errs:
			if !errors.Is(err, ErrProvider) || !strings.Contains(err.Error(), sampleID) {
				t.Errorf("got %v, want ErrProvider with the structure", err)
			}
		case <-time.After(2 * time.Minute):
			t.Fatal("nothing is reported")
		}
	}
	awaitExit()
	var consumer sync.WaitGroup
	consumer.Go(func() {
		for p := range commits {
			if p == nil {
				_, _ = consume() // does not return
			}
		}
	})
	awaitExit()
	consumer.Wait()
	if n := calls.Load(); n != 3 {
		t.Errorf("%d calls of the provider, want one that exits, one that is the base, and one for a snapshot", n)
	}
}

// TestProviderNeverAnswers unsubscribes with a provider that always fails: with
// nothing sent, there is nothing to wait for.
func TestProviderNeverAnswers(t *testing.T) {
	t.Parallel()
	cc := start(t, testConfig(t, ""))
	l := newListBy(t, cc, sampleID, atCall(func(int64) error { return errProvider }))
	l.waitError(ErrProvider)
	close(l.propose)
	<-l.done
	// The next one brings the base.
	l = newList(t, cc, sampleID)
	l.propose <- []byte("x")
	l.waitFor(1)
}

// TestProviderFailsLate has the provider return, with an error, only when
// another subscription has brought the base, and what this one sent is
// committed, and it has unsubscribed: what it sent is delivered all the same.
func TestProviderFailsLate(t *testing.T) {
	t.Parallel()
	cc := start(t, testConfig(t, ""))
	called, release := make(chan struct{}), make(chan struct{})
	late := newListBy(t, cc, sampleID, atCall(func(call int64) error {
		if call == 1 {
			close(called)
			<-release
		}
		return errProvider
	}))
	<-called
	other := newList(t, cc, sampleID)
	late.propose <- []byte("late")
	close(late.propose)
	other.waitFor(1)
	waitStatus(t, cc, "the end of the late one's session", func(s Status) bool {
		st, ok := structure(s, sampleID)
		return ok && st.Sessions == 1
	})
	if got := late.all(); len(got) > 0 {
		t.Errorf("delivered while the provider runs: %q", got)
	}
	close(release)
	<-late.done
	if got := late.all(); len(got) != 1 || got[0] != "late" {
		t.Errorf("delivered %q", got)
	}
}

// TestBaseTooLarge wants a base that no log entry can hold reported, and the
// provider asked again.
func TestBaseTooLarge(t *testing.T) {
	t.Parallel()
	cc := start(t, testConfig(t, ""))
	var calls atomic.Int64
	l := newListBy(t, cc, sampleID, func(p SnapshotProvider) SnapshotProvider {
		return func() ([]byte, error) {
			if calls.Add(1) == 1 {
				return make([]byte, 32<<20+1), nil
			}
			return p()
		}
	})
	l.waitError(ErrBaseTooLarge)
	l.propose <- []byte("x")
	l.waitFor(1)
}
