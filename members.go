package copycat

import (
	"cmp"
	"slices"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/raftgroup"
)

// MemberStatus is one replica of a group, as another one knows it.
type MemberStatus struct {
	ReplicaID  uint64
	NodeID     string
	DataCenter string // empty if gossip does not know the node
	Voter      bool
	Leader     bool
	Alive      bool // its node, as gossip sees it: a hint
	// Match is up to where the member has the log, and Lag how many entries it
	// is behind the leader's commit. Only the leader knows: elsewhere Known is false.
	Known bool
	Match uint64
	Lag   uint64
}

// describeMembers fills in what needs gossip beside the replica's own status.
func (s *StructureStatus) describeMembers(g raftgroup.GroupStatus, nodes []NodeStatus) {
	where := make(map[string]NodeStatus, len(nodes))
	for _, n := range nodes {
		where[n.NodeID] = n
	}
	s.ReplicaID, s.Term, s.Deleted = uint64(g.Replica), g.Term, g.Deleted
	s.LeaderDataCenter = where[s.Leader].DataCenter
	if g.Commit > g.Applied {
		s.Lag = g.Commit - g.Applied
	}
	add := func(members map[id.Replica]id.Node, voter bool) {
		for r, node := range members {
			at := where[node.String()]
			m := MemberStatus{ReplicaID: uint64(r), NodeID: node.String(), DataCenter: at.DataCenter, Alive: at.Alive, Voter: voter, Leader: r == g.Leader}
			if m.Match, m.Known = g.Match[r]; m.Known && g.Commit > m.Match {
				m.Lag = g.Commit - m.Match
			}
			s.Members = append(s.Members, m)
		}
	}
	add(g.Voters, true)
	add(g.Learners, false)
	slices.SortFunc(s.Members, func(a, b MemberStatus) int { return cmp.Compare(a.ReplicaID, b.ReplicaID) })
}
