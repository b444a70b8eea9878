package raftgroup

import (
	"time"

	"go.etcd.io/raft/v3"

	"github.com/copycat-replication/copycat/id"
)

// errands are what a replica has under way. Nearly all of it is zero while the
// replica rests, and a node may hold ten thousand that do: so it is let go of then
// (fold), and made anew by the next step (unfold). Owned by the step, as the Group
// is; nobody looks at it between two steps of a replica that rests.
type errands struct {
	closing   []closing
	waiters   map[[16]byte]waiter
	seen      map[id.Replica]id.Node // where replicas spoke from
	relaying  []relayed
	reads     []*reading
	outsiders outsiders
	swap      swap
	acked     lastAck
	haste     haste
	snaps     snapshotKeeper
}

// duties are a leader's. A replica that follows has nothing in them that matters:
// who becomes leader begins without any.
type duties struct {
	leader leaderDuties
	beats  beats
}

// unfold makes a replica ready for a step.
func (g *Group) unfold() {
	if g.duties == nil {
		g.duties = new(duties)
	}
	if g.errands != nil {
		return
	}
	g.errands = new(errands)
	if g.lead != raft.None {
		g.haste.led = id.Replica(g.lead)
	}
	named := g.files.names()
	g.snaps.held, g.snaps.previous = named[0], named[1]
}

// fold lets go of what a replica that rests does not need, where unfold makes the
// same again.
func (g *Group) fold() { g.foldIn(g.term()) }

// foldIn is fold in a term.
func (g *Group) foldIn(term uint64) {
	if d := &g.leader; !d.leading && !d.confirm && d.changing.IsZero() {
		g.duties = nil
	}
	e := g.errands
	if len(e.closing) > 0 || len(e.waiters) > 0 || len(e.seen) > 0 || len(e.relaying) > 0 || len(e.reads) > 0 || len(e.outsiders) > 0 || e.swap != (swap{}) {
		return
	}
	if e.haste.led != id.Replica(g.lead) || e.haste.term == term {
		return // it has doubted its leader in this term, and is not to do so twice
	}
	k := e.snaps
	if g.files.names() != [2]SnapshotRef{k.held, k.previous} || k.adopting.Index > k.held.Index {
		return
	}
	// What is left are the times when something was done last: long ago, or it would not rest.
	k.held, k.previous, k.adopting, k.wantedBy = SnapshotRef{}, SnapshotRef{}, SnapshotRef{}, id.Node{}
	k.nextFetch, k.lastTold = time.Time{}, time.Time{}
	if k == (snapshotKeeper{}) {
		g.errands = nil
	}
}
