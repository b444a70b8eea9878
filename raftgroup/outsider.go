package raftgroup

import (
	"time"

	"go.etcd.io/raft/v3"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

// A replica that is removed from its group rarely reads so in its log: the entry
// that removes it is the last that it is sent, and that it was committed comes
// with the next one. It would do without a leader for lonelyTime, and only then
// ask what it is; for as long, the subscriptions on it could not propose.
//
// So who leads tells a replica that it has removed, once, when that is applied;
// and whoever gets a message of a replica that its own log says was removed
// answers with the same word: one that was away calls for votes within an
// election time-out of its return. The word has no body and proves nothing: who
// gets it asks its group for its standing at once (standing.go), and only what
// comes of that counts.

const (
	// outsiderPause is the pause between two such words to one replica, and
	// between two questions that they make one ask: longer than the answer takes.
	outsiderPause = time.Second
	// maxOutsiders bounds the replicas of which a group knows when they were told.
	maxOutsiders = 64
)

// outsiders are replicas that this one has told that they were removed, and when.
type outsiders map[id.Replica]time.Time

// tellOutsider tells a replica that is not of this group any more that it had
// better ask, unless it has just been told. A replica that this log knows nothing
// of, or that may still be added, is none.
func (g *Group) tellOutsider(r id.Replica, node id.Node) {
	if node.IsZero() || g.state.isOrMayBe(r) || g.now.Sub(g.outsiders[r]) < outsiderPause {
		return
	}
	if g.outsiders == nil || len(g.outsiders) >= maxOutsiders {
		g.outsiders = make(outsiders)
	}
	g.outsiders[r] = g.now
	if err := g.host.net.Send(node, Message{Group: g.key, From: g.self, To: r, Payload: []byte{wireOutsider}, Urgent: true}); err != nil {
		g.log.Debug("removed replica not told", "removed", uint64(r), "node", node.String(), "error", err)
	}
}

// isOrMayBe reports whether a replica is a member, or may become one, as far as
// this state knows. That it is not, nor will be, is for good: see standing.
func (s *state) isOrMayBe(r id.Replica) bool {
	standing, err := s.standing(r)
	return err != nil || standing != grouppb.StandingResponse_REMOVED
}

// tellRemoved tells the replicas that a change has just removed.
func (g *Group) tellRemoved(o *outcome) {
	if !g.isLeader() {
		return
	}
	for _, m := range o.removed {
		g.tellOutsider(m.replica, m.node)
	}
}

// onOutsider hears from another replica that this one was removed. It asks.
func (g *Group) onOutsider() {
	l := &g.lonely
	if g.rn == nil || g.failure != nil || g.role == raft.StateLeader || g.now.Sub(l.asked) < outsiderPause || g.host.isJoining(g.key.Structure) {
		return
	}
	l.asked = g.now
	l.pause = max(l.pause, lonelyTime)
	g.host.askStanding(g, nodesOf(g.state.members))
}
