package placement

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/copycat-replication/copycat/id"
)

func nodeID(n int) (out id.Node) {
	binary.BigEndian.PutUint64(out[8:], uint64(n))
	return out
}

func structureID(n uint64) (out id.Structure) {
	binary.BigEndian.PutUint64(out[8:], n)
	return out
}

// grid makes nodes in data centers A, B, … with racks 1, 2, ….
func grid(dcs, racks, perRack int) []Node {
	var nodes []Node
	for d := range dcs {
		for r := range racks {
			for range perRack {
				nodes = append(nodes, Node{ID: nodeID(len(nodes) + 1), DataCenter: string(rune('A' + d)), Rack: fmt.Sprint(r + 1), Capacity: 1})
			}
		}
	}
	return nodes
}

func byID(nodes []Node) map[id.Node]Node {
	m := map[id.Node]Node{}
	for _, n := range nodes {
		m[n.ID] = n
	}
	return m
}

func countDCs(ids []id.Node, nodes []Node) map[string]int {
	m, known := map[string]int{}, byID(nodes)
	for _, n := range ids {
		m[known[n].DataCenter]++
	}
	return m
}

// 1,000 structures on 12 nodes in 3 data centers: the worst node carries at
// most 1.2 times the mean. For several sets of structures, since one may be luck.
func TestEvenLoad(t *testing.T) {
	t.Parallel()
	for _, racks := range []int{1, 2, 4} {
		nodes := grid(3, racks, 4/racks)
		for set := range uint64(10) {
			load := map[id.Node]int{}
			for s := range uint64(1000) {
				for _, n := range Choose(structureID(set<<32+s), nodes, Options{}).Voters {
					load[n]++
				}
			}
			worst := 0
			for _, n := range load {
				worst = max(worst, n)
			}
			if mean := 1000. * 3 / 12; float64(worst) > 1.2*mean || len(load) != 12 {
				t.Errorf("%d racks, set %d: worst node has %d, the mean is %.0f, %d nodes in use", racks, set, worst, mean, len(load))
			}
		}
	}
}

// Leaderships are dealt out as evenly as chance allows, and all in the preferred
// data center if there is one.
func TestLeadersAreSpread(t *testing.T) {
	t.Parallel()
	nodes := grid(3, 2, 2)
	const structures = 12000
	for prefer, able := range map[string]int{"": 12, "B": 4} {
		leads := map[id.Node]int{}
		for s := range uint64(structures) {
			leads[Choose(structureID(s), nodes, Options{PreferredDataCenter: prefer}).Leader]++
		}
		want := structures / float64(able)
		for n, got := range leads {
			if math.Abs(float64(got)-want) > 5*math.Sqrt(want) {
				t.Errorf("preferred %q: node %v leads %d structures, want about %v", prefer, n, got, want)
			}
		}
		if len(leads) != able {
			t.Errorf("preferred %q: %d nodes lead, want %d", prefer, len(leads), able)
		}
	}
}

// Where the spread leaves the choice, load follows capacity: among the nodes of
// a data center, and, for one voter, among data centers.
func TestLoadFollowsCapacity(t *testing.T) {
	t.Parallel()
	nodes := grid(3, 2, 2)
	for i := range nodes {
		nodes[i].Capacity = uint32(1 + i%4)
	}
	const structures = 8000
	for voters, total := range map[int]int{1: 30, 3: 10} { // capacity of all, and of a data center
		load := map[id.Node]int{}
		for s := range uint64(structures) {
			for _, n := range Choose(structureID(s), nodes, Options{Voters: voters}).Voters {
				load[n]++
			}
		}
		for _, n := range nodes {
			want := structures * float64(n.Capacity) / float64(total)
			if got := float64(load[n.ID]); math.Abs(got-want) > 5*math.Sqrt(want) {
				t.Errorf("%d voters, capacity %d: %v structures, want about %v", voters, n.Capacity, got, want)
			}
		}
	}
}

