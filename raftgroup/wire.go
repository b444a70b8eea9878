package raftgroup

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

// The payload of a message between replicas is one byte of kind and a body.
const (
	wireRaft           = 1 // a raftpb.Message
	wireSnapshotReport = 2 // a grouppb.SnapshotReport: what became of an offered snapshot
	wireQuiet          = 3 // a grouppb.Quiet: whether there is anything left to do
	wirePing           = 4 // a grouppb.NodePing, of no group: from host to host
	wirePong           = 5 // a grouppb.NodePong, likewise
	wireRelay          = 6 // an append without its entries, to be passed on (relay.go)
	wireRelayed        = 7 // a raftpb.Message that another replica passes on for its sender
	wireOutsider       = 8 // nothing: the receiver was removed, and had better ask (outsider.go)
)

// send hands a raft message to the network. A message that is lost is raft's
// normal case; what raft has to be told is that the follower is not reached,
// or it would go on to stream into the void.
func (g *Group) send(m *raftpb.Message) {
	switch m.GetType() {
	case raftpb.MsgHeartbeat:
		if g.beats.needless(m) {
			return
		}
		g.echoes.sent(m)
	case raftpb.MsgReadIndex, raftpb.MsgReadIndexResp:
		return // only a leader asks, and only for itself: one that has stepped down meanwhile gets no answer
	}
	to := id.Replica(m.GetTo())
	node, ok := g.nodeOf(to)
	if !ok || g.acked.repeated(m, g.now, g.host.cfg.TickInterval) {
		return
	}
	if m.GetType() == raftpb.MsgSnap && !inConf(m.GetSnapshot().GetMetadata().GetConfState(), m.GetTo()) {
		// Raft would ignore it silently on the other side. This member was
		// seeded, so it needs the log; if that is gone, only a newer snapshot helps.
		g.rn.ReportSnapshot(m.GetTo(), raft.SnapshotFailure)
		g.leader.snapshotWanted = true
		return
	}
	if m.GetType() == raftpb.MsgApp && g.leader.routes.pass(g, m) {
		return
	}
	payload, parts, err := encodeMessage(m)
	if err == nil {
		err = g.host.net.Send(node, Message{Group: g.key, From: g.self, To: to, Payload: payload, Parts: parts, Urgent: urgent(m)})
	}
	if err != nil {
		g.log.Debug("message not sent", "to", node, "type", m.GetType().String(), "error", err)
		switch m.GetType() {
		case raftpb.MsgApp:
			g.rn.ReportUnreachable(m.GetTo())
		case raftpb.MsgSnap:
			g.rn.ReportSnapshot(m.GetTo(), raft.SnapshotFailure)
		}
	}
}

// urgent tells what must not wait behind bulk: elections, heartbeats, acknowledgements.
func urgent(m *raftpb.Message) bool {
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgProp, raftpb.MsgSnap:
		return false
	}
	return true
}

// nodeOf finds the node of a replica: a member, one about to be, or one that
// spoke to us. A new replica that is still far behind in the log knows its
// leader only from the leader's messages.
func (g *Group) nodeOf(r id.Replica) (id.Node, bool) {
	if n, ok := g.state.members[r]; ok {
		return n, true
	}
	for _, i := range g.state.intents {
		if i.replica == r {
			return i.node, true
		}
	}
	n, ok := g.seen[r]
	return n, ok
}

// maxSeen bounds the replicas of which the log does not tell where they are: there
// are as many as it gave out IDs for in the stretch that a new replica lacks.
const maxSeen = 2 * maxIntents

// see notes where a replica speaks from, if the log does not tell.
func (g *Group) see(r id.Replica, node id.Node) {
	if g.state.members[r] == node || node.IsZero() {
		return
	}
	if g.seen == nil || len(g.seen) >= maxSeen { // who is real speaks again
		g.seen = make(map[id.Replica]id.Node)
	}
	g.seen[r] = node
}

// receive takes a message off the network: decoded and checked outside the
// step, queued for it. It never blocks.
func (g *Group) receive(from id.Node, m Message) error {
	payload := m.Bytes()
	if len(payload) == 0 {
		return fmt.Errorf("%w: empty", errBadMessage)
	}
	switch payload[0] {
	case wireRaft, wireRelayed:
		rm, err := decodeMessage(payload[1:])
		if err != nil {
			return fmt.Errorf("%w: %w", errBadMessage, err)
		}
		frame := m
		if payload[0] == wireRelayed {
			if rm.GetType() != raftpb.MsgApp {
				return fmt.Errorf("%w: group %s: %s of replica %d, passed on by %d", errBadMessage, m.Group, rm.GetType(), rm.GetFrom(), m.From)
			}
			frame.From, from = id.Replica(rm.GetFrom()), id.Node{} // its sender is elsewhere
		}
		if err := validateMessage(rm, frame, g.self); err != nil {
			return err
		}
		if !g.post(event{message: rm, from: from, size: len(payload) + eventOverhead, urgent: urgent(rm)}) {
			return ErrBusy
		}
	case wireSnapshotReport:
		var r grouppb.SnapshotReport
		if err := r.Unmarshal(payload[1:]); err != nil {
			return fmt.Errorf("%w: %w", errBadMessage, err)
		}
		return g.heed(len(payload), func() { g.onSnapshotReport(m.From, &r) })
	case wireRelay:
		x, err := decodeRelayed(m, payload, g.self)
		if err != nil {
			return err
		}
		return g.heed(len(payload), func() { g.relay(x) })
	case wireQuiet:
		var q grouppb.Quiet
		if err := q.Unmarshal(payload[1:]); err != nil {
			return fmt.Errorf("%w: %w", errBadMessage, err)
		}
		return g.heed(len(payload), func() { g.onQuiet(m.From, from, &q) })
	case wireOutsider:
		if m.To == g.self { // and not the replica that was here before
			return g.heed(len(payload), g.onOutsider)
		}
	default:
		return fmt.Errorf("%w: kind %d", ErrNewerFormat, payload[0])
	}
	return nil
}

// onMessage steps a message of another replica.
func (g *Group) onMessage(m *raftpb.Message, from id.Node) {
	if g.rn == nil || g.failure != nil || g.stalled {
		return
	}
	g.see(id.Replica(m.GetFrom()), from)
	g.tellOutsider(id.Replica(m.GetFrom()), from)
	g.leader.routes.onAnswer(g, m)
	if m.GetFrom() == g.lead {
		g.lonely.heard, g.heardLead = g.now, true
	}
	if g.quietness.quiet && g.stirs(m) {
		g.awaken(id.Node{})
	}
	if !g.believable(m, from) {
		return
	}
	switch m.GetType() {
	case raftpb.MsgSnap:
		g.onSnapshotOffer(m, from)
		return
	case raftpb.MsgPreVote, raftpb.MsgVote:
		g.onVoteRequest(m)
	case raftpb.MsgProp:
		if g.isLeader() {
			for _, e := range m.GetEntries() {
				stampClock(e.GetData(), g.clock())
			}
		} else {
			m.From = new(uint64(g.self)) // raft passes it on, and whoever gets it sees that it comes from here
		}
	case raftpb.MsgAppResp:
		if m.GetReject() {
			g.leader.routes.onGap(g, id.Replica(m.GetFrom()))
		} else if g.isLeader() {
			g.beats.acked(m.GetFrom(), m.GetIndex())
		}
	}
	if err := g.rn.Step(m); err != nil && !errors.Is(err, raft.ErrProposalDropped) {
		g.log.Debug("message refused", "type", m.GetType().String(), "from", m.GetFrom(), "error", err)
	}
}
