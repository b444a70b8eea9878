package raftgroup

import (
	"bytes"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

// A process that is killed leaves word: its connections break at once, and at
// its address connections are refused. Its followers do not wait for an
// election time-out then. The host asks for a node whose connection broke; if
// the answer is that nobody listens there, followers forget that leader, which
// lets them grant votes (raft's ForgetLeader is made for such a detector), and
// ask for the lead one after the other.
//
// That is no more than to ask sooner. Whether a vote is granted, and what an
// election means, is raft's as ever; a leader that lives after all, and reaches
// its followers, is followed again with its next heartbeat, and is doubted so
// once in a term. No read relies on a leader's lease.
const (
	// probeTicks is how many ticks a node is asked for after its connection
	// broke. More than one: the end of a process closes one socket after the other.
	probeTicks = 5
	// refusedFor is how long a refusal counts, unless the node is heard of before.
	refusedFor = 10 * time.Second
	// hasteTicks and hasteRoundTrips are by how much later each next replica
	// asks for the lead: than the one before it takes to ask whether it may be
	// elected (perhaps twice, if the others have not heard of the refusal yet),
	// and to be.
	hasteTicks      = 3
	hasteRoundTrips = 4
)

// refusals is what a host knows of nodes whose connections broke. It has a lock
// of its own, which is held over no call of anybody else's.
type refusals struct {
	mu   sync.Mutex
	list []*brokenNode // ordered by node: a replay must not depend on map order
	some atomic.Bool   // whether any of them refuses
}

// brokenNode is a node whose connection broke, until it is heard of again.
type brokenNode struct {
	node   id.Node
	probes int       // that are left
	since  time.Time // when it refused; zero: it has not
}

func (r *refusals) at(node id.Node) (int, bool) {
	return slices.BinarySearchFunc(r.list, node, func(b *brokenNode, n id.Node) int { return bytes.Compare(b.node[:], n[:]) })
}

// broke notes that a connection with a node broke; false: it is asked for already.
func (r *refusals) broke(node id.Node) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, known := r.at(node)
	if !known {
		r.list = slices.Insert(r.list, i, &brokenNode{node: node, probes: probeTicks})
	}
	return !known
}

// refused notes that nobody listens where a node was.
func (r *refusals) refused(node id.Node, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, known := r.at(node)
	if !known {
		r.list = slices.Insert(r.list, i, &brokenNode{node: node})
	}
	r.list[i].since, r.list[i].probes = now, 0
	r.some.Store(true)
}

// heard forgets a node that is there.
func (r *refusals) heard(node id.Node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.at(node); known {
		r.removeLocked(func(b *brokenNode) bool { return b.node == node })
	}
}

func (r *refusals) removeLocked(which func(*brokenNode) bool) {
	r.list = slices.DeleteFunc(r.list, which)
	r.some.Store(slices.ContainsFunc(r.list, func(b *brokenNode) bool { return !b.since.IsZero() }))
}

