package rig

import (
	"github.com/copycat-replication/copycat/id"
)

// Partition cuts the nodes into sides that neither reach one another nor, by
// gossip's word, live. Nodes that no side names are one of their own. An
// earlier partition ends.
func (c *Cluster) Partition(sides ...[]*Node) {
	side := make(map[id.Node]int)
	for i, nodes := range sides {
		for _, n := range nodes {
			side[n.ID] = i + 1
		}
	}
	c.mu.Lock()
	c.side = side
	c.mu.Unlock()
	c.Net.Heal()
	for _, a := range c.Nodes {
		for _, b := range c.Nodes {
			if side[a.ID] != side[b.ID] {
				c.Net.Cut(a.ID, b.ID)
			}
		}
	}
}

// SetLeaving has a node say by gossip that it leaves in order, or no more.
func (n *Node) SetLeaving(leaving bool) {
	n.Cluster.mu.Lock()
	defer n.Cluster.mu.Unlock()
	n.Cluster.leaving[n.ID] = leaving
}
