package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/copycat-replication/copycat/id"
)

// DefaultVoters is the number of voters if Options does not say.
const DefaultVoters = 3

// Node is a node that is alive and may hold replicas.
type Node struct {
	ID         id.Node
	DataCenter string
	// Rack is the failure domain inside of the data center; nodes without one
	// count as one rack. The same name in another data center is another rack.
	Rack string
	// Capacity is the node's weight against other nodes; 0 counts as 1. A node
	// that should hold nothing is left out.
	Capacity uint32
}

// Options are the wishes for one structure. The zero value is the default:
// three voters, in up to three data centers, no learners.
type Options struct {
	// Voters is how many voters are wished. 0 or less: DefaultVoters. An even
	// number counts as the odd one below.
	Voters int
	// DataCenters is over how many data centers the voters should spread; 0 or
	// less: as many as the voters allow. It gives way when those data centers
	// have too few nodes.
	DataCenters int
	// LearnersPerDataCenter is how many learners each data center has, in
	// addition to its voters; those without voters too.
	LearnersPerDataCenter int
	// PinnedDataCenters, if not empty, names the only data centers where replicas
	// may be, learners included. It never gives way.
	PinnedDataCenters []string
	// PreferredDataCenter, if not empty, names the data center where the leader
	// should be; if it has a node it gets a voter, and Plan.Leader is there.
	PreferredDataCenter string
}

// Plan says where the replicas of a structure should be.
type Plan struct {
	// Voters in rank order: as many as wished, or as there are nodes. A prefix
	// is the answer for fewer voters. Use VoterTarget for an odd number.
	Voters []id.Node
	// Learners by the name of their data center, and in it in rank order.
	Learners []id.Node
	// Leader is the voter that should lead: Leaders of Voters, the first of it.
	// The zero ID if there are no voters.
	Leader id.Node
	// Unmet says, for people, which wishes could not be met, and why. Empty if
	// all were.
	Unmet string
}

// candidate is a node with its draw for the structure at hand.
type candidate struct {
	Node
	draw  draw
	taken bool
}

type rackName struct{ dataCenter, rack string }

// chooser holds what has been chosen so far.
type chooser struct {
	nodes  []*candidate // by draw, the best first
	inDC   map[string]int
	inRack map[rackName]int
	unmet  []string
}

// Choose says where the replicas of a structure should be. It is a pure
// function: the order of nodes does not matter, and nothing that it is given is
// changed. Of nodes with the same ID one counts. See the package comment for
// what holds when nodes come and go.
func Choose(structure id.Structure, nodes []Node, opt Options) Plan {
	c := newChooser(structure, nodes, opt)
	voters := c.voters(opt)
	plan := Plan{Voters: voters, Learners: c.learners(opt.LearnersPerDataCenter)}
	if len(voters) > 0 {
		plan.Leader = voters[0] // the first one taken is the first of Leaders
	}
	if want := opt.PreferredDataCenter; want != "" && c.inDC[want] == 0 {
		c.missing("no node in data center %q, which the leader should be in", want)
	}
	plan.Unmet = strings.Join(c.unmet, "; ")
	return plan
}

func newChooser(structure id.Structure, nodes []Node, opt Options) *chooser {
	c := &chooser{inDC: map[string]int{}, inRack: map[rackName]int{}}
	seen := map[string]bool{}
	for _, n := range distinct(nodes) {
		if len(opt.PinnedDataCenters) == 0 || slices.Contains(opt.PinnedDataCenters, n.DataCenter) {
			c.nodes = append(c.nodes, &candidate{Node: n, draw: drawOf(structure, n)})
			seen[n.DataCenter] = true
		}
	}
	for _, dc := range opt.PinnedDataCenters {
		if !seen[dc] {
			seen[dc] = true
			c.missing("no node in data center %q, to which the structure is pinned", dc)
		}
	}
	slices.SortFunc(c.nodes, func(a, b *candidate) int {
		return cmp.Or(a.draw.compare(b.draw), compareIDs(a.ID, b.ID))
	})
	return c
}

// distinct returns the nodes sorted by ID, each once.
func distinct(nodes []Node) []Node {
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b Node) int {
		return cmp.Or(compareIDs(a.ID, b.ID), cmp.Compare(a.DataCenter, b.DataCenter),
			cmp.Compare(a.Rack, b.Rack), cmp.Compare(a.Capacity, b.Capacity))
	})
	return slices.CompactFunc(nodes, func(a, b Node) bool { return a.ID == b.ID })
}

func (c *chooser) missing(format string, args ...any) {
	c.unmet = append(c.unmet, fmt.Sprintf(format, args...))
}

