package raftgroup

import (
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

// offerPatience is how long a leader waits until all members have agreed to
// fall quiet, before it asks them again: longer than the round trips of a WAN.
const offerPatience = 2 * time.Second

// quietness is what a replica knows of its group's rest. A quiet replica does
// not tick: it sends no heartbeats and expects none, and costs nothing but
// memory. What wakes it is something to do, a message that says that somebody
// else has something to do, or the word of the host's watch (watch.go) that
// the node it relies on is not what it was.
//
// The leader offers rest when nothing has been under way for a while and every
// member holds, has committed and has applied the same last entry; each member
// to which the same applies agrees and rests at once; when all have agreed, the
// leader rests too. So a quiet leader implies that its members are quiet or
// have woken since, and a member that rests while the leader does not is still
// watched for. Rest never changes what raft may decide: a replica that does not
// tick is to raft one whose clock is slow.
type quietness struct {
	quiet  bool
	calmAt time.Time // since when nothing is under way here; zero: something is
	offer  *quietOffer
	called time.Time // when a learner without a leader last called the others
}

// quietOffer is the leader's, until all members have agreed.
type quietOffer struct {
	term, index uint64
	nodes       uint64 // which change of the nodes the leader had looked at
	made        time.Time
	agreed      map[id.Replica]bool
}

// calm reports whether nothing is under way at this replica: nothing to write,
// apply, propose, answer, fetch or announce.
func (g *Group) calm() bool {
	switch {
	case g.rn == nil || g.failure != nil || g.stalled || g.repairing || g.retired:
		return false
	case g.lead == raft.None || g.state.deleted: // what is deleted waits to be removed
		return false
	case !g.lonely.alone.IsZero(): // a learner, whose next tick ends that, now that its leader is heard
		return false
	case len(g.appends) > 0 || len(g.waiters) > 0 || len(g.reads) > 0 || len(g.closing) > 0 || len(g.strays) > 0 || isJoint(g.state.conf) || !g.isMember():
		return false
	case g.state.index != g.last || g.rn.BasicStatus().GetCommit() != g.last:
		return false
	}
	k := &g.snaps
	if k.wanted.Index != 0 || k.made.Index != 0 || k.offered != nil || k.fetching {
		return false
	}
	for _, sub := range g.subs {
		if !sub.resting(g.state) {
			return false
		}
	}
	return true
}

// resting reports whether a subscription waits for nothing from its group.
func (s *Subscription) resting(st *state) bool {
	if len(s.prop.window) > 0 || s.nonce != ([16]byte{}) {
		return false
	}
	s.mu.Lock()
	waiting := len(s.inbox) > 0 || s.sealed && !s.left
	s.mu.Unlock()
	switch {
	case waiting:
		return false
	case s.left:
		return true
	}
	return s.prop.session != 0 && st.baseSet && !s.baseReady
}

// allCaughtUp reports whether every member has all of the log, as the leader knows it.
func (g *Group) allCaughtUp() bool {
	ok := g.rn.BasicStatus().LeadTransferee == raft.None
	g.rn.WithProgress(func(r uint64, _ raft.ProgressType, pr tracker.Progress) {
		if r != uint64(g.self) && (pr.State != tracker.StateReplicate || pr.Match != g.last) {
			ok = false
		}
	})
	return ok
}

// allHeard reports whether every member has answered since raft last counted
// them, which it does once in an election time-out, and then begins anew.
func (g *Group) allHeard() bool {
	ok := true
	g.rn.WithProgress(func(r uint64, _ raft.ProgressType, pr tracker.Progress) {
		ok = ok && (r == uint64(g.self) || pr.RecentActive)
	})
	return ok
}

// settled reports whether the leader has no duty left that time alone would
// bring up: those that a change of the nodes brings up wake the group (see
// nodeWatch.tick).
func (d *leaderDuties) settled(g *Group, nodes []Node) bool {
	st := g.state
	live := make(map[id.Node]bool, len(nodes))
	for _, n := range nodes {
		live[n.ID] = true
	}
	for _, r := range g.memberReplicas() {
		if !live[st.members[r]] {
			return false // it may come back, or have to be replaced
		}
	}
	// As of these nodes: those that the last duty has looked at may be others.
	if d.expireSessions(g, nodes); len(d.missing) > 0 || d.changePending(g.now) {
		return false
	}
	if st.request != nil || d.snapshotWanted || st.snapshotDue() {
		if _, ok := g.maker(nodes, 0); ok {
			return false
		}
	}
	return d.care.atRest(g, nodes)
}

// tickQuiet offers rest when it is time. It runs with the ticks of a replica
// that is awake.
func (g *Group) tickQuiet() {
	q := &g.quietness
	after := g.host.cfg.QuietAfter
	if g.lead == raft.None && g.roleName() == "learner" && g.now.Sub(q.called) >= offerPatience {
		q.called = g.now
		g.tellMembers(&grouppb.Quiet{Kind: grouppb.Quiet_WAKE})
	}
	if after < 0 || !g.calm() {
		q.calmAt, q.offer = time.Time{}, nil
		return
	}
	if q.calmAt.IsZero() {
		q.calmAt = g.now
	}
	if !g.isLeader() || g.now.Sub(q.calmAt) < after || !g.allCaughtUp() {
		q.offer = nil
		return
	}
	if q.offer != nil && g.now.Sub(q.offer.made) < offerPatience {
		return
	}
	if !g.allHeard() {
		return // only now and then: duties cannot tell before the next answers
	}
	change := g.host.watch.change()
	if !g.leader.settled(g, g.host.liveNodes()) {
		q.calmAt = g.now // look again after the same while
		return
	}
	q.offer = &quietOffer{term: g.term(), index: g.last, nodes: change, made: g.now, agreed: make(map[id.Replica]bool)}
	g.tellMembers(&grouppb.Quiet{Kind: grouppb.Quiet_OFFER, Term: q.offer.term, Index: q.offer.index})
	g.rest(false)
}

func (g *Group) term() uint64 { return g.rn.BasicStatus().GetTerm() }

// rest lets this replica fall quiet: a member that has agreed, or a leader all
// of whose members have.
func (g *Group) rest(agreed bool) {
	q := &g.quietness
	var relies []relied // whose node's silence must wake this replica
	if g.isLeader() {
		if q.offer == nil {
			return
		}
		members := g.memberReplicas()
		relies = make([]relied, 0, len(members))
		for _, r := range members {
			if r == g.self {
				continue
			}
			if !q.offer.agreed[r] {
				return
			}
			relies = append(relies, relied{node: g.state.members[r], replica: r})
		}
	} else {
		node, ok := g.nodeOf(id.Replica(g.lead))
		if !agreed || !ok {
			return
		}
		relies = append(relies, relied{node: node, replica: id.Replica(g.lead)})
	}
	by := quietLed{term: g.term(), led: !g.isLeader()}
	if q.offer != nil {
		by.nodes = q.offer.nodes
	}
	q.offer, q.calmAt = nil, time.Time{}
	if q.quiet || !g.host.watch.rest(g, relies, by) {
		return
	}
	q.quiet, g.statusDirty = true, true
	g.trim()
	g.log.Debug("quiet", "index", g.last)
	g.host.asleep(g)
}

// trim lets go of room that only busy times need: a node may hold ten thousand
// quiet replicas.
func (g *Group) trim() {
	g.seen = nil // all members are known from the log by now
	g.outsiders, g.beats = nil, beats{}
	g.state.members = g.host.members.Share(g.state.members)
	if len(g.appends) == 0 {
		g.appends = nil
	}
	g.host.log.Rest(g.local)
	m := &g.mailbox
	m.mu.Lock()
	defer m.mu.Unlock()
	m.spare = nil
	if len(m.events) == 0 {
		m.events = nil
	}
}

// awaken ends the rest. doubted is a node that may have stopped leading: the
// lease of a leader there is frozen, not valid, and would refuse the votes of
// others (reproduced; design, section 8).
func (g *Group) awaken(doubted id.Node) {
	q := &g.quietness
	if g.rn == nil || g.failure != nil {
		return
	}
	if q.quiet {
		q.quiet, q.calmAt, g.statusDirty = false, time.Time{}, true
		g.log.Debug("awake", "doubted", doubted.String())
		if d := g.host.watch.wake(g); doubted.IsZero() {
			doubted = d
		}
		g.host.awake(g)
	}
	if doubted.IsZero() || g.isLeader() || g.lead == raft.None {
		return
	}
	if node, ok := g.nodeOf(id.Replica(g.lead)); ok && node == doubted {
		if err := g.rn.ForgetLeader(); err != nil {
			g.log.Debug("leader not forgotten", "error", err)
		}
		g.doubtRefused()
	}
}

// stirs tells whether a message must wake a quiet replica: all but what a
// leader's last heartbeats, and the answers to them, may still bring.
func (g *Group) stirs(m *raftpb.Message) bool {
	if m.GetTerm() != g.term() {
		return true
	}
	switch m.GetType() {
	case raftpb.MsgHeartbeat:
		return m.GetFrom() != g.lead || m.GetCommit() > g.state.index
	case raftpb.MsgHeartbeatResp:
		return !g.isLeader()
	case raftpb.MsgAppResp:
		return !g.isLeader() || m.GetReject()
	}
	return true
}

// onQuiet takes what another replica says about rest.
func (g *Group) onQuiet(from id.Replica, node id.Node, m *grouppb.Quiet) {
	if g.rn == nil || g.failure != nil || g.stalled {
		return
	}
	q := &g.quietness
	g.tellOutsider(from, node)
	switch m.Kind {
	case grouppb.Quiet_OFFER:
		g.drainReady() // what was just committed counts
		if g.isLeader() || g.lead != uint64(from) || m.Term != g.term() || m.Index != g.last || !g.calm() {
			return // no answer: the leader asks again
		}
		g.rest(true)
		g.tellQuiet(from, node, &grouppb.Quiet{Kind: grouppb.Quiet_AGREE, Term: m.Term, Index: m.Index})
	case grouppb.Quiet_AGREE:
		if q.offer == nil || m.Term != q.offer.term || m.Index != q.offer.index {
			return
		}
		q.offer.agreed[from] = true
		if g.isLeader() && q.offer.term == g.term() && q.offer.index == g.last && g.calm() && g.allCaughtUp() {
			g.rest(false)
		}
	case grouppb.Quiet_WAKE:
		g.awaken(id.Node{})
	case grouppb.Quiet_NOT_LEADING:
		if q.quiet && g.lead == uint64(from) && m.Term == g.term() {
			g.awaken(node)
		}
	}
}

// notLeading tells the members that this replica does not lead any more. It is
// a courtesy: what is lost, the host's watch finds out.
func (g *Group) notLeading() {
	if g.state != nil {
		g.tellMembers(&grouppb.Quiet{Kind: grouppb.Quiet_NOT_LEADING, Term: g.ledTerm})
	}
}

// stopResting takes a replica that ends, one way or the other, out of the watch.
func (g *Group) stopResting() {
	g.quietness = quietness{}
	g.host.watch.wake(g)
	g.host.awake(g)
}

func (g *Group) tellMembers(m *grouppb.Quiet) {
	for _, r := range g.memberReplicas() {
		if r != g.self {
			g.tellQuiet(r, g.state.members[r], m)
		}
	}
}

// memberReplicas lists all voters and learners, old and new, in order: a replay
// must not depend on map order.
func (g *Group) memberReplicas() []id.Replica {
	var out []id.Replica
	cs := g.state.conf
	for _, list := range [][]uint64{cs.GetVoters(), cs.GetLearners(), cs.GetVotersOutgoing(), cs.GetLearnersNext()} {
		for _, r := range list {
			out = append(out, id.Replica(r))
		}
	}
	return out
}

func (g *Group) tellQuiet(to id.Replica, node id.Node, m *grouppb.Quiet) {
	body, err := m.Marshal()
	if err != nil {
		return
	}
	payload := append([]byte{wireQuiet}, body...)
	if err := g.host.net.Send(node, Message{Group: g.key, From: g.self, To: to, Payload: payload, Urgent: true}); err != nil {
		g.log.Debug("word of rest not sent", "kind", m.Kind.String(), "error", err)
	}
}
