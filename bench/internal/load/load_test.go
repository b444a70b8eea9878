package load

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testPlan() Plan {
	return Plan{Nodes: 3, Structures: 2, Payload: 32, Outstanding: 10, Proposers: AtLeader, Seconds: 0.2, Warmup: 0.05}
}

// echo is a System that applies everything at every node at once, in order.
type echo struct {
	load    *Load
	leader  int
	queues  []chan []byte // by structure
	done    chan struct{}
	serving sync.WaitGroup
	// alter may drop, repeat or change what is applied at a node.
	alter func(node int, payload []byte) [][]byte
	// refuse is what becomes of all proposals, if set: accepted first, and given up.
	refuse error
}

func newEcho(l *Load, alter func(int, []byte) [][]byte) *echo {
	e := &echo{load: l, leader: 1, done: make(chan struct{}), alter: alter}
	for s := range l.plan.Structures {
		q := make(chan []byte, 64)
		e.queues = append(e.queues, q)
		e.serving.Go(func() { e.serve(s, q) })
	}
	return e
}

func (e *echo) serve(structure int, q chan []byte) {
	for {
		select {
		case p := <-q:
			for n := range e.load.plan.Nodes {
				all := [][]byte{p}
				if e.alter != nil {
					all = e.alter(n, p)
				}
				for _, p := range all {
					e.load.Consumer(n, structure).Applied(p)
				}
			}
		case <-e.done:
			return
		}
	}
}

func (e *echo) Leader(int) (int, error) { return e.leader, nil }

func (e *echo) Propose(node, structure int, p []byte) error {
	if e.refuse != nil {
		e.load.Consumer(node, structure).Failed(p, e.refuse)
		return nil
	}
	select {
	case e.queues[structure] <- p:
		return nil
	case <-e.done:
		return errors.New("closed")
	}
}

func (e *echo) Close() error {
	close(e.done)
	e.serving.Wait()
	return nil
}

func run(t *testing.T, p Plan, alter func(int, []byte) [][]byte) Outcome {
	t.Helper()
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	l := New(p)
	e := newEcho(l, alter)
	if err := l.Run(t.Context(), e, Hooks{}); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Outcome()
}

func TestLoadCountsWhatIsApplied(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testLoadCounts)
}

// slowly has a system take some time, of a bubble's: in it, nothing else would
// let the time pass.
func slowly(node int, p []byte) [][]byte {
	if node == 0 {
		time.Sleep(50 * time.Microsecond)
	}
	return [][]byte{p}
}

func testLoadCounts(t *testing.T) {
	for _, where := range []Proposers{AtLeader, AtFollower, AtAll} {
		for _, outstanding := range []int{1, 10, 300} {
			p := testPlan()
			p.Proposers, p.Outstanding = where, outstanding
			o := run(t, p, slowly)
			if o.Errors() != 0 || o.Warnings != 0 || o.FirstError != nil {
				t.Errorf("%s, %d outstanding: errors in %+v", where, outstanding, o)
			}
			var sum uint64
			for _, n := range o.PerSecond {
				sum += n
			}
			if o.Ops == 0 || sum != o.Ops {
				t.Errorf("%s, %d outstanding: %d operations, %d by second", where, outstanding, o.Ops, sum)
			}
			if n := uint64(o.Latency.TotalCount()); n == 0 || n > o.Ops+uint64(outstanding) || n+uint64(outstanding) < o.Ops {
				t.Errorf("%s, %d outstanding: %d latencies of %d operations", where, outstanding, n, o.Ops)
			}
			if o.Slowest <= 0 || o.Slowest < time.Duration(o.Latency.ValueAtQuantile(50))/2 {
				t.Errorf("%s, %d outstanding: slowest %v, median %v", where, outstanding, o.Slowest, time.Duration(o.Latency.ValueAtQuantile(50)))
			}
		}
	}
}

// TestLoadSeesBrokenOrder: a system that loses, repeats or swaps on any node is found out.
func TestLoadSeesBrokenOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testBrokenOrder)
}

func testBrokenOrder(t *testing.T) {
	number := func(p []byte) uint64 { return binary.LittleEndian.Uint64(p) & sequenceMask }
	var held []byte
	for name, alter := range map[string]func(int, []byte) [][]byte{
		"lost on another node": func(n int, p []byte) [][]byte {
			if n == 2 && number(p) == 7 {
				return nil
			}
			return [][]byte{p}
		},
		"repeated on its own node": func(n int, p []byte) [][]byte {
			if n == 1 && number(p) == 7 {
				return [][]byte{p, p}
			}
			return [][]byte{p}
		},
		"swapped": func(n int, p []byte) [][]byte {
			switch {
			case n == 0 && number(p) == 7:
				held = p
				return nil
			case n == 0 && number(p) == 8:
				return [][]byte{p, held}
			}
			return [][]byte{p}
		},
		"cut": func(n int, p []byte) [][]byte {
			if n == 0 && number(p) == 7 {
				return [][]byte{p[:4], p}
			}
			return [][]byte{p}
		},
	} {
		p := testPlan()
		p.Structures, p.Outstanding, p.Seconds = 1, 4, 0.02
		o := run(t, p, func(node int, payload []byte) [][]byte { return alter(node, slowly(node, payload)[0]) })
		if o.Broken == 0 || !errors.Is(o.FirstError, errOrder) {
			t.Errorf("%s: %d broken, first error %v", name, o.Broken, o.FirstError)
		}
	}
}