// best returns the node that is next among those that are allowed, or nil: the
// one with the fewest of the structure's replicas in its data center, then in
// its rack, then with the best draw.
func (c *chooser) best(allowed func(*candidate) bool) *candidate {
	var best *candidate
	for _, n := range c.nodes {
		if n.taken || !allowed(n) {
			continue
		}
		if best == nil || c.crowd(n, best) < 0 {
			best = n
		}
	}
	return best
}

// crowd compares how many replicas are in the data centers and racks of a and b.
func (c *chooser) crowd(a, b *candidate) int {
	return cmp.Or(cmp.Compare(c.inDC[a.DataCenter], c.inDC[b.DataCenter]), cmp.Compare(c.inRack[a.place()], c.inRack[b.place()]))
}

func (n Node) place() rackName { return rackName{n.DataCenter, n.Rack} }

func (c *chooser) take(n *candidate) id.Node {
	n.taken = true
	c.inDC[n.DataCenter]++
	c.inRack[n.place()]++
	return n.ID
}

func anywhere(*candidate) bool { return true }

// voters takes the voters, in rank order.
func (c *chooser) voters(opt Options) []id.Node {
	want := opt.Voters
	if want <= 0 {
		want = DefaultVoters
	}
	if want%2 == 0 {
		c.missing("%d voters wished: an even number does not survive more failures than %d", want, want-1)
		want--
	}
	allowed := anywhere
	if dcs := c.confine(want, opt); dcs != nil {
		allowed = func(n *candidate) bool { return dcs[n.DataCenter] }
	}
	var voters []id.Node
	if n := c.best(func(n *candidate) bool { return n.prefers(opt) }); n != nil {
		voters = append(voters, c.take(n))
	}
	for len(voters) < want {
		n := c.best(allowed)
		if n == nil {
			if n = c.best(anywhere); n == nil {
				c.missing("%d voters wished, %d nodes to be had", want, len(c.nodes))
				break
			}
			c.missing("%d data centers wished, with too few nodes for %d voters", opt.DataCenters, want)
			allowed = anywhere
		}
		voters = append(voters, c.take(n))
	}
	if got := len(c.inDC); opt.DataCenters > got && got < want {
		c.missing("%d data centers wished, voters are in %d", opt.DataCenters, got)
	}
	return voters
}

// confine returns the data centers that the voters should be in, if there are
// fewer than voters and fewer than there could be; nil if there is no limit. It
// takes them by their best draws, those first that have nodes enough, and the
// leader's before all.
func (c *chooser) confine(voters int, opt Options) map[string]bool {
	if opt.DataCenters <= 0 || opt.DataCenters >= voters {
		return nil
	}
	size := map[string]int{}
	var dcs []string // by their best draws
	for _, n := range c.nodes {
		if size[n.DataCenter]++; size[n.DataCenter] == 1 {
			dcs = append(dcs, n.DataCenter)
		}
	}
	if opt.DataCenters >= len(dcs) {
		return nil
	}
	share := (voters + opt.DataCenters - 1) / opt.DataCenters
	class := func(dc string) int {
		switch {
		case dc == opt.PreferredDataCenter:
			return 0
		case size[dc] >= share:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(dcs, func(a, b string) int { return cmp.Compare(class(a), class(b)) })
	allowed := map[string]bool{}
	for _, dc := range dcs[:opt.DataCenters] {
		allowed[dc] = true
	}
	return allowed
}

// learners takes the learners of every data center, spread over racks together
// with its voters.
func (c *chooser) learners(perDC int) []id.Node {
	if perDC <= 0 {
		return nil
	}
	byDC := map[string]int{}
	for _, n := range c.nodes {
		byDC[n.DataCenter]++
	}
	dcs := make([]string, 0, len(byDC))
	for dc := range byDC {
		dcs = append(dcs, dc)
	}
	slices.Sort(dcs)
	var learners []id.Node
	for _, dc := range dcs {
		if free := byDC[dc] - c.inDC[dc]; free < perDC {
			c.missing("%d learners wished in data center %q, %d nodes left for them", perDC, dc, free)
		}
		for range perDC {
			n := c.best(func(n *candidate) bool { return n.DataCenter == dc })
			if n == nil {
				break
			}
			learners = append(learners, c.take(n))
		}
	}
	return learners
}

// VoterTarget returns how many voters a group should have when live nodes could
// hold one and wished are wanted (0 or less: DefaultVoters): the largest odd
// number that is neither above live nor above wished, and 1 at least. An even
// number is never right: it needs one more for its quorum and survives no more
// failures. That the number never falls because nodes died is the caller's
// business.
func VoterTarget(live, wished int) int {
	if wished <= 0 {
		wished = DefaultVoters
	}
	n := min(live, wished)
	if n < 1 {
		return 1
	}
	return n - 1 + n%2
}
