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
	draw draw
}

type rackName struct{ dataCenter, rack string }

// dataCenter and rack hold what has been chosen of them so far.
type dataCenter struct {
	name   string
	nodes  int
	chosen int
}

type rack struct {
	dc     *dataCenter
	nodes  []int // of chooser.nodes; the first chosen ones are taken
	chosen int
}

// chooser holds the nodes that may be chosen. In a rack they are taken in the
// order of their draws, so that the next one of each is known.
type chooser struct {
	nodes []candidate   // by draw, the best first
	racks []*rack       // by their best draws
	dcs   []*dataCenter // by their best draws
	unmet []string
}

// Choose says where the replicas of a structure should be. It is a pure
// function: the order of nodes does not matter, and nothing that it is given is
// changed. Of nodes with the same ID one counts. See the package comment for
// what holds when nodes come and go.
func Choose(structure id.Structure, nodes []Node, opt Options) Plan {
	c := newChooser(structure, nodes, opt)
	return c.plan(opt)
}

// Rank returns the plan of Choose, and with it all nodes where the options allow
// a replica: in the order in which they would be taken as voters if that many
// were wished, in any number of data centers.
func Rank(structure id.Structure, nodes []Node, opt Options) (Plan, []id.Node) {
	c := newChooser(structure, nodes, opt)
	plan := c.plan(opt)
	c.putBack()
	order := make([]id.Node, 0, len(c.nodes))
	for r := c.first(opt); r != nil; r = c.best(anywhere) {
		order = append(order, c.take(r))
	}
	return plan, order
}

func newChooser(structure id.Structure, nodes []Node, opt Options) *chooser {
	c := &chooser{}
	nodes = distinct(nodes)
	c.nodes = make([]candidate, 0, len(nodes))
	for _, n := range nodes {
		if len(opt.PinnedDataCenters) == 0 || slices.Contains(opt.PinnedDataCenters, n.DataCenter) {
			c.nodes = append(c.nodes, candidate{Node: n, draw: drawOf(structure, n)})
		}
	}
	slices.SortFunc(c.nodes, func(a, b candidate) int {
		return cmp.Or(a.draw.compare(b.draw), compareIDs(a.ID, b.ID))
	})
	c.divide()
	for i, name := range opt.PinnedDataCenters {
		if c.dataCenter(name) == nil && !slices.Contains(opt.PinnedDataCenters[:i], name) {
			c.missing("no node in data center %q, to which the structure is pinned", name)
		}
	}
	return c
}

// divide notes which nodes are in which rack and data center.
func (c *chooser) divide() {
	racks := make(map[rackName]*rack)
	for i := range c.nodes {
		n := &c.nodes[i]
		r := racks[n.place()]
		if r == nil {
			dc := c.dataCenter(n.DataCenter)
			if dc == nil {
				dc = &dataCenter{name: n.DataCenter}
				c.dcs = append(c.dcs, dc)
			}
			r = &rack{dc: dc}
			racks[n.place()] = r
			c.racks = append(c.racks, r)
		}
		r.nodes = append(r.nodes, i)
		r.dc.nodes++
	}
}

// dataCenter finds a data center with a node that may be chosen, or nil.
func (c *chooser) dataCenter(name string) *dataCenter {
	for _, dc := range c.dcs {
		if dc.name == name {
			return dc
		}
	}
	return nil
}

func (c *chooser) plan(opt Options) Plan {
	voters := c.voters(opt)
	plan := Plan{Voters: voters, Learners: c.learners(opt.LearnersPerDataCenter)}
	if len(voters) > 0 {
		plan.Leader = voters[0] // the first one taken is the first of Leaders
	}
	if want := opt.PreferredDataCenter; want != "" {
		if dc := c.dataCenter(want); dc == nil || dc.chosen == 0 {
			c.missing("no node in data center %q, which the leader should be in", want)
		}
	}
	plan.Unmet = strings.Join(c.unmet, "; ")
	return plan
}

// distinct returns the nodes sorted by ID, each once.
func distinct(nodes []Node) []Node {
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, compareNodes)
	return slices.CompactFunc(nodes, func(a, b Node) bool { return a.ID == b.ID })
}

func compareNodes(a, b Node) int {
	return cmp.Or(compareIDs(a.ID, b.ID), cmp.Compare(a.DataCenter, b.DataCenter), cmp.Compare(a.Rack, b.Rack), cmp.Compare(a.Capacity, b.Capacity))
}