// The answers of version 1. Nodes of different versions share a cluster, and
// must agree: a change here needs a new domain and a way to change over.
func TestGolden(t *testing.T) {
	t.Parallel()
	nodes := grid(3, 2, 2)
	for i := range nodes {
		nodes[i].Capacity = uint32(i)
	}
	s, err := id.ParseStructure("01CFR5R4JJE9KNRAJFFEAQ2SAJ")
	if err != nil {
		t.Fatal(err)
	}
	number := func(ids []id.Node) string {
		var out []string
		for _, n := range ids {
			out = append(out, fmt.Sprint(binary.BigEndian.Uint64(n[8:])))
		}
		return strings.Join(out, " ")
	}
	for _, c := range []struct {
		opt              Options
		voters, learners string
	}{
		{Options{}, "12 6 1", ""},
		{Options{Voters: 5, LearnersPerDataCenter: 1}, "12 6 1 7 10", "3 5 11"},
		{Options{Voters: 3, DataCenters: 2, PreferredDataCenter: "B"}, "6 12 7", ""},
	} {
		p := Choose(s, nodes, c.opt)
		if number(p.Voters) != c.voters || number(p.Learners) != c.learners {
			t.Errorf("%+v: voters %q, learners %q; want %q, %q", c.opt, number(p.Voters), number(p.Learners), c.voters, c.learners)
		}
	}
	if got := drawOf(s, nodes[11]); got != (draw{length: 197554396459394, weight: 11}) {
		t.Errorf("draw %+v", got)
	}
}

