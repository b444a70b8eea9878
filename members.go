package copycat

import (
	"cmp"
	"slices"
	"time"

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
	// Missing is for how long the leader has not heard of the member; 0: it has,
	// or this replica does not lead. If nobody hears of it, the leader gives it up
	// after ReplacedIn: a voter is replaced then, a learner removed. ReplacedIn is
	// 0 if it is given up already, which Lost says, or is not to be, since its
	// node lives. Fate says, for people, what comes of it where the time alone does
	// not: "no node can take its place".
	Missing    time.Duration
	ReplacedIn time.Duration
	Lost       bool
	Fate       string
}

// describeMembers fills in what needs gossip beside the replica's own status.
func (s *StructureStatus) describeMembers(g raftgroup.GroupStatus, nodes []NodeStatus, now time.Time) {
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
			if x, missed := g.Missing[r]; missed {
				m.Missing, m.Lost, m.Fate = max(now.Sub(x.Since), 1), x.Lost, x.Fate
				if !x.GiveUp.IsZero() {
					m.ReplacedIn = max(x.GiveUp.Sub(now), 1) // the leader looks twice a second
				}
			}
			s.Members = append(s.Members, m)
		}
	}
	add(g.Voters, true)
	add(g.Learners, false)
	slices.SortFunc(s.Members, func(a, b MemberStatus) int { return cmp.Compare(a.ReplicaID, b.ReplicaID) })
}
