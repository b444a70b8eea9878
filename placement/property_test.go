package placement

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/copycat-replication/copycat/id"
	"pgregory.net/rapid"
)

// drawNode draws a node in one of a few data centers and racks.
func drawNode(rt *rapid.T, number int) Node {
	return Node{
		ID:         nodeID(number),
		DataCenter: string(rune('A' + rapid.IntRange(0, 4).Draw(rt, "dc"))),
		Rack:       fmt.Sprint(rapid.IntRange(0, 2).Draw(rt, "rack")),
		Capacity:   rapid.Uint32Range(0, 20).Draw(rt, "capacity"),
	}
}

func drawNodes(rt *rapid.T, least, most int) []Node {
	var nodes []Node
	for i := range rapid.IntRange(least, most).Draw(rt, "nodes") {
		nodes = append(nodes, drawNode(rt, i+1))
	}
	return nodes
}

// drawOptions draws wishes under which movement is minimal: no limit of data centers.
func drawOptions(rt *rapid.T) Options {
	opt := Options{
		Voters:                rapid.SampledFrom([]int{0, 1, 3, 5, 7}).Draw(rt, "voters"),
		LearnersPerDataCenter: rapid.IntRange(0, 2).Draw(rt, "learners"),
	}
	if rapid.Bool().Draw(rt, "has leader") {
		opt.PreferredDataCenter = string(rune('A' + rapid.IntRange(0, 4).Draw(rt, "leader")))
	}
	if rapid.IntRange(0, 3).Draw(rt, "has pins") == 0 {
		opt.PinnedDataCenters = []string{"A", "C"}
	}
	return opt
}

func minus(a, b []id.Node) []id.Node {
	return slices.DeleteFunc(slices.Clone(a), func(n id.Node) bool { return slices.Contains(b, n) })
}

func copies(p Plan) []id.Node { return slices.Concat(p.Voters, p.Learners) }

func drawStructure(rt *rapid.T) id.Structure {
	return structureID(rapid.Uint64().Draw(rt, "structure"))
}

// TestMinimalMovement: without and with node x, the voters differ by x and what
// it replaces; voters and learners together by at most one learner more, and
// not even that if the data centers keep their numbers of voters. This is join
// and leave in one.
func TestMinimalMovement(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		s, opt := drawStructure(rt), drawOptions(rt)
		nodes := drawNodes(rt, 0, 16)
		x := drawNode(rt, 100)
		all := append(slices.Clone(nodes), x)
		without, with := Choose(s, nodes, opt), Choose(s, all, opt)

		came, went := minus(with.Voters, without.Voters), minus(without.Voters, with.Voters)
		if len(came) > 1 || len(came) == 1 && came[0] != x.ID || len(went) > len(came) {
			rt.Fatalf("with one node more, voters came on %v and went from %v", came, went)
		}
		others := minus(copies(with), append(copies(without), x.ID))
		limit := 1
		if maps.Equal(countDCs(without.Voters, all), countDCs(with.Voters, all)) {
			limit = 0
		}
		if len(others) > limit {
			rt.Fatalf("with one node more, replicas came on %v too", others)
		}
	})
}

// TestLeaveOfMany: when nodes leave together, every voter on another node stays.
func TestLeaveOfMany(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		s, opt := drawStructure(rt), drawOptions(rt)
		nodes := drawNodes(rt, 1, 16)
		before := Choose(s, nodes, opt).Voters
		gone := rapid.SliceOfNDistinct(rapid.SampledFrom(nodes), 0, len(nodes), func(n Node) id.Node { return n.ID }).Draw(rt, "gone")
		left := slices.DeleteFunc(slices.Clone(nodes), func(n Node) bool { return slices.Contains(gone, n) })
		after := Choose(s, left, opt).Voters
		for _, v := range before {
			if byID(left)[v].ID == v && !slices.Contains(after, v) {
				rt.Fatalf("voter %v moved though its node stayed", v)
			}
		}
	})
}