func (c *chooser) missing(format string, args ...any) {
	c.unmet = append(c.unmet, fmt.Sprintf(format, args...))
}

// best returns the rack whose next node is next among the data centers that are
// allowed, or nil: the one with the fewest of the structure's replicas in its
// data center, then in itself, then with the best draw.
func (c *chooser) best(allowed func(*dataCenter) bool) *rack {
	var best *rack
	for _, r := range c.racks {
		if r.chosen == len(r.nodes) || !allowed(r.dc) {
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(r.dc.chosen, best.dc.chosen), cmp.Compare(r.chosen, best.chosen), cmp.Compare(r.next(), best.next())) < 0 {
			best = r
		}
	}
	return best
}

// next is the place of the rack's next node in the order of draws.
func (r *rack) next() int { return r.nodes[r.chosen] }

func (n Node) place() rackName { return rackName{n.DataCenter, n.Rack} }

// take takes the next node of a rack.
func (c *chooser) take(r *rack) id.Node {
	n := &c.nodes[r.next()]
	r.chosen++
	r.dc.chosen++
	return n.ID
}

// putBack begins anew.
func (c *chooser) putBack() {
	for _, r := range c.racks {
		r.chosen, r.dc.chosen = 0, 0
	}
}

func anywhere(*dataCenter) bool { return true }

// first returns where the first node comes from: the preferred data center, if
// it has one.
func (c *chooser) first(opt Options) *rack {
	if want := opt.PreferredDataCenter; want != "" {
		if r := c.best(func(dc *dataCenter) bool { return dc.name == want }); r != nil {
			return r
		}
	}
	return c.best(anywhere)
}

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
		allowed = func(dc *dataCenter) bool { return slices.Contains(dcs, dc) }
	}
	var voters []id.Node
	if dc := c.dataCenter(opt.PreferredDataCenter); opt.PreferredDataCenter != "" && dc != nil {
		voters = append(voters, c.take(c.first(opt)))
	}
	for len(voters) < want {
		r := c.best(allowed)
		if r == nil {
			if r = c.best(anywhere); r == nil {
				c.missing("%d voters wished, %d nodes to be had", want, len(c.nodes))
				break
			}
			c.missing("%d data centers wished, with too few nodes for %d voters", opt.DataCenters, want)
			allowed = anywhere
		}
		voters = append(voters, c.take(r))
	}
	got := 0
	for _, dc := range c.dcs {
		got += min(dc.chosen, 1)
	}
	if opt.DataCenters > got && got < want {
		c.missing("%d data centers wished, voters are in %d", opt.DataCenters, got)
	}
	return voters
}

// confine returns the data centers that the voters should be in, if there are
// fewer than voters and fewer than there could be; nil if there is no limit. It
// takes them by their best draws, those first that have nodes enough, and the
// leader's before all.
func (c *chooser) confine(voters int, opt Options) []*dataCenter {
	if opt.DataCenters <= 0 || opt.DataCenters >= voters || opt.DataCenters >= len(c.dcs) {
		return nil
	}
	share := (voters + opt.DataCenters - 1) / opt.DataCenters
	class := func(dc *dataCenter) int {
		switch {
		case dc.name == opt.PreferredDataCenter:
			return 0
		case dc.nodes >= share:
			return 1
		}
		return 2
	}
	dcs := slices.Clone(c.dcs)
	slices.SortStableFunc(dcs, func(a, b *dataCenter) int { return cmp.Compare(class(a), class(b)) })
	return dcs[:opt.DataCenters]
}

// learners takes the learners of every data center, spread over racks together
// with its voters.
func (c *chooser) learners(perDC int) []id.Node {
	if perDC <= 0 {
		return nil
	}
	dcs := slices.Clone(c.dcs)
	slices.SortFunc(dcs, func(a, b *dataCenter) int { return cmp.Compare(a.name, b.name) })
	var learners []id.Node
	for _, dc := range dcs {
		if free := dc.nodes - dc.chosen; free < perDC {
			c.missing("%d learners wished in data center %q, %d nodes left for them", perDC, dc.name, free)
		}
		for range perDC {
			r := c.best(func(o *dataCenter) bool { return o == dc })
			if r == nil {
				break
			}
			learners = append(learners, c.take(r))
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