// TestLoadOfStuckSystem: a run on a system that takes nothing ends when it is
// cancelled, and its lanes when the system is closed.
func TestLoadOfStuckSystem(t *testing.T) {
	t.Parallel()
	p := testPlan()
	p.Outstanding, p.Seconds = 1000, 3600
	l := New(p)
	e := &echo{load: l, done: make(chan struct{}), queues: []chan []byte{make(chan []byte), make(chan []byte)}}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("somebody has had enough")
	err := l.Run(ctx, e, Hooks{Start: func() { cancel(why) }})
	if !errors.Is(err, why) {
		t.Errorf("run ended with %v", err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if o := l.Outcome(); o.Ops != 0 || o.Warnings != 0 {
		t.Errorf("outcome of nothing: %+v", o)
	}
}

// TestFailedProposalsGoOn: a failed proposal makes room for the next, is
// counted, and may be missing from the order.
func TestFailedProposalsGoOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testFailedProposals)
}

func testFailedProposals(t *testing.T) {
	p := testPlan()
	p.Structures, p.Outstanding = 1, 1
	l := New(p)
	boom := errors.New("boom")
	var e *echo
	e = newEcho(l, func(n int, payload []byte) [][]byte {
		if binary.LittleEndian.Uint64(payload)&sequenceMask == 5 {
			if n == e.leader {
				l.Consumer(n, 0).Failed(payload, boom)
			}
			return nil
		}
		return slowly(n, payload)
	})
	if err := l.Run(t.Context(), e, Hooks{}); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	o := l.Outcome()
	if o.Failed != 1 || o.Broken != 0 || o.Unfinished != 0 || !errors.Is(o.FirstError, boom) || o.Ops < 10 {
		t.Errorf("outcome %+v", o)
	}
}

// TestRestoreSettles: what a snapshot holds of the own proposals was applied by it.
func TestRestoreSettles(t *testing.T) {
	t.Parallel()
	p := testPlan()
	l := New(p)
	l.end = int64(time.Hour)
	l.plan.Seconds = 3600
	c := l.Consumer(1, 0)
	ln := newLane(l, 1, 0, 8)
	c.take(ln, 1)
	for seq := uint64(1); seq <= 8; seq++ {
		ln.ring.put(seq, l.now()+1)
		ln.sent.Store(seq)
	}
	other := l.Consumer(2, 0)
	l.plan.State = 1000
	if n := len(other.Snapshot()); n != 24 {
		t.Errorf("%d bytes of state before anything is applied", n)
	}
	for seq := uint64(1); seq <= 6; seq++ {
		other.Applied(binary.LittleEndian.AppendUint64(nil, ln.tag|seq)) // too short: counted as broken
		payload := make([]byte, p.Payload)
		binary.LittleEndian.PutUint64(payload, ln.tag|seq)
		other.Applied(payload)
	}
	if other.broken != 6 {
		t.Errorf("%d broken, want the 6 of a wrong size", other.broken)
	}
	if n := len(other.Snapshot()); n != 1000 {
		t.Errorf("%d bytes of state", n)
	}
	if err := c.Restore(other.Snapshot()); err != nil {
		t.Fatal(err)
	}
	if ln.done.Load() != 6 || c.applied != 6 || c.last[1] != 6 || c.broken != 0 {
		t.Errorf("done %d, applied %d, last %v, broken %d", ln.done.Load(), c.applied, c.last, c.broken)
	}
	if err := c.Restore([]byte("short")); err == nil {
		t.Error("a snapshot of 5 bytes was loaded")
	}
}

func TestPlanReportsAllFaults(t *testing.T) {
	t.Parallel()
	err := Plan{Nodes: 0, Structures: 0, Payload: 7, Outstanding: 0, Proposers: "nobody", Warmup: -1}.Validate()
	for _, what := range []string{"nodes", "structures", "payload", "outstanding", "proposers", "seconds", "warmup"} {
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s is not in %v", what, err)
		}
	}
	if err := testPlan().Validate(); err != nil {
		t.Error(err)
	}
}

// TestOutstandingIsDealt: all of it, evenly, to the lanes that there are.
func TestOutstandingIsDealt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ structures, outstanding, lanes int }{{1, 7, 1}, {4, 10, 4}, {4, 3, 3}, {64, 4096, 64}} {
		p := testPlan()
		p.Structures, p.Outstanding = c.structures, c.outstanding
		l := New(p)
		if err := l.place(&echo{leader: 2}); err != nil {
			t.Fatal(err)
		}
		sum, least, most := uint64(0), l.lanes[0].window, l.lanes[0].window
		for _, ln := range l.lanes {
			sum, least, most = sum+ln.window, min(least, ln.window), max(most, ln.window)
			if ln.node != 2 {
				t.Errorf("lane at node %d, the leader is 2", ln.node)
			}
		}
		if len(l.lanes) != c.lanes || sum != uint64(c.outstanding) || most-least > 1 {
			t.Errorf("%+v: %d lanes, %d in all, %d to %d each", c, len(l.lanes), sum, least, most)
		}
	}
}
