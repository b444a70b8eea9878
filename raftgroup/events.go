package raftgroup

import (
	"fmt"
	"maps"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	"github.com/copycat-replication/copycat/id"
)

// EventKind says what an Event is about.
type EventKind uint8

// The kinds of events.
const (
	// EventLeaderChanged: the group has another leader, as this replica sees it.
	EventLeaderChanged EventKind = iota + 1
	// EventReplicaLost: the leader, on whose node this is told, gives up a
	// replica whose node is gone; it is to be replaced.
	EventReplicaLost
	// EventReplicaReplaced: By has taken the place of Replica. Told on the leader's node.
	EventReplicaReplaced
	// EventQuorumLost: this replica has known no leader for several election
	// time-outs. Nothing is committed, as far as it can see.
	EventQuorumLost
	// EventQuorumRegained: there is a leader again.
	EventQuorumRegained
)

// String names the kind.
func (k EventKind) String() string {
	names := [...]string{"", "leader changed", "replica lost", "replica replaced", "quorum lost", "quorum regained"}
	if k > 0 && int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("event %d", uint8(k))
}

// Event is something that happened to a group, as one of its replicas saw it.
type Event struct {
	Kind    EventKind
	Group   id.Group
	At      time.Time
	Replica id.Replica // the leader, or the replica that was lost or replaced
	Node    id.Node    // its node; zero if not known here
	By      id.Replica // the replacement
	ByNode  id.Node
}

// quorumPatience is how many election time-outs a replica knows no leader
// before it says that the quorum is lost: an election takes one or two.
const quorumPatience = 5

// emit tells the host's observer. It runs in the step.
func (g *Group) emit(e Event) {
	if f := g.host.cfg.Events; f != nil {
		e.Group, e.At = g.key, g.now
		f(e)
	}
}

// noteLeader tells of a new leader.
func (g *Group) noteLeader() {
	if g.lead == raft.None {
		return
	}
	r := id.Replica(g.lead)
	e := Event{Kind: EventLeaderChanged, Replica: r, Node: g.state.members[r]}
	g.emit(e)
	g.leaderless = time.Time{}
	g.lonely.led(g.now)
	if g.quorumLost {
		g.quorumLost, g.statusDirty = false, true
		e.Kind = EventQuorumRegained
		g.emit(e)
	}
}

// watchQuorum is called with every tick.
func (g *Group) watchQuorum() {
	switch {
	case g.lead != raft.None || g.quorumLost || g.state.deleted:
	case g.leaderless.IsZero():
		g.leaderless = g.now
	case g.now.Sub(g.leaderless) >= quorumPatience*g.election():
		g.quorumLost, g.statusDirty = true, true
		g.emit(Event{Kind: EventQuorumLost})
	}
}

// progressInterval is how old a leader's word about the others' progress may be.
const progressInterval = 500 * time.Millisecond

// progress says up to where each member has the log, as its leader knows it.
func (g *Group) progress() map[id.Replica]uint64 {
	if !g.isLeader() {
		return nil
	}
	out := make(map[id.Replica]uint64)
	g.rn.WithProgress(func(r uint64, _ raft.ProgressType, pr tracker.Progress) { out[id.Replica(r)] = pr.Match })
	return out
}

// watchProgress has the status show how far the others are, also when nothing
// new is committed.
func (g *Group) watchProgress() {
	if !g.isLeader() || g.now.Sub(g.progressAt) < progressInterval {
		return
	}
	g.progressAt = g.now
	if !maps.Equal(g.status.Load().Match, g.progress()) {
		g.statusDirty = true
	}
}