// TestCapacityChange: a node that gets more capacity attracts voters, and
// nothing else moves; the other way round for less.
func TestCapacityChange(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		s, opt := drawStructure(rt), drawOptions(rt)
		nodes := drawNodes(rt, 1, 16)
		i := rapid.IntRange(0, len(nodes)-1).Draw(rt, "which")
		more := slices.Clone(nodes)
		more[i].Capacity += rapid.Uint32Range(1, 100).Draw(rt, "more")
		came := minus(Choose(s, more, opt).Voters, Choose(s, nodes, opt).Voters)
		if len(came) > 1 || len(came) == 1 && came[0] != more[i].ID {
			rt.Fatalf("voters came on %v", came)
		}
	})
}

// TestSpreadIsBest: no set of as many nodes is spread better, and of those that
// are spread as well none has a smaller sum of draws.
func TestSpreadIsBest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		s := drawStructure(rt)
		nodes := drawNodes(rt, 1, 8)
		p := Choose(s, nodes, Options{Voters: rapid.SampledFrom([]int{1, 3, 5, 7}).Draw(rt, "voters")})
		got := SpreadOf(p.Voters, nodes)
		sum := func(ids []id.Node) float64 {
			total := 0.
			for _, n := range ids {
				d := drawOf(s, byID(nodes)[n])
				total += float64(d.length) / float64(d.weight)
			}
			return total
		}
		gotSum := sum(p.Voters)
		for mask := range 1 << len(nodes) {
			var set []id.Node
			for i, n := range nodes {
				if mask>>i&1 == 1 {
					set = append(set, n.ID)
				}
			}
			if len(set) != len(p.Voters) {
				continue
			}
			cmp := SpreadOf(set, nodes).Compare(got)
			if cmp > 0 || cmp == 0 && sum(set) < gotSum*(1-1e-9) {
				rt.Fatalf("%v is better than %v (%v)", set, p.Voters, got)
			}
			if (cmp > 0) != Better(p.Voters, set, nodes) {
				rt.Fatal("Better and Compare differ")
			}
		}
	})
}

// TestPlanIsSound: the order of nodes, doubles and the number of voters asked
// for change nothing that they should not; nobody is chosen twice, or from
// where nothing may be; as many as can be are chosen.
func TestPlanIsSound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		s, opt := drawStructure(rt), drawOptions(rt)
		opt.DataCenters = rapid.IntRange(0, 4).Draw(rt, "data centers")
		nodes := drawNodes(rt, 0, 16)
		p := Choose(s, nodes, opt)

		shuffled := rapid.Permutation(append(slices.Clone(nodes), nodes...)).Draw(rt, "order")
		q := Choose(s, shuffled, opt)
		if !slices.Equal(p.Voters, q.Voters) || !slices.Equal(p.Learners, q.Learners) || p.Unmet != q.Unmet || p.Leader != q.Leader {
			rt.Fatalf("%+v, and in another order %+v", p, q)
		}

		allowed := 0
		free := map[string]int{}
		for _, n := range nodes {
			if len(opt.PinnedDataCenters) == 0 || slices.Contains(opt.PinnedDataCenters, n.DataCenter) {
				allowed++
				free[n.DataCenter]++
			}
		}
		want := opt.Voters
		if want == 0 {
			want = DefaultVoters
		}
		if len(p.Voters) != min(want, allowed) {
			rt.Fatalf("%d voters of %d wished, %d nodes", len(p.Voters), want, allowed)
		}
		seen := map[id.Node]bool{}
		for _, n := range copies(p) {
			if seen[n] || free[byID(nodes)[n].DataCenter] == 0 {
				rt.Fatalf("%v chosen twice, or in a wrong place", n)
			}
			seen[n] = true
		}
		voters, learners := countDCs(p.Voters, nodes), countDCs(p.Learners, nodes)
		for dc, n := range free {
			if learners[dc] != min(opt.LearnersPerDataCenter, n-voters[dc]) {
				rt.Fatalf("%d learners in %s, which has %d nodes and %d voters", learners[dc], dc, n, voters[dc])
			}
		}
		if free[opt.PreferredDataCenter] > 0 && byID(nodes)[p.Leader].DataCenter != opt.PreferredDataCenter {
			rt.Fatalf("leader %v is not in %q", p.Leader, opt.PreferredDataCenter)
		}
		if order := Leaders(s, p.Voters, shuffled, opt); len(order) != len(p.Voters) || len(order) > 0 && order[0] != p.Leader {
			rt.Fatalf("leader %v of %v, and the order is %v", p.Leader, p.Voters, order)
		}
		if opt.DataCenters == 0 && want > 1 {
			fewer := opt
			fewer.Voters = want - 2
			if v := Choose(s, nodes, fewer).Voters; !slices.Equal(v, p.Voters[:min(len(v), len(p.Voters))]) {
				rt.Fatalf("%v is no prefix of %v", v, p.Voters)
			}
		}
	})
}

