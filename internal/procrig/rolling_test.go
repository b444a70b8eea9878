package procrig

import (
	"fmt"
	"maps"
	"testing"
	"time"
)

// maxPause is the longest that writes may pause while nodes are restarted: two
// election time-outs, of which each replica draws its own, between half of
// ElectionTimeout and all of it. Times in which the machine kept a process of
// the rig from running are left out.
const maxPause = 2 * ElectionTimeout

// TestRollingRestart restarts every node in turn with SIGTERM, as operators do,
// while each structure is written from two nodes: nothing is lost or comes
// twice, nothing is moved, and no structure pauses for more than two election
// time-outs. With -long: six nodes, fifty structures, and a second time around
// with SIGKILL.
func TestRollingRestart(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	t.Parallel()
	r := New(t, Options{
		DataCenters:     pick([]string{"dc1", "dc2", "dc3", "dc3"}, []string{"dc1", "dc2", "dc3", "dc1", "dc2", "dc3"}),
		SnapshotEntries: 200, Seed: newSeed(),
	})
	r.StartAll()
	written := make(map[*Node][]*Structure)
	write := func(n *Node, s *Structure) *Subscription {
		sub := n.Subscribe(s)
		sub.Load(pick(4*pace, 40*pace))
		return sub
	}
	for i := range pick(6, 50) {
		s := r.Structure()
		for _, n := range []*Node{r.Nodes[i%len(r.Nodes)], r.Nodes[(i+1)%len(r.Nodes)]} {
			written[n] = append(written[n], s)
			write(n, s)
		}
	}
	r.Wait(4*time.Minute, "three voters of each", func() (bool, string) { return whole(r) })
	r.More(20, r.subscriptions()...)
	before := voters(r)

	began := time.Now()
	for _, end := range pick([]func(*Node){(*Node).Terminate}, []func(*Node){(*Node).Terminate, (*Node).Kill}) {
		for _, n := range r.Nodes {
			mended := r.Fault("node %d is restarted", n.Number)
			end(n)
			n.Start()
			var subs []*Subscription
			for _, s := range written[n] {
				subs = append(subs, write(n, s))
			}
			awaitRestarted(r, n)
			mended()
			r.More(20, subs...)
		}
	}
	ended := time.Now()
	after := voters(r)
	for _, s := range r.structures {
		if !maps.Equal(after[s.ID], before[s.ID]) {
			t.Errorf("%s: the voters were %v, and are %v", s.ID, before[s.ID], after[s.ID])
		}
	}
	finish(t, r)
	noLongPause(t, r, began, ended)
}

// awaitRestarted waits for what docs/operations.md tells operators to wait for
// before they restart the next node.
func awaitRestarted(r *Rig, n *Node) {
	r.t.Helper()
	r.Wait(2*time.Minute, "the node is back", func() (bool, string) {
		st, err := n.Status()
		if err != nil {
			return false, err.Error()
		}
		for _, x := range st.Structures {
			if x.Leader == "" || x.Applied+10 < x.Commit {
				return false, fmt.Sprintf("%+v", x)
			}
		}
		return true, ""
	})
}

// voters are the ReplicaIDs of each structure's voters, as its leader has them.
// Between two leaders there is a moment without one: it waits until all have one.
func voters(r *Rig) map[string]map[uint64]bool {
	r.t.Helper()
	out := make(map[string]map[uint64]bool)
	r.Wait(2*time.Minute, "a leader of each structure", func() (bool, string) {
		shown, err := leaders(r)
		if err != nil {
			return false, err.Error()
		}
		for _, s := range r.structures {
			x := shown[s.ID]
			if len(x) != 1 {
				return false, fmt.Sprintf("%s has %d leaders", s.ID, len(x))
			}
			out[s.ID] = make(map[uint64]bool)
			for id, voter := range x[0].Members {
				if voter {
					out[s.ID][id] = true
				}
			}
		}
		return true, ""
	})
	return out
}

// noLongPause holds the pauses of each structure between two moments, in which
// it was written all the time, against maxPause.
func noLongPause(t *testing.T, r *Rig, from, to time.Time) {
	t.Helper()
	h, err := r.history()
	if err != nil {
		t.Fatal(err)
	}
	stalls, err := r.stalls()
	if err != nil {
		t.Fatal(err)
	}
	var worst pause
	for i, s := range r.structures {
		p := longestPause(h, s.number, from, to, stalls)
		t.Logf("structure %d: the longest pause was %s", i+1, p)
		if p.own() > worst.own() {
			worst = p
		}
		if p.own() > maxPause {
			t.Errorf("seed %d: structure %d (%s) paused for %s, %s after the beginning; the bound is %s",
				r.opt.Seed, i+1, s.ID, p, time.Duration(p.from-from.UnixNano()).Round(time.Millisecond), maxPause)
		}
	}
	all := span{from.UnixNano(), to.UnixNano()}
	t.Logf("the longest pause of %d structures in %s was %s; a process stood still for %s of all that time; latency from a proposal to its own delivery: %s",
		len(r.structures), all.length().Round(time.Millisecond), worst, within(all, stalls).Round(time.Millisecond), latencies(h, from, to))
}
