package raftgroup

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

const (
	// lonelyTime is how long a replica does without a leader before it asks its
	// group whether it is still wanted; the pause doubles with each answer that
	// it is, or that nobody could tell.
	lonelyTime    = 10 * time.Second
	maxLonelyTime = 5 * time.Minute
	// leavingTime is the same on a node that leaves: it waits for nothing else.
	leavingTime = time.Second
	// maxReads bounds the confirmations that wait for raft at the same time.
	maxReads = 256
)

// lonely watches whether a replica has a leader. One that has none for long, or
// of which the log says that it is not a member, may have been removed while
// it was away. Only its group can tell: see standing.
type lonely struct {
	alone time.Time // since when there is no leader; zero: there is one
	heard time.Time // when the leader was last heard of
	asked time.Time
	pause time.Duration
}

// led ends the loneliness of a replica that has just heard of its leader, or leads. The
// next tick may be too late for that: it may rest by then, and would show for as long as it
// does that it is alone.
func (l *lonely) led(now time.Time) { l.alone, l.heard, l.pause = time.Time{}, now, 0 }

func (l *lonely) tick(g *Group) {
	// A learner never asks for votes, and so never forgets its leader by itself.
	silent := g.roleName() == "learner" && g.now.Sub(l.heard) >= lonelyTime
	was := l.alone.IsZero()
	switch {
	case g.lead != raft.None && !silent:
		g.statusDirty = g.statusDirty || !l.alone.IsZero()
		l.alone, l.pause = time.Time{}, 0
	case l.alone.IsZero():
		l.alone, g.statusDirty = g.now, true
	}
	if was != l.alone.IsZero() {
		g.statusDirty = true
	}
	if g.isLeader() || !l.due(g) {
		return
	}
	l.asked = g.now
	l.pause = min(max(2*l.pause, lonelyTime), maxLonelyTime)
	g.host.askStanding(g, nodesOf(g.state.members))
}

// due reports whether it is time to ask.
func (l *lonely) due(g *Group) bool {
	outside := !g.isMember()
	if l.alone.IsZero() && !outside {
		return false
	}
	since := g.now.Sub(l.asked)
	switch {
	case g.host.leaving.Load():
		if since < leavingTime {
			return false
		}
	case since < l.pause, !outside && g.now.Sub(l.alone) < lonelyTime:
		return false
	}
	return !g.host.isJoining(g.key.Structure) // that asks by itself
}

func (h *Host) isJoining(s id.Structure) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.joining[s] != nil
}

// askedStanding names the call that asks what a replica is to its group.
type askedStanding struct{ g *Group }

// askStanding asks the group's leader what became of this replica, and removes
// it, with its files, if that has confirmed with a majority that it was removed.
func (h *Host) askStanding(g *Group, members []id.Node) {
	key := g.key
	h.jobs.calls.addAlone(askedStanding{g}, func() {
		req := grouppb.ReplicaRequest{
			Structure: key.Structure[:], Birth: key.Incarnation.Birth, Recovery: key.Incarnation.Recovery,
			Replica: uint64(g.self), Release: h.leaving.Load(),
		}
		var hint id.Node
		var resp grouppb.StandingResponse
		if err := h.askLeader(key.Structure, &hint, methodStanding, &req, &resp, members...); err != nil {
			g.log.Debug("nobody can say whether this replica is still wanted", "error", err)
			if h.leaving.Load() {
				g.call(func() { g.hold(noAnswer(err)) })
			}
			return
		}
		if resp.Standing != grouppb.StandingResponse_REMOVED {
			g.call(func() { g.hold(resp.Waits) })
			return
		}
		g.log.Info("this replica was removed from its group while it was away; removing what it left here", "told by", hint.String())
		removed, err := h.remove(h.ctx, g, nil)
		if err != nil {
			g.log.Error("something of a removed replica is left on this node", "error", err)
		}
		if !removed {
			return
		}
		h.joinAgain(key.Structure, hint)
	})
}

// joinAgain has a replica got if subscriptions wait for one, since the one that
// was here has just been removed.
func (h *Host) joinAgain(s id.Structure, hint id.Node) {
	h.mu.Lock()
	awaited := h.awaitedLocked(s)
	h.mu.Unlock()
	if !awaited || h.leaving.Load() {
		return
	}
	if err := h.Join(s, hint); err != nil {
		h.cfg.Logger.Error("no new replica for the subscriptions here", "structure", s.String(), "error", err)
	}
}

// groupOf finds the replica here of the group that a request names.
func (h *Host) groupOf(req *grouppb.ReplicaRequest) (id.Group, *Group, error) {
	s, err := id.StructureFromBytes(req.Structure)
	if err != nil {
		return id.Group{}, nil, err
	}
	key := id.Group{Structure: s, Incarnation: id.Incarnation{Birth: req.Birth, Recovery: req.Recovery}}
	h.mu.Lock()
	defer h.mu.Unlock()
	return key, h.groups[key], nil
}