// TestRank: Rank gives the plan of Choose, and the order that Choose gives to
// all nodes if so many voters are wished.
func TestRank(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		s, nodes, opt := drawStructure(rt), drawNodes(rt, 0, 15), drawOptions(rt)
		opt.DataCenters = rapid.IntRange(0, 4).Draw(rt, "limit")
		plan, order := Rank(s, nodes, opt)
		if want := Choose(s, nodes, opt); fmt.Sprint(plan) != fmt.Sprint(want) {
			rt.Fatalf("plan %+v, want %+v", plan, want)
		}
		opt.Voters, opt.DataCenters, opt.LearnersPerDataCenter = len(nodes)|1, 0, 0
		if want := Choose(s, nodes, opt).Voters; !slices.Equal(order, want) {
			rt.Fatalf("order %v, want %v", order, want)
		}
	})
}

// TestLimitKeepsToItsDataCenters: with a limit, movement is minimal as long as
// the data centers stay the same.
func TestLimitKeepsToItsDataCenters(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		s := drawStructure(rt)
		opt := Options{Voters: rapid.SampledFrom([]int{3, 5}).Draw(rt, "voters"), DataCenters: rapid.IntRange(1, 3).Draw(rt, "data centers")}
		nodes := grid(4, 3, 2)
		x := drawNode(rt, 100)
		all := append(slices.Clone(nodes), x)
		before, after := Choose(s, nodes, opt).Voters, Choose(s, all, opt).Voters
		if len(countDCs(after, all)) != opt.DataCenters {
			rt.Fatalf("voters in %d data centers", len(countDCs(after, all)))
		}
		from, to := slices.Sorted(maps.Keys(countDCs(before, all))), slices.Sorted(maps.Keys(countDCs(after, all)))
		if came := minus(after, before); slices.Equal(from, to) && (len(came) > 1 || len(came) == 1 && came[0] != x.ID) {
			rt.Fatalf("voters came on %v", came)
		}
	})
}

// TestLeadersKeepTheirOrder: of the voters that a group happens to have, those
// that live lead in one order, whoever else comes and goes; the preferred data
// center comes first.
func TestLeadersKeepTheirOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		s, opt := drawStructure(rt), drawOptions(rt)
		nodes := drawNodes(rt, 1, 16)
		all := make([]id.Node, 0, len(nodes))
		for _, n := range nodes {
			all = append(all, n.ID)
		}
		voters := rapid.SliceOfNDistinct(rapid.SampledFrom(all), 0, len(all), rapid.ID[id.Node]).Draw(rt, "voters")
		order := Leaders(s, voters, nodes, opt)
		if len(order) != len(voters) || len(minus(order, voters)) > 0 {
			rt.Fatalf("%v lead, of the voters %v", order, voters)
		}
		known := byID(nodes)
		if !slices.IsSortedFunc(order, func(a, b id.Node) int {
			return preferredFirst(known[a].prefers(opt), known[b].prefers(opt))
		}) {
			rt.Fatalf("%v: the preferred data center does not come first", order)
		}
		gone := rapid.SliceOfNDistinct(rapid.SampledFrom(nodes), 0, len(nodes), func(n Node) id.Node { return n.ID }).Draw(rt, "gone")
		left := slices.DeleteFunc(slices.Clone(nodes), func(n Node) bool { return slices.Contains(gone, n) })
		want := slices.DeleteFunc(slices.Clone(order), func(n id.Node) bool { return byID(left)[n].ID != n })
		if got := Leaders(s, voters, left, opt); !slices.Equal(got, want) {
			rt.Fatalf("%v lead after some left, want %v", got, want)
		}
	})
}
