package raftgroup

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
	"github.com/copycat-replication/copycat/wal"
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

// maxNumber bounds terms and indices that peers send: raft adds to them, and
// panics, perhaps much later, where they overflow.
const maxNumber = 1 << 62

// errBadMessage says that a peer sent what no correct peer sends.
var errBadMessage = errors.New("malformed message from another replica")

// send hands a raft message to the network. A message that is lost is raft's
// normal case; what raft has to be told is that the follower is not reached,
// or it would go on to stream into the void.
func (g *Group) send(m *raftpb.Message) {
	switch m.GetType() {
	case raftpb.MsgHeartbeat:
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

// validateMessage refuses what would make raft panic or believe a stranger
// (pitfalls: RawNode.Step panics on frames that a peer can send).
func validateMessage(m *raftpb.Message, frame Message, self id.Replica) error {
	bad := func(why string) error {
		return fmt.Errorf("%w: group %s: %s from replica %d: %s", errBadMessage, frame.Group, m.GetType(), frame.From, why)
	}
	if m.GetTo() != uint64(self) || frame.To != self {
		return bad("meant for another replica")
	}
	if m.GetFrom() != uint64(frame.From) || frame.From == self || frame.From == 0 {
		return bad("sender is not who it says")
	}
	if max(m.GetTerm(), m.GetIndex(), m.GetLogTerm(), m.GetCommit(), m.GetRejectHint()) > maxNumber {
		return bad("a number that no log reaches")
	}
	switch m.GetType() {
	case raftpb.MsgProp:
		// Raft takes these for local ones, and panics if it has to pass one
		// with a term on.
		if m.GetTerm() != 0 {
			return bad("a term where none belongs")
		}
		return validateProposal(m, bad)
	case raftpb.MsgApp:
		return validateAppend(m, bad)
	case raftpb.MsgSnap:
		if err := validateSnapshot(m, bad); err != nil {
			return err
		}
	case raftpb.MsgAppResp, raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp,
		raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgTimeoutNow:
		if m.GetTerm() == 0 {
			return bad("term 0")
		}
		// Raft reads the echo of a heartbeat's context as a number of 8 bytes.
		if n := len(m.GetContext()); m.GetType() == raftpb.MsgHeartbeatResp && n != 0 && n != 8 {
			return bad("context is not what was sent")
		}
	default:
		return bad("not a type that travels")
	}
	if len(m.GetEntries()) > 0 {
		return bad("entries in a message that has none")
	}
	return nil
}

// validateSnapshot refuses a membership that raft could not restore.
func validateSnapshot(m *raftpb.Message, bad func(string) error) error {
	md := m.GetSnapshot().GetMetadata()
	if m.GetTerm() == 0 || md.GetIndex() == 0 || md.GetTerm() == 0 || md.GetConfState() == nil {
		return bad("no term, index or membership")
	}
	if md.GetTerm() > m.GetTerm() || md.GetIndex() > maxNumber {
		return bad("term or index out of bounds")
	}
	if err := checkConf(md.GetConfState()); err != nil {
		return bad(err.Error())
	}
	return nil
}

func validateProposal(m *raftpb.Message, bad func(string) error) error {
	if len(m.GetEntries()) == 0 {
		return bad("empty proposal")
	}
	for _, e := range m.GetEntries() {
		if e.GetType() != raftpb.EntryNormal {
			return bad("forwarded configuration change")
		}
		if err := checkEntry(e.GetData()); err != nil {
			return bad("forwarded entry: " + err.Error())
		}
	}
	return nil
}

func validateAppend(m *raftpb.Message, bad func(string) error) error {
	if m.GetTerm() == 0 || m.GetLogTerm() > m.GetTerm() || (m.GetIndex() == 0) != (m.GetLogTerm() == 0) {
		return bad("term out of bounds")
	}
	term := m.GetLogTerm()
	for i, e := range m.GetEntries() {
		if e.GetIndex() != m.GetIndex()+1+uint64(i) {
			return bad("entries with a hole")
		}
		if e.GetTerm() == 0 || e.GetTerm() < term || e.GetTerm() > m.GetTerm() {
			return bad("entry's term out of bounds")
		}
		term = e.GetTerm()
	}
	return nil
}

// echoes is what a leader has asked the others to acknowledge in its term: raft
// numbers the reads that wait for a majority, sends the last number with its
// heartbeats, and takes as many off its list as come back.
type echoes struct{ term, upTo uint64 }

func readNumber(m *raftpb.Message) uint64 {
	if len(m.GetContext()) != 8 {
		return 0
	}
	return binary.LittleEndian.Uint64(m.GetContext())
}

// sent notes a heartbeat of this replica's.
func (e *echoes) sent(m *raftpb.Message) {
	if m.GetTerm() != e.term {
		*e = echoes{term: m.GetTerm()}
	}
	e.upTo = max(e.upTo, readNumber(m))
}

// owns is what a replica knows of itself.
type owns struct {
	last   uint64 // index of its log
	leads  bool
	echoes echoes
}

// contradicts reports whether a message says of this replica what it knows to be
// wrong: that it has what it does not have, has sent what it has not sent, or has
// asked what it has not asked. Raft believes such messages, and panics.
func (o owns) contradicts(m *raftpb.Message) bool {
	switch m.GetType() {
	case raftpb.MsgHeartbeat:
		return m.GetCommit() > o.last
	case raftpb.MsgAppResp:
		return o.leads && !m.GetReject() && m.GetIndex() > o.last
	case raftpb.MsgHeartbeatResp:
		return readNumber(m) > 0 && (m.GetTerm() != o.echoes.term || readNumber(m) > o.echoes.upTo)
	}
	return false
}

// believable reports whether raft may have a message, which came from a node.
func (g *Group) believable(m *raftpb.Message, from id.Node) bool {
	switch m.GetType() {
	case raftpb.MsgHeartbeat:
		// Appends of this very step may have made the log longer, or shorter.
		if m.GetCommit() > g.rn.BasicStatus().GetCommit() {
			g.drainReady()
		}
	case raftpb.MsgAppResp:
		if m.GetIndex() > g.last {
			g.drainReady()
		}
	}
	if g.failure != nil || g.stalled {
		return false
	}
	if (owns{last: g.last, leads: g.isLeader(), echoes: g.echoes}).contradicts(m) {
		g.host.complain(g.log, from, "message contradicts what this replica knows of itself", "type", m.GetType().String(), "from", m.GetFrom(),
			"commit", m.GetCommit(), "index", m.GetIndex(), "last", g.last)
		return false
	}
	return true
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
		g.lonely.heard = g.now
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
		}
	}
	if err := g.rn.Step(m); err != nil && !errors.Is(err, raft.ErrProposalDropped) {
		g.log.Debug("message refused", "type", m.GetType().String(), "from", m.GetFrom(), "error", err)
	}
}

// onPeerDown reacts to a broken connection.
func (g *Group) onPeerDown(node id.Node) {
	if g.rn == nil || g.failure != nil {
		return
	}
	r, ok := g.state.replicaOn(node)
	switch {
	case !ok:
	case g.isLeader():
		g.rn.ReportUnreachable(uint64(r))
	case g.lead == uint64(r):
		for _, sub := range g.subs {
			sub.prop.rewind()
		}
	}
}

// onAppendFailed reacts to a write that did not become durable. A full disk
// holds the group still until there is room; anything else is for good, since
// what was written is unknown: this replica must not vote or acknowledge any more.
func (g *Group) onAppendFailed(err error) {
	if !errors.Is(err, wal.ErrDiskFull) {
		g.fail(fmt.Errorf("%w: %w", ErrGroupFailed, err))
		return
	}
	g.lastError = err
	if !g.stalled {
		g.stalled, g.statusDirty = true, true
		g.log.Error("disk full: this replica stands still until there is room", "error", err)
		for _, sub := range g.subs {
			sub.report(fmt.Errorf("group %s: %w", g.key, err))
		}
	}
}