func (h *Host) serveStanding(ctx context.Context, request []byte) (protoMessage, error) {
	var req grouppb.ReplicaRequest
	if err := req.Unmarshal(request); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadMessage, err)
	}
	key, g, err := h.groupOf(&req)
	if err != nil {
		return nil, err
	}
	if g == nil {
		return nil, fmt.Errorf("group %s: %w", key, ErrUnknownGroup)
	}
	return inStep(ctx, g, func(reply func(protoMessage, error)) { g.standingStep(&req, reply) })
}

// standingStep answers what a replica is to the group, from a state that a
// majority has confirmed to be the newest.
func (g *Group) standingStep(req *grouppb.ReplicaRequest, reply func(protoMessage, error)) {
	g.confirm(func(err error) {
		if err != nil {
			reply(nil, err)
			return
		}
		standing, err := g.state.standing(id.Replica(req.Replica))
		switch {
		case err != nil:
			reply(nil, fmt.Errorf("group %s: %w", g.key, err))
		case standing == grouppb.StandingResponse_INTENDED && req.Release:
			g.refuseReplica(req.Replica, "its node leaves", func(_ protoMessage, err error) {
				reply(nil, fmt.Errorf("group %s: %w: it is being given up: %w", g.key, ErrBusy, err))
			})
		case standing == grouppb.StandingResponse_REMOVED:
			g.confirmChange(func(err error) {
				if err != nil {
					reply(nil, err)
					return
				}
				reply(&grouppb.StandingResponse{Standing: standing}, nil)
			})
		default:
			reply(&grouppb.StandingResponse{Standing: standing, Waits: g.leader.care.waits}, nil)
		}
	})
}

// confirmChange calls done, in a step, once a majority of the voters has on disk
// that the newest membership change is over, or with an error. Until then the
// replicas that it has removed may be needed: what commits is kept in memory until
// the next write, so that voters which crash may go on amid the joint change, and
// then need a majority of the voters of before it too.
//
// An entry that this leader has proposed after it has applied the change travels
// with a commit index that covers the change, and each voter writes the two
// together. So the change is safe once such an entry is committed. If there is
// none, an empty one is proposed.
func (g *Group) confirmChange(done func(error)) {
	behind := g.leader.changed
	if behind > 0 && g.state.index > behind {
		done(nil)
		return
	}
	if behind == 0 || len(g.reads) >= maxReads {
		done(fmt.Errorf("group %s: %w: too early, or too many questions", g.key, ErrBusy))
		return
	}
	if g.last == behind {
		if err := g.rn.Propose(nil); err != nil {
			done(fmt.Errorf("group %s: propose: %w", g.key, err))
			return
		}
	}
	term := g.term()
	g.reads = append(g.reads, &reading{until: g.now.Add(g.host.cfg.CallTimeout), index: behind + 1, done: func(err error) {
		if err == nil && g.term() != term {
			err = fmt.Errorf("group %s: %w: it was not, for a while", g.key, ErrNotLeader)
		}
		done(err)
	}})
}

// confirmEnd has a majority of the voters write that a joint change is over, though
// nothing else may be proposed for long, and nobody may ask. If all of them crashed
// before that, they would go on amid the change, and need a majority of the voters
// of before it: of those the one that was replaced is lost, and another one may be
// by then. A leader that has taken over needs no such entry: its first one travels with
// the commit index that it knows; if it does not know of the end, it finds it here.
func (g *Group) confirmEnd() {
	if !g.leader.confirm {
		return
	}
	switch behind := g.leader.changed; {
	case g.state.index > behind:
		g.leader.confirm = false
	case g.last == behind:
		if err := g.rn.Propose(nil); err != nil { // while the lead is handed over
			g.log.Debug("end of a membership change not confirmed, will try again", "error", err)
		}
	}
}

// standing says what a replica is, as of this state. That it was removed is
// for good: IDs are given out once, in order, and only a member or one whose
// intent is open can be added. So an answer of a state that is not the newest
// can err towards keeping a replica, and not towards removing it.
func (s *state) standing(r id.Replica) (grouppb.StandingResponse_Standing, error) {
	switch {
	case inConf(s.conf, uint64(r)):
		return grouppb.StandingResponse_MEMBER, nil
	case s.mayAdd(uint64(r)):
		return grouppb.StandingResponse_INTENDED, nil
	case r == 0 || r >= s.next:
		return 0, fmt.Errorf("%w: replica %d was never given out", errBadMessage, r)
	}
	return grouppb.StandingResponse_REMOVED, nil
}

// reading is a confirmation under way: that this replica led when it was asked
// for, and that its applied state is not older than that.
type reading struct {
	nonce [16]byte
	until time.Time
	index uint64 // to be applied; 0: raft has not answered
	done  func(error)
}

// confirm calls done, in a step, once a majority has confirmed that this
// replica leads, and its applied state holds all that was committed before; or
// with an error. Each attempt has a context of its own: raft answers one that
// is used twice with an index that is too old (pitfalls).
func (g *Group) confirm(done func(error)) {
	if err := g.requireLeader(); err != nil {
		done(err)
		return
	}
	if len(g.reads) >= maxReads {
		done(fmt.Errorf("group %s: %w: too many questions", g.key, ErrBusy))
		return
	}
	var nonce [16]byte
	if err := g.host.random(nonce[:]); err != nil {
		done(err)
		return
	}
	g.reads = append(g.reads, &reading{nonce: nonce, until: g.now.Add(g.host.cfg.CallTimeout), done: done})
	g.rn.ReadIndex(nonce[:])
}

