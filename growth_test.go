package copycat

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// grow starts another node that contacts the first.
func grow(t testing.TB, first CopyCat, dc string) CopyCat {
	t.Helper()
	return start(t, testConfig(t, dc, first.Status().GossipAddress))
}

// TestGrowthOfALoneStructure begins on a lone node. Two nodes that come later,
// and never subscribe, get detached replicas, and the structure three voters;
// a fourth node that subscribes gets a learner.
func TestGrowthOfALoneStructure(t *testing.T) {
	t.Parallel()
	first := start(t, testConfig(t, "dc1"))
	l := newList(t, first, sampleID)
	for i := range 100 {
		l.propose <- fmt.Appendf(nil, "n %d", i)
	}
	l.waitFor(100)
	nodes := []CopyCat{first, grow(t, first, "dc2"), grow(t, first, "dc3")}
	waitStatus(t, first, "three voters", func(s Status) bool {
		st, ok := structure(s, sampleID)
		return ok && len(st.Voters) == 3 && len(st.Learners) == 0
	})
	leaders := 0
	for i, n := range nodes {
		waitStatus(t, n, "a voter that has everything", func(s Status) bool {
			st, ok := structure(s, sampleID)
			return ok && slices.Contains(st.Voters, s.NodeID) && st.Leader != "" && st.Commits == 100 && st.Interactive == (i == 0)
		})
		st, _ := structure(n.Status(), sampleID)
		switch st.Role {
		case "leader":
			leaders++
		case "follower":
		default:
			t.Errorf("node %d is %s", i, st.Role)
		}
	}
	if leaders != 1 {
		t.Errorf("%d leaders", leaders)
	}

	fourth := grow(t, first, "dc4")
	l4 := newList(t, fourth, sampleID)
	l4.waitFor(100)
	l4.propose <- []byte("from the fourth")
	l.waitFor(101)
	l4.waitFor(101)
	sameLists(t, l, l4)
	waitStatus(t, fourth, "a learner", func(s Status) bool {
		st, ok := structure(s, sampleID)
		return ok && st.Role == "learner" && st.Interactive && slices.Contains(st.Learners, s.NodeID) && len(st.Voters) == 3
	})

	// The first node, which began alone, is not needed any more.
	first.Shutdown()
	<-l.done
	l4.propose <- []byte("without the first")
	l4.waitFor(102)
}

// TestDataCenterReplicas wants a voter in each of three data centers, although
// one of them has most of the nodes, and also when the last data center comes
// only after the structure.
func TestDataCenterReplicas(t *testing.T) {
	t.Parallel()
	var nodes []CopyCat
	add := func(dc string) {
		cfg := testConfig(t, dc)
		cfg.ReplaceAfter = 3 * time.Second
		if len(nodes) > 0 {
			cfg.PeersToContact = []string{nodes[0].Status().GossipAddress}
		}
		nodes = append(nodes, start(t, cfg))
	}
	for _, dc := range []string{"dc1", "dc1", "dc1", "dc2"} {
		add(dc)
	}
	first := nodes[0]
	waitStatus(t, first, "four nodes alive", func(s Status) bool { return alive(s) == 4 })
	early, err := first.AllocateNewDataStructure(WithDataCenterReplicas(3))
	if err != nil {
		t.Fatal(err)
	}
	add("dc3")
	waitStatus(t, nodes[3], "five nodes alive", func(s Status) bool { return alive(s) == 5 })
	late, err := nodes[3].AllocateNewDataStructure(WithDataCenterReplicas(3))
	if err != nil {
		t.Fatal(err)
	}
	// If a node was taken for dead at that moment, healing takes a while.
	waitStatus(t, nodes[3], "a voter in each data center", func(s Status) bool {
		return slices.Equal(voterCenters(s, late.String()), []string{"dc1", "dc2", "dc3"})
	})
	// It is of use: from a node that holds a voter, and from one that does not.
	lists := []*list{newList(t, nodes[0], late.String()), newList(t, nodes[1], late.String()), newList(t, nodes[4], late.String())}
	for i, l := range lists {
		l.propose <- fmt.Appendf(nil, "from %d", i)
	}
	for _, l := range lists {
		l.waitFor(3)
	}
	sameLists(t, lists...)
	// Three voters were found in two data centers, as they are for a structure
	// that is created while gossip takes a node for dead; healing moves the third.
	// The node that asked for it may lose its replica by that.
	waitStatus(t, first, "voters of the early structure in all data centers", func(Status) bool {
		return slices.ContainsFunc(nodes, func(n CopyCat) bool {
			return slices.Equal(voterCenters(n.Status(), early.String()), []string{"dc1", "dc2", "dc3"})
		})
	})
}

// voterCenters are the data centers of a structure's voters, sorted, as a node
// that has a replica sees them.
func voterCenters(s Status, id string) (dcs []string) {
	st, _ := structure(s, id)
	for _, v := range st.Voters {
		for _, n := range s.Nodes {
			if n.NodeID == v {
				dcs = append(dcs, n.DataCenter)
			}
		}
	}
	slices.Sort(dcs)
	return dcs
}

func TestAllocationOptions(t *testing.T) {
	t.Parallel()
	cc := start(t, testConfig(t, ""))
	for _, n := range []int{-1, 0, maxDataCenters + 1} {
		if _, err := cc.AllocateNewDataStructure(WithDataCenterReplicas(n)); !errors.Is(err, ErrInvalidOptions) {
			t.Errorf("WithDataCenterReplicas(%d): got %v, want ErrInvalidOptions", n, err)
		}
	}
	a, err := cc.AllocateNewDataStructure()
	if err != nil {
		t.Fatal(err)
	}
	b, err := cc.AllocateNewDataStructure(WithDataCenterReplicas(9))
	if err != nil {
		t.Fatal(err)
	}
	if *a == *b {
		t.Errorf("both are %s", a)
	}
	for _, id := range []*ID{a, b} { // one node, one voter: it works at once
		l := newList(t, cc, id.String())
		l.propose <- []byte("x")
		l.waitFor(1)
	}
}