// refuses tells whether a node has refused a connection lately.
func (r *refusals) refuses(node id.Node) bool {
	if !r.some.Load() {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	i, known := r.at(node)
	return known && !r.list[i].since.IsZero()
}

// next counts a tick: who is to be asked for once more.
func (r *refusals) next(now time.Time) (probes []id.Node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.list {
		if b.probes > 0 {
			b.probes--
			probes = append(probes, b.node)
		}
	}
	if len(r.list) > 0 {
		r.removeLocked(func(b *brokenNode) bool {
			return b.probes == 0 && (b.since.IsZero() || now.Sub(b.since) >= refusedFor)
		})
	}
	return probes
}

// probe asks for a node: a ping has the network connect.
func (h *Host) probe(node id.Node) {
	h.sendNode(node, wirePing, &grouppb.NodePing{})
	h.net.Flush()
}

// connect has the network connect to nodes whose votes may be asked for soon.
// Followers have nothing to say to one another, so that no connection stands, and
// making one takes two round trips, in each direction: half a second across an ocean.
func (h *Host) connect(nodes map[id.Node]bool) {
	// In order: a replay must not depend on map order.
	for _, node := range slices.SortedFunc(maps.Keys(nodes), func(a, b id.Node) int { return bytes.Compare(a[:], b[:]) }) {
		h.probe(node)
	}
}

// PeerRefused hears that a connection with a node was refused: nobody listens at
// its address, so that its process has most likely ended. It comes beside
// PeerDown, and may be wrong.
func (h *Host) PeerRefused(node id.Node) {
	h.refusals.refused(node, h.cfg.Clock.Now())
	h.mu.Lock()
	groups := h.replicasLocked()
	h.mu.Unlock()
	for _, g := range groups {
		if st := g.status.Load(); !st.Quiet && !st.IsLeader { // those that are quiet look when they wake
			g.call(g.doubtRefused)
		}
	}
}

// haste is a follower's bid for the lead of a leader whose node refuses
// connections.
type haste struct {
	led      id.Replica // who was the last to lead
	term     uint64     // in which that leader was given up; 0: none was
	at, ends time.Time  // when this replica asks for the lead, and stops to
	again    time.Time  // when it asks next
}

// doubtRefused gives up a leader whose node refuses connections, once in a term,
// and not in one in which this replica has voted for somebody else: that one may
// be elected as soon as the votes are on disk, and another bid would depose it.
func (g *Group) doubtRefused() {
	h := &g.haste
	if g.rn == nil || g.failure != nil || g.stalled || h.led == 0 || h.led == g.self || !g.host.refusals.some.Load() {
		return
	}
	st := g.rn.BasicStatus()
	if h.term == st.GetTerm() || st.Lead != raft.None && st.Lead != uint64(h.led) || st.RaftState == raft.StateLeader {
		return
	}
	if v := st.GetVote(); v != raft.None && v != uint64(h.led) {
		return
	}
	node, known := g.nodeOf(h.led)
	if !known || !g.host.refusals.refuses(node) {
		return
	}
	h.term = st.GetTerm()
	if st.Lead != raft.None {
		g.log.Info("the leader's node refuses connections: not waiting for it", "leader", uint64(h.led), "term", h.term)
		if err := g.rn.ForgetLeader(); err != nil {
			g.log.Debug("leader not forgotten", "error", err)
		}
	}
	place := 0
	voters := g.state.conf.GetVoters()
	for _, v := range voters {
		if v < uint64(g.self) && v != uint64(h.led) {
			place++
		}
	}
	wait := hasteTicks*g.host.cfg.TickInterval + hasteRoundTrips*g.pace.worst
	h.at, h.ends = g.now.Add(time.Duration(place)*wait), g.now.Add(g.election())
	if !slices.Contains(voters, uint64(g.self)) {
		h.ends = g.now
	}
	h.again = h.at
	g.hasten()
}

// onVoteRequest has a replica that is asked for its vote look whether its own
// leader is gone. If so, and if its log is newer than the other's, which
// therefore is not elected, it asks for the lead itself and does not wait.
func (g *Group) onVoteRequest(m *raftpb.Message) {
	g.doubtRefused()
	if g.haste.term == 0 || !g.hasty() || !g.now.Before(g.haste.at) {
		return
	}
	g.drainReady() // what was just appended counts
	term, err := g.store.Term(g.last)
	if err == nil && (m.GetLogTerm() < term || m.GetLogTerm() == term && m.GetIndex() < g.last) {
		g.haste.at, g.haste.again = g.now, g.now
		g.hasten()
	}
}

// hasty tells whether this replica asks, or will ask, for the lead.
func (g *Group) hasty() bool {
	st := g.rn.BasicStatus()
	return g.haste.term == st.GetTerm() && st.Lead == raft.None && st.RaftState != raft.StateCandidate && g.now.Before(g.haste.ends)
}

// hasten asks for the lead, if it is time. When it asks first, the others may
// not have heard of the refusal, and then do not answer: it asks again.
func (g *Group) hasten() {
	h := &g.haste
	if h.term == 0 || !g.hasty() || g.now.Before(h.again) {
		return
	}
	h.again = g.now.Add(g.host.cfg.TickInterval/2 + g.pace.worst)
	if err := g.rn.Campaign(); err != nil {
		g.log.Debug("does not ask to lead", "error", err)
	}
}