func (g *Group) onReadStates(states []raft.ReadState) {
	for _, s := range states {
		for _, r := range g.reads {
			if string(r.nonce[:]) == string(s.RequestCtx) {
				r.index = max(s.Index, 1)
			}
		}
	}
	if len(states) > 0 {
		g.answerReads()
	}
}

// answerReads answers what the applied state has come up to.
func (g *Group) answerReads() {
	g.endReads(func(r *reading) (error, bool) { return g.requireLeader(), r.index != 0 && g.state.index >= r.index })
}

// expireReads gives up confirmations that raft has lost.
func (g *Group) expireReads() {
	g.endReads(func(r *reading) (error, bool) {
		return fmt.Errorf("group %s: not confirmed: %w", g.key, context.DeadlineExceeded), g.now.After(r.until)
	})
}

// endReads takes the readings that are over off the list, and then tells those
// who wait for them.
func (g *Group) endReads(over func(*reading) (error, bool)) {
	if len(g.reads) == 0 {
		return
	}
	var open, ended []*reading
	var errs []error
	for _, r := range g.reads {
		if err, ends := over(r); ends {
			ended, errs = append(ended, r), append(errs, err)
		} else {
			open = append(open, r)
		}
	}
	g.reads = open
	for i, r := range ended {
		r.done(errs[i])
	}
}

// hostingRequest names the call that asks a node for a replica.
type hostingRequest struct {
	g       *Group
	replica id.Replica
}

// askWhether asks a node whether it has a replica that it should have.
func (h *Host) askWhether(g *Group, r id.Replica, node id.Node) {
	key := g.key
	h.jobs.calls.addAlone(hostingRequest{g, r}, func() {
		req := grouppb.ReplicaRequest{
			Structure: key.Structure[:], Birth: key.Incarnation.Birth, Recovery: key.Incarnation.Recovery, Replica: uint64(r),
		}
		var resp grouppb.HostingResponse
		if err := h.ask(h.ctx, node, methodHosting, &req, &resp); err != nil {
			g.log.Debug("node does not say whether it has a replica", "node", node.String(), "error", err)
			return
		}
		g.call(func() { g.leader.care.onHosting(g, r, resp.Hosting) })
	})
}

// serveHosting says whether this node has a replica. That it has not is for
// good: a member was durable here before the group added it, nobody makes a
// replica of an ID that was used, and one that was set aside stays so until an
// operator says otherwise. Were it wrong, the group would have removed a
// replica without need, which harms nothing: it hears of it when it asks.
func (h *Host) serveHosting(request []byte) (protoMessage, error) {
	var req grouppb.ReplicaRequest
	if err := req.Unmarshal(request); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadMessage, err)
	}
	key, g, err := h.groupOf(&req)
	if err != nil {
		return nil, err
	}
	r := id.Replica(req.Replica)
	switch {
	case g != nil && g.self == r && g.Status().Failed, h.isRestarting(key, r):
		return &grouppb.HostingResponse{Hosting: grouppb.HostingResponse_STOPPED}, nil
	case g != nil && g.self == r, h.isPrepared(key.Structure, r):
		return &grouppb.HostingResponse{}, nil
	}
	return &grouppb.HostingResponse{Hosting: grouppb.HostingResponse_ABSENT}, nil
}

// isPrepared reports whether a replica waits here for its birth to be decided,
// or is being made.
func (h *Host) isPrepared(s id.Structure, r id.Replica) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.prepared {
		if p.Genesis.Group.Structure == s && p.group.self == r {
			return true
		}
	}
	return len(h.preparing) > 0
}

// swap is a joint change under way that puts one voter in another's place.
type swap struct {
	old, by         id.Replica
	oldNode, byNode id.Node
}

// noteMembers reports a membership change, by the leader. It is called before
// the change is forgotten, and by every replica: another one may end a joint
// change than has begun it.
func (g *Group) noteMembers(o *outcome) {
	if isJoint(g.state.conf) {
		g.swap = swap{}
		for _, c := range o.conf.GetChanges() {
			r := id.Replica(c.GetNodeId())
			switch c.GetType() {
			case raftpb.ConfChangeAddNode:
				g.swap.by, g.swap.byNode = r, g.state.members[r]
			case raftpb.ConfChangeRemoveNode:
				g.swap.old, g.swap.oldNode = r, g.state.members[r]
			}
		}
	}
	if !g.isLeader() {
		return
	}
	g.leader.changed = g.last
	g.leader.care.onMembers(g)
	if isJoint(g.state.conf) {
		return
	}
	if s := g.swap; s.old != 0 && s.by != 0 {
		g.emit(Event{Kind: EventReplicaReplaced, Replica: s.old, Node: s.oldNode, By: s.by, ByNode: s.byNode})
	}
	g.swap = swap{}
}
