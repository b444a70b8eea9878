package copycat

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// list is a subscriber whose data structure is the list of its commits.
type list struct {
	t       testing.TB
	propose chan<- []byte
	mu      sync.Mutex
	lines   []string
	loads   int
	errs    []error
	changed chan struct{} // cap 1
	done    chan struct{}
}

const sampleID = "01CFR5R4JJE9KNRAJFFEAQ2SAJ"

func newList(t testing.TB, cc CopyCat, id string) *list {
	t.Helper()
	return newListBy(t, cc, id, func(p SnapshotProvider) SnapshotProvider { return p })
}

// newListBy is newList with something in front of its provider.
func newListBy(t testing.TB, cc CopyCat, id string, wrap func(SnapshotProvider) SnapshotProvider) *list {
	t.Helper()
	l := &list{t: t, changed: make(chan struct{}, 1), done: make(chan struct{})}
	propose, commits, errs, consume, err := cc.SubscribeToDataStructureWithStringID(id, wrap(l.provide))
	if err != nil {
		t.Fatalf("subscribe: %v", err)
	}
	l.propose = propose
	go l.serve(commits, errs, consume)
	return l
}

func (l *list) provide() ([]byte, error) {
	var b []byte
	for _, line := range l.lines {
		b = fmt.Appendln(b, line)
	}
	return b, nil
}

func (l *list) serve(commits <-chan []byte, errs <-chan error, consume SnapshotConsumer) {
	defer close(l.done)
	for commits != nil || errs != nil {
		select {
		case p, ok := <-commits:
			switch {
			case !ok:
				commits = nil
			case p == nil:
				data, err := consume()
				if errors.Is(err, ErrClosed) {
					continue // shut down before the load
				}
				if err != nil {
					l.t.Errorf("consume: %v", err)
				}
				l.mu.Lock()
				l.lines = splitLines(data)
				l.loads++
				l.mu.Unlock()
			default:
				l.mu.Lock()
				l.lines = append(l.lines, string(p))
				l.mu.Unlock()
			}
		case err, ok := <-errs:
			if !ok {
				errs = nil
				continue
			}
			l.mu.Lock()
			l.errs = append(l.errs, err)
			l.mu.Unlock()
		}
		select {
		case l.changed <- struct{}{}:
		default:
		}
	}
}

func splitLines(data []byte) (lines []string) {
	start := 0
	for i, b := range data {
		if b == '\n' {
			lines = append(lines, string(data[start:i]))
			start = i + 1
		}
	}
	return lines
}

func (l *list) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines...)
}

func (l *list) errors() []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]error(nil), l.errs...)
}

// wait waits until the list satisfies cond.
func (l *list) wait(what string, cond func([]string) bool) {
	l.t.Helper()
	timeout := time.After(2 * time.Minute)
	for {
		if cond(l.all()) {
			return
		}
		select {
		case <-l.changed:
		case <-timeout:
			l.t.Fatalf("not within two minutes: %s (have %d lines, errors %v)", what, len(l.all()), l.errors())
		}
	}
}

// waitError waits for an error on the error channel.
func (l *list) waitError(want error) error {
	l.t.Helper()
	var found error
	l.wait(fmt.Sprintf("error %q", want), func([]string) bool {
		for _, err := range l.errors() {
			if errors.Is(err, want) {
				found = err
				return true
			}
		}
		return false
	})
	return found
}

func (l *list) waitFor(n int) {
	l.t.Helper()
	l.wait(fmt.Sprintf("%d lines", n), func(lines []string) bool { return len(lines) >= n })
}

// testConfig is a node on loopback with ports of its own.
func testConfig(t testing.TB, dc string, peers ...string) *Config {
	return &Config{
		Hostname: "127.0.0.1", CopyCatDataDir: t.TempDir(), DataCenter: dc, PeersToContact: peers,
		Profile: Local, JoinTimeout: time.Minute,
	}
}

func start(t testing.TB, cfg *Config) CopyCat {
	t.Helper()
	cc, err := NewCopyCat(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cc.Shutdown)
	return cc
}

// TestSingleNode is the embedded default: a lone node works at once.
func TestSingleNode(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "here")
	cc := start(t, cfg)
	l := newList(t, cc, sampleID)
	for i := range 100 {
		l.propose <- fmt.Append(nil, i)
	}
	l.waitFor(100)
	cc.Shutdown()
	<-l.done
	if errs := l.errors(); len(errs) > 0 {
		t.Errorf("errors: %v", errs)
	}
	cc = start(t, cfg)
	l = newList(t, cc, sampleID)
	l.waitFor(100)
	for i, line := range l.all() {
		if line != fmt.Sprint(i) {
			t.Fatalf("line %d is %q after the restart", i, line)
		}
	}
	close(l.propose)
	<-l.done
}