func TestNegLog2(t *testing.T) {
	t.Parallel()
	const one = float64(1 << fraction)
	if negLog2(math.MaxUint64) != 0 || negLog2(0) != 64<<fraction || negLog2(1<<63-1) != 1<<fraction {
		t.Fatal("powers of two are not exact")
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 10000 {
		h := r.Uint64() >> r.IntN(64)
		got := float64(negLog2(h)) / one
		want := 64 - math.Log2(float64(h)+1)
		if math.Abs(got-want) > 1e-12*max(1, want) {
			t.Fatalf("-log2 of %d: %v, want %v", h, got, want)
		}
	}
}

func TestVoterTarget(t *testing.T) {
	t.Parallel()
	for _, c := range [][3]int{
		{0, 3, 1}, {1, 3, 1}, {2, 3, 1}, {3, 3, 3}, {4, 3, 3}, {5, 3, 3}, {5, 5, 5}, {6, 5, 5}, {4, 5, 3}, {2, 5, 1},
		{9, 0, 3}, {9, 4, 3}, {9, 1, 1}, {9, 2, 1}, {9, -1, 3}, {100, 7, 7},
	} {
		if got := VoterTarget(c[0], c[1]); got != c[2] {
			t.Errorf("VoterTarget(%d, %d) = %d, want %d", c[0], c[1], got, c[2])
		}
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	nodes := grid(4, 2, 2)
	for s := range uint64(50) {
		p := Choose(structureID(s), nodes, Options{Voters: 5, PinnedDataCenters: []string{"B", "D", "B"}, LearnersPerDataCenter: 2})
		dcs := countDCs(append(p.Voters, p.Learners...), nodes)
		if len(p.Voters) != 5 || dcs["B"]+dcs["D"] != 8 || len(dcs) != 2 || !strings.Contains(p.Unmet, "2 learners wished") {
			t.Fatalf("pinned: %v, %q", dcs, p.Unmet)
		}
		p = Choose(structureID(s), nodes, Options{DataCenters: 2})
		if dcs = countDCs(p.Voters, nodes); len(dcs) != 2 || len(p.Voters) != 3 || p.Unmet != "" {
			t.Fatalf("two data centers: %v, %q", dcs, p.Unmet)
		}
		p = Choose(structureID(s), nodes, Options{DataCenters: 1, PreferredDataCenter: "C"})
		if dcs = countDCs(p.Voters, nodes); dcs["C"] != 3 || byID(nodes)[p.Leader].DataCenter != "C" || p.Unmet != "" {
			t.Fatalf("one data center: %v, %q", dcs, p.Unmet)
		}
		p = Choose(structureID(s), nodes, Options{PreferredDataCenter: "C"})
		if dcs = countDCs(p.Voters, nodes); dcs["C"] != 1 || len(dcs) != 3 || byID(nodes)[p.Leader].DataCenter != "C" {
			t.Fatalf("preferred leader: %v", dcs)
		}
		p = Choose(structureID(s), nodes, Options{LearnersPerDataCenter: 1})
		all := countDCs(p.Learners, nodes)
		known := byID(nodes)
		if len(all) != 4 || len(p.Learners) != 4 || p.Unmet != "" {
			t.Fatalf("learners: %v, %q", all, p.Unmet)
		}
		for _, l := range p.Learners {
			for _, v := range p.Voters {
				if known[l].place() == known[v].place() {
					t.Fatalf("learner and voter share rack %v, with another one free", known[l].place())
				}
			}
		}
		// A limit gives way when nodes are few, and prefers data centers that have enough.
		few := append(grid(1, 1, 4), Node{ID: nodeID(99), DataCenter: "Z"})
		p = Choose(structureID(s), few, Options{DataCenters: 1})
		if dcs = countDCs(p.Voters, few); dcs["A"] != 3 || p.Unmet != "" {
			t.Fatalf("one data center that has enough: %v, %q", dcs, p.Unmet)
		}
		p = Choose(structureID(s), few[2:], Options{DataCenters: 1})
		if len(p.Voters) != 3 || !strings.Contains(p.Unmet, "too few nodes") {
			t.Fatalf("too few nodes: %v, %q", p.Voters, p.Unmet)
		}
	}
}

func TestUnmet(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		nodes  []Node
		opt    Options
		voters int
		unmet  string
	}{
		{nil, Options{}, 0, "3 voters wished, 0 nodes"},
		{grid(1, 1, 2), Options{}, 2, "3 voters wished, 2 nodes"},
		{grid(1, 1, 3), Options{}, 3, ""},
		{grid(2, 1, 3), Options{DataCenters: 3}, 3, "3 data centers wished, voters are in 2"},
		{grid(2, 1, 3), Options{Voters: 4}, 3, "4 voters wished"},
		{grid(2, 1, 3), Options{PinnedDataCenters: []string{"X"}}, 0, `"X"`},
		{grid(2, 1, 3), Options{PreferredDataCenter: "X"}, 3, `"X"`},
		{grid(1, 1, 1), Options{Voters: 1, DataCenters: 3}, 1, ""},
		{grid(1, 1, 1), Options{Voters: 1, LearnersPerDataCenter: -1}, 1, ""},
	} {
		p := Choose(structureID(1), c.nodes, c.opt)
		if len(p.Voters) != c.voters || (p.Unmet == "") != (c.unmet == "") || !strings.Contains(p.Unmet, c.unmet) {
			t.Errorf("%d nodes, %+v: %d voters, %q; want %d, %q", len(c.nodes), c.opt, len(p.Voters), p.Unmet, c.voters, c.unmet)
		}
	}
}

func TestBetter(t *testing.T) {
	t.Parallel()
	nodes := grid(3, 2, 2) // 1 2 | 3 4, 5 6 | 7 8, 9 10 | 11 12
	ids := func(ns ...int) (out []id.Node) {
		for _, n := range ns {
			out = append(out, nodeID(n))
		}
		return out
	}
	for _, c := range []struct {
		now, wished []id.Node
		want        bool
	}{
		{ids(1, 2, 5), ids(1, 5, 9), true},   // one more data center
		{ids(1, 5, 9), ids(2, 6, 10), false}, // chance alone
		{ids(1, 2, 5), ids(1, 3, 5), true},   // one more rack
		{ids(1, 5, 9), ids(1, 2, 5), false},
		{ids(1, 2, 3, 5, 9), ids(1, 3, 5, 7, 9), true}, // one data center holds the majority no more
		{ids(1, 77), ids(1, 2), true},                  // 77 is dead
		{nil, nil, false},
	} {
		if got := Better(c.now, c.wished, nodes); got != c.want {
			t.Errorf("from %v to %v: %v", SpreadOf(c.now, nodes), SpreadOf(c.wished, nodes), got)
		}
	}
	if s := SpreadOf(ids(1, 2, 3, 5), nodes); s != (Spread{Replicas: 4, DataCenters: 2, Racks: 3, PairsInDataCenter: 3, PairsInRack: 1}) {
		t.Errorf("%+v", s)
	}
}

// The caller's slices are its own, before and after.
func TestChangesNothing(t *testing.T) {
	t.Parallel()
	nodes := grid(2, 2, 2)
	slices.Reverse(nodes)
	before := slices.Clone(nodes)
	opt := Options{PinnedDataCenters: []string{"B", "A"}, LearnersPerDataCenter: 1}
	p := Choose(structureID(3), nodes, opt)
	SpreadOf(p.Voters, nodes)
	if !slices.Equal(before, nodes) || opt.PinnedDataCenters[0] != "B" {
		t.Fatal("the arguments were changed")
	}
}

func BenchmarkChoose(b *testing.B) {
	nodes := grid(5, 4, 5)
	for b.Loop() {
		Choose(structureID(1), nodes, Options{Voters: 5})
	}
}
