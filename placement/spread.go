package placement

import (
	"cmp"
	"fmt"

	"github.com/copycat-replication/copycat/id"
)

// Spread measures how far apart replicas are. The two numbers of pairs are what
// Choose minimizes, the first before the second: the fewer pairs share a data
// center, the fewer voters does the loss of one take.
type Spread struct {
	Replicas    int // on nodes that are known
	DataCenters int // distinct
	Racks       int // distinct
	// PairsInDataCenter counts the pairs of replicas that are in one data
	// center, PairsInRack those in one rack.
	PairsInDataCenter, PairsInRack int
}

// SpreadOf measures the replicas on the given nodes. One on a node that is not
// among nodes (dead, or unknown) does not count.
func SpreadOf(replicas []id.Node, nodes []Node) Spread {
	var s Spread
	at := make([]*Node, 0, len(replicas)) // few, so that they are compared each with each
	for _, r := range replicas {
		n := find(r, nodes)
		if n == nil {
			continue
		}
		newDC, newRack := 1, 1
		for _, o := range at {
			if o.DataCenter != n.DataCenter {
				continue
			}
			newDC = 0
			s.PairsInDataCenter++
			if o.Rack == n.Rack {
				newRack = 0
				s.PairsInRack++
			}
		}
		at = append(at, n)
		s.DataCenters += newDC
		s.Racks += newRack
	}
	s.Replicas = len(at)
	return s
}

// find returns the node with an ID: of several, the one that distinct keeps.
func find(node id.Node, nodes []Node) (found *Node) {
	for i := range nodes {
		if n := &nodes[i]; n.ID == node && (found == nil || compareNodes(*n, *found) < 0) {
			found = n
		}
	}
	return found
}

// Compare is positive if s is better than t: it has more replicas that are
// known; of as many, fewer pairs in one data center; then fewer pairs in one rack.
func (s Spread) Compare(t Spread) int {
	return cmp.Or(cmp.Compare(s.Replicas, t.Replicas), cmp.Compare(t.PairsInDataCenter, s.PairsInDataCenter),
		cmp.Compare(t.PairsInRack, s.PairsInRack))
}

// String prints the numbers for logs.
func (s Spread) String() string {
	return fmt.Sprintf("%d replicas in %d data centers and %d racks", s.Replicas, s.DataCenters, s.Racks)
}

// Better reports whether moving replicas from where they are now to where they
// are wished would spread them further, so that a move is worth its cost. Where
// it is false the two differ by chance alone, as after a node came back: leave
// the replicas alone. Options.DataCenters and PinnedDataCenters may wish for less spread;
// Better does not know of them.
func Better(now, wished []id.Node, nodes []Node) bool {
	return SpreadOf(wished, nodes).Compare(SpreadOf(now, nodes)) > 0
}
