package copycat

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

var cycles = flag.Int("cycles", 0, "how often TestSubscribeAndClose subscribes and closes; 0: as often as fits into CI")

// usage is what a process holds on to.
type usage struct {
	goroutines, files int
	heap, objects     uint64
}

// used looks at the process. Finalizers and pools need more than one collection.
func used(t testing.TB) (u usage) {
	t.Helper()
	for range 3 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u.goroutines, u.heap, u.objects = runtime.NumGoroutine(), m.HeapAlloc, m.HeapObjects
	if names, err := os.ReadDir("/proc/self/fd"); err == nil { // only Linux has it
		u.files = len(names)
	}
	return u
}

// cycle is one subscription to sampleID whose data structure is the number of
// its commits.
type cycle struct {
	t    testing.TB
	held int
	stay <-chan struct{} // if not nil, it closes only when this is closed
}

func (c *cycle) provide() ([]byte, error) { return fmt.Append(nil, c.held), nil }

// run subscribes, proposes once or not, and closes: at once, or after the
// first thing that it was handed. It returns when both channels are closed.
func (c *cycle) run(cc CopyCat, proposes, waits bool) {
	propose, commits, errs, consume, err := cc.SubscribeToDataStructureWithStringID(sampleID, c.provide)
	if err != nil {
		c.t.Errorf("subscribe: %v", err)
		return
	}
	if proposes {
		propose <- []byte("x")
	}
	if !waits && c.stay == nil {
		close(propose)
	}
	stay := c.stay
	for commits != nil || errs != nil {
		select {
		case <-stay:
			stay = nil
			close(propose)
		case p, ok := <-commits:
			switch {
			case !ok:
				commits = nil
				continue
			case p == nil:
				data, err := consume()
				if err != nil {
					c.t.Errorf("consume: %v", err)
				}
				if _, err := fmt.Sscan(string(data), &c.held); err != nil {
					c.t.Errorf("snapshot %q: %v", data, err)
				}
			default:
				c.held++
			}
			if waits {
				waits = false
				close(propose)
			}
		case err, ok := <-errs:
			if !ok {
				errs = nil
			} else if !errors.Is(err, ErrSlowConsumer) {
				c.t.Error(err)
			}
		}
	}
}

// steady subscribes until the returned function is called, which returns how
// many commits it holds then. Whoever stays makes the snapshots.
func steady(t testing.TB, cc CopyCat) (leave func() int) {
	stay, left := make(chan struct{}), make(chan struct{})
	c := &cycle{t: t, stay: stay}
	go func() {
		defer close(left)
		c.run(cc, false, false)
	}()
	return func() int {
		close(stay)
		<-left
		return c.held
	}
}

// churn runs n cycles of all kinds, eight at a time, and returns how many
// proposed.
func churn(t testing.TB, n int, nodes ...CopyCat) int {
	t.Helper()
	var proposed atomic.Int64
	inParallel(8, n, func(i int) {
		c := &cycle{t: t}
		if i%3 > 0 {
			proposed.Add(1)
		}
		c.run(nodes[i%len(nodes)], i%3 > 0, i%3 == 2)
	})
	if t.Failed() {
		t.FailNow()
	}
	return int(proposed.Load())
}

// settled waits until every node's replica knows of the session that stays
// alone, and of as many commits as there were proposals.
func settled(t testing.TB, commits int, nodes ...CopyCat) {
	t.Helper()
	for _, n := range nodes {
		waitStatus(t, n, "no session left but one", func(s Status) bool {
			st, ok := structure(s, sampleID)
			return ok && st.Sessions == 1 && st.Commits == uint64(commits)
		})
	}
}

// TestSubscribeAndClose subscribes and closes, thousands of times: afterwards
// there is no goroutine, no file and no memory more, no session in the group,
// and a bounded number of ended ones. It does not run beside other tests, since
// it looks at the process.
func TestSubscribeAndClose(t *testing.T) {
	cfg := testConfig(t, "")
	cfg.SnapshotEntries = 200
	n := 1000
	if *cycles > 0 {
		n = *cycles
	}
	subscribeAndClose(t, 1200, n, start(t, cfg))
}

// TestSubscribeAndCloseOnThreeNodes is the same over three nodes, some
// hundreds of times.
func TestSubscribeAndCloseOnThreeNodes(t *testing.T) {
	cfgs := []*Config{testConfig(t, "dc1"), testConfig(t, "dc2"), testConfig(t, "dc3")}
	for _, c := range cfgs {
		c.SnapshotEntries = 200
	}
	nodes := []CopyCat{start(t, cfgs[0]), nil, nil}
	for i := 1; i < 3; i++ {
		cfgs[i].PeersToContact = []string{nodes[0].Status().GossipAddress}
		nodes[i] = start(t, cfgs[i])
	}
	for _, n := range nodes {
		waitStatus(t, n, "three nodes alive", func(s Status) bool { return alive(s) == 3 })
	}
	subscribeAndClose(t, 600, max(300, *cycles/10), nodes...)
}

// subscribeAndClose has rounds of cycles fill what is bounded (caches, the tail
// of the log, the memory of ended sessions), and then n more that may leave nothing.
func subscribeAndClose(t *testing.T, rounds, n int, nodes ...CopyCat) {
	leave := steady(t, nodes[0])
	commits := churn(t, rounds, nodes...)
	settled(t, commits, nodes...)
	waitStatus(t, nodes[0], "all voters", func(s Status) bool {
		st, ok := structure(s, sampleID)
		return ok && len(st.Voters) == len(nodes)
	})
	before := used(t)
	began := time.Now()
	commits += churn(t, n, nodes...)
	t.Logf("%d cycles on %d nodes in %s", n, len(nodes), time.Since(began))
	settled(t, commits, nodes...)
	noMore(t, before, n)
	for i, cc := range nodes {
		for _, g := range cc.(*node).host.Load().Groups() {
			if g.Group.Structure.String() != sampleID {
				continue
			}
			if (i > 0 && g.Subscriptions > 0) || g.Subscriptions > 1 || g.EndedSessions > 1024 {
				t.Errorf("node %d: %d subscriptions and %d ended sessions are remembered", i, g.Subscriptions, g.EndedSessions)
			}
			if g.Commits-g.Snapshot.Commits > 2000 {
				t.Errorf("node %d: a snapshot of %d commits, of %d", i, g.Snapshot.Commits, g.Commits)
			}
		}
	}
	if held := leave(); held != commits {
		t.Errorf("who stayed holds %d commits, want %d", held, commits)
	}
}

// noMore wants the process to hold what it held before n cycles: a leak of a
// kilobyte, or of two objects, for each cycle of a long run would show.
func noMore(t testing.TB, before usage, n int) {
	t.Helper()
	var after usage
	ok := func() bool {
		after = used(t)
		return after.goroutines <= before.goroutines && after.files <= before.files+2 &&
			after.heap <= before.heap+4<<20+uint64(n)*512 && after.objects <= before.objects+5000+uint64(n)
	}
	// The last goroutines of the subscriptions end just after their channels; and
	// where another node has come to lead, connections that nobody uses any more
	// end after a minute.
	deadline := time.Now().Add(3 * time.Minute)
	for tick := time.NewTicker(100 * time.Millisecond); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Errorf("%d cycles before: %+v, and after: %+v", n, before, after)
			return
		}
	}
	t.Logf("before %+v, after %+v", before, after)
}
