package raftgroup

import (
	"iter"
	"slices"
	"time"

	"go.etcd.io/raft/v3"

	"github.com/copycat-replication/copycat/id"
)

// GroupStatus is what a replica knows of itself and its group.
type GroupStatus struct {
	Group         id.Group
	Replica       id.Replica
	Role          string // "leader", "follower", "candidate", "learner", "prepared", "waiting for snapshot", "stopped"; before its first step "starting"
	IsLeader      bool
	Voter         bool
	Failed        bool
	Term          uint64
	Leader        id.Replica // 0: none known
	LeaderNode    id.Node
	Voters        map[id.Replica]id.Node
	Learners      map[id.Replica]id.Node
	Joint         bool
	Match         map[id.Replica]uint64  // at the leader: up to where each member has the log; else nil
	Missing       map[id.Replica]Missing // at the leader: of whom it does not hear
	Commit        uint64                 // raft index
	Applied       uint64                 // raft index
	Commits       uint64                 // N
	Snapshot      SnapshotRef
	Sessions      int
	EndedSessions int // that are remembered
	Subscriptions int
	Interactive   bool
	DiskFull      bool
	Alone         bool // no leader is known, or a learner has not heard of its leader for long
	QuorumLost    bool // no leader has been known for several election time-outs
	Deleted       bool // the structure has ended; the replica waits to be removed
	Options       Options
	Quiet         bool      // it rests: nothing is to be done
	Clock         time.Time // leader's clock as of the last applied entry
	LastError     error
	// Waits says, at the leader and for people, why the membership is not as
	// wished. Empty: it is. On a node that leaves, it is what the leader has said.
	// See Host.Groups for what it says where no leader is known.
	Waits string
}

// onTick does what waits for time to pass.
func (g *Group) onTick() {
	if g.stalled {
		g.resume()
		return
	}
	g.pace.tick(g)
	g.doubtRefused()
	g.hasten()
	g.watchQuorum()
	g.watchProgress()
	g.leadFirst()
	g.expireWaiters()
	g.tickSessions()
	g.snaps.tick(g)
	g.leader.tick(g)
	g.lonely.tick(g)
}

// publishStatus lets others see how the replica does: when something about its
// role or membership changed, and with a tick when the log has moved.
func (g *Group) publishStatus(ticked bool) {
	moved := g.state != nil && g.state.index != g.shownIndex
	if !g.statusDirty && !(ticked && moved) {
		return
	}
	g.statusDirty = false
	if g.state != nil {
		g.shownIndex = g.state.index
	}
	st := &GroupStatus{
		Group: g.key, Replica: g.self, Role: g.roleName(), IsLeader: g.isLeader(), Failed: g.failure != nil,
		Subscriptions: len(g.subs), Interactive: len(g.subs) > 0, DiskFull: g.stalled, Quiet: g.quietness.quiet, QuorumLost: g.quorumLost, Alone: !g.lonely.alone.IsZero(), LastError: g.lastError,
		Waits: g.leader.care.waits, Missing: g.leader.care.missed,
	}
	if st.Waits == "" && !st.IsLeader && g.host.leaving.Load() {
		st.Waits = g.heldBy
	}
	if g.state != nil {
		g.describeState(st)
	}
	if g.rn != nil && g.failure == nil {
		basic := g.rn.BasicStatus()
		st.Term, st.Commit, st.Leader = basic.GetTerm(), basic.GetCommit(), id.Replica(g.lead)
		if !g.lonely.alone.IsZero() {
			st.Leader = 0 // a learner's raft never forgets one that is gone
		}
		st.LeaderNode = g.state.members[st.Leader]
		st.Match = g.progress()
	}
	_, learner := st.Learners[g.self]
	g.member.Store(st.Voter || learner)
	g.status.Store(st)
	g.host.news.Add(1)
}

// isMember reports whether the log, as far as it is applied here, lists this replica.
func (g *Group) isMember() bool { return g.state != nil && inConf(g.state.conf, uint64(g.self)) }

func (g *Group) describeState(st *GroupStatus) {
	st.Applied, st.Commits, st.Clock = g.state.index, g.state.commits, time.Unix(0, g.state.clock)
	st.Deleted, st.Options = g.state.deleted, g.state.options
	st.Snapshot, st.Sessions, st.Joint = g.snaps.held, len(g.state.sessions.live), isJoint(g.state.conf)
	st.EndedSessions = len(g.state.sessions.tombs)
	if before := g.status.Load(); before.Voters != nil && g.shownConf == g.state.conf {
		// The same membership, and nobody changes a status: it is shared.
		st.Voters, st.Learners = before.Voters, before.Learners
		_, st.Voter = st.Voters[g.self]
		return
	}
	g.shownConf = g.state.conf
	if g.state.onlyVoters() {
		st.Voters, st.Learners = g.state.members, noMembers // shared as well
		_, st.Voter = st.Voters[g.self]
		return
	}
	st.Voters, st.Learners = make(map[id.Replica]id.Node), make(map[id.Replica]id.Node)
	for _, r := range g.state.conf.GetVoters() {
		st.Voters[id.Replica(r)] = g.state.members[id.Replica(r)]
	}
	for _, r := range slices.Concat(g.state.conf.GetLearners(), g.state.conf.GetLearnersNext()) {
		st.Learners[id.Replica(r)] = g.state.members[id.Replica(r)]
	}
	_, st.Voter = st.Voters[g.self]
}

// noMembers is shared by all that have none.
var noMembers = map[id.Replica]id.Node{}

// onlyVoters reports whether every member is a voter, and the other way round.
func (s *state) onlyVoters() bool {
	voters := s.conf.GetVoters()
	return len(voters) == len(s.members) && !slices.ContainsFunc(voters, func(v uint64) bool {
		_, member := s.members[id.Replica(v)]
		return !member
	})
}

func (g *Group) roleName() string {
	switch {
	case g.failure != nil:
		return "stopped"
	case g.repairing:
		return "waiting for snapshot"
	case g.rn == nil:
		return "prepared"
	case g.role == raft.StateLeader:
		return "leader"
	case g.role == raft.StateCandidate || g.role == raft.StatePreCandidate:
		return "candidate"
	case !slices.Contains(g.state.conf.GetVoters(), uint64(g.self)):
		return "learner"
	}
	return "follower"
}

// Status returns what the replica last said of itself: at most a tick old.
func (g *Group) Status() GroupStatus { return *g.status.Load() }

// Key names the group.
func (g *Group) Key() id.Group { return g.key }

// Groups returns the status of every replica on this node. Where no leader says
// why one waits, because none is known, or a node that leaves has not heard, Waits
// says that.
func (h *Host) Groups() []GroupStatus {
	var out []GroupStatus
	e := h.explainer()
	for st := range h.Statuses() {
		one := *st
		one.Waits = e.waits(st)
		out = append(out, one)
	}
	return out
}

// News counts how often Statuses has begun to yield something else: while it stays
// what it was, nobody need look again. It is counted after the change.
func (h *Host) News() uint64 { return h.news.Load() }

// Statuses yields the status of every replica on this node, oldest first, of
// those that are here when it begins. What it yields is shared by all callers:
// nobody may change it, and a replica with news has another one. So ten thousand
// replicas can be looked through every second.
func (h *Host) Statuses() iter.Seq[*GroupStatus] {
	return func(yield func(*GroupStatus) bool) {
		h.mu.Lock()
		groups := h.replicasLocked()
		h.mu.Unlock()
		for _, g := range groups {
			if !yield(g.status.Load()) {
				return
			}
		}
	}
}
