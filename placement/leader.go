package placement

import (
	"cmp"
	"slices"

	"github.com/copycat-replication/copycat/id"
)

// Leaders returns the voters of a structure in the order in which they should
// lead: those in Options.PreferredDataCenter first, then by their draws. Voters
// on nodes that are not among nodes (dead, or unknown) are left out; doubles
// count once. The voters are those that the group has, which may differ from the
// ones that Choose wishes for. Like Choose it is a pure function and changes
// nothing that it is given; the order does not depend on the order of either
// list.
//
// A voter keeps its place against every other one as long as the two live: when
// nodes come and go, leadership moves only off a node that is gone or to one
// that is new.
func Leaders(structure id.Structure, voters []id.Node, nodes []Node, opt Options) []id.Node {
	var able []candidate
	for _, n := range distinct(nodes) {
		if slices.Contains(voters, n.ID) {
			able = append(able, candidate{Node: n, draw: drawOf(structure, n)})
		}
	}
	slices.SortFunc(able, func(a, b candidate) int {
		return cmp.Or(preferredFirst(a.prefers(opt), b.prefers(opt)), a.draw.compare(b.draw), compareIDs(a.ID, b.ID))
	})
	order := make([]id.Node, 0, len(able))
	for _, n := range able {
		order = append(order, n.ID)
	}
	return order
}

// prefers reports whether the structure's leader should be in the node's data center.
func (n Node) prefers(opt Options) bool {
	return opt.PreferredDataCenter != "" && n.DataCenter == opt.PreferredDataCenter
}

func preferredFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}
