package copycat

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

func sameLists(t testing.TB, ls ...*list) {
	t.Helper()
	want := ls[0].all()
	for i, l := range ls[1:] {
		if got := l.all(); !slices.Equal(got, want) {
			t.Fatalf("list %d differs from list 0: %d and %d lines", i+1, len(got), len(want))
		}
	}
}

// waitStatus waits until a node's status satisfies cond.
func waitStatus(t testing.TB, cc CopyCat, what string, cond func(Status) bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for tick := time.NewTicker(20 * time.Millisecond); !cond(cc.Status()); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within two minutes: %s; status %+v", what, cc.Status())
		}
	}
}

func structure(s Status, id string) (StructureStatus, bool) {
	for _, st := range s.Structures {
		if st.ID.String() == id && st.Role != "prepared" {
			return st, true
		}
	}
	return StructureStatus{}, false
}

// TestThreeNodes has three nodes in three data centers subscribe at the same
// moment, write from all of them, restart one while the others go on, and then
// all of them.
func TestThreeNodes(t *testing.T) {
	t.Parallel()
	cfgs := []*Config{testConfig(t, "dc1"), testConfig(t, "dc2"), testConfig(t, "dc3")}
	for _, c := range cfgs {
		c.SnapshotEntries = 500
	}
	first := start(t, cfgs[0])
	for _, c := range cfgs[1:] {
		c.PeersToContact = []string{first.Status().GossipAddress}
	}
	nodes := []CopyCat{first, start(t, cfgs[1]), start(t, cfgs[2])}
	for _, n := range nodes {
		waitStatus(t, n, "three nodes alive", func(s Status) bool { return len(s.Nodes) == 3 })
	}
	lists := make([]*list, 3)
	var subscribing sync.WaitGroup
	for i, n := range nodes {
		subscribing.Go(func() { lists[i] = newList(t, n, sampleID) })
	}
	subscribing.Wait()
	for i, l := range lists {
		go func() {
			for k := range 500 {
				l.propose <- fmt.Appendf(nil, "a-%d-%d", i, k)
			}
		}()
	}
	for _, l := range lists {
		l.waitFor(1500)
	}
	sameLists(t, lists...)
	waitStatus(t, nodes[0], "three voters", func(s Status) bool {
		st, ok := structure(s, sampleID)
		return ok && len(st.Voters) == 3
	})

	nodes[1].Shutdown()
	<-lists[1].done
	for k := range 100 {
		lists[0].propose <- fmt.Appendf(nil, "b-%d", k)
	}
	lists[0].waitFor(1600)
	nodes[1] = start(t, cfgs[1])
	lists[1] = newList(t, nodes[1], sampleID)
	for _, l := range lists {
		l.waitFor(1600)
	}
	sameLists(t, lists...)

	ids := []string{nodes[0].Status().NodeID, nodes[1].Status().NodeID, nodes[2].Status().NodeID}
	for i, n := range nodes {
		n.Shutdown()
		<-lists[i].done
	}
	for i := range nodes {
		nodes[i] = start(t, cfgs[i])
		if id := nodes[i].Status().NodeID; id != ids[i] {
			t.Errorf("node %d was %s and is %s", i, ids[i], id)
		}
		lists[i] = newList(t, nodes[i], sampleID)
	}
	lists[2].propose <- []byte("c")
	for _, l := range lists {
		l.waitFor(1601)
	}
	sameLists(t, lists...)
}
