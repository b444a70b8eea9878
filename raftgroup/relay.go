package raftgroup

import (
	"encoding/binary"
	"fmt"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"

	"github.com/copycat-replication/copycat/id"
)

// An entry crosses the WAN once for each data center, and not for each replica
// there. To the learners of another data center that has a voter (or to all of
// its learners but one), the leader sends appends without their entries, by way
// of that replica: the relay. It has the same entries from an append of its own,
// puts them back, and passes the append on.
//
// What the learner gets is the leader's append, byte for byte: a range of a log
// is the same wherever its last index has the same term. Its answers go to the
// leader directly. To raft a relay is a network that delays, and may lose, what
// goes to the learner: a learner with a gap says so, is sent directly what it
// misses, and goes on without the relay for a while. Voters are never
// relayed to: a commit must not wait for a third node.
//
// Appends without entries take the same way, or they would arrive before those
// with entries, which raft takes for a gap.
const (
	// relayPause is how long a learner that had a gap is sent everything
	// directly; it doubles with each gap.
	relayPause    = 5 * time.Second
	maxRelayPause = 5 * time.Minute
	// relayPatience is how long a relay waits for the entries of an append that
	// it is to pass on: longer than a message may be behind another one.
	relayPatience = 3 * time.Second
	// relayHold is how long a relay keeps appends at most while earlier ones are
	// still on their direct way, which is long where a link is full: those shall
	// arrive first. The leader lets go of them when they have been answered.
	relayHold = 2500 * time.Millisecond
	// relayedLately is for how long after the last relayed append a gap is
	// thought to be the relay's.
	relayedLately = 10 * time.Second
	// maxRelayed bounds the appends that wait so, for one group.
	maxRelayed = 1024
)

// routes says which learners a leader sends to by way of whom.
type routes map[id.Replica]*route

type route struct {
	via     id.Replica
	heard   time.Time // when via last answered anything
	moved   time.Time // when the learner last answered an append, or had nothing left to answer
	relayed time.Time // when an append last went this way
	last    bool      // the last append went this way
	fence   uint64    // the last index that went directly, until it is answered
	gap     time.Time // when the learner last missed something
	pause   time.Duration
}

// tick looks where the replicas are.
func (r *routes) tick(g *Group, nodes []Node) {
	center := make(map[id.Node]string, len(nodes))
	for _, n := range nodes {
		center[n.ID] = n.DataCenter
	}
	own := center[g.host.cfg.Node]
	relays := make(map[string]id.Replica) // by data center
	for _, list := range [][]uint64{g.state.conf.GetVoters(), g.state.conf.GetLearners()} {
		for _, v := range list { // in ascending order
			if at, live := center[g.state.members[id.Replica(v)]]; live && at != own && relays[at] == 0 {
				relays[at] = id.Replica(v)
			}
		}
	}
	found := make(routes)
	for _, l := range g.state.conf.GetLearners() {
		to := id.Replica(l)
		at, live := center[g.state.members[to]]
		via := relays[at]
		if !live || via == 0 || via == to {
			continue
		}
		x := (*r)[to]
		if x == nil || x.via != via {
			x = &route{via: via}
		}
		if x.pause > 0 && g.now.Sub(x.gap) > 2*maxRelayPause {
			x.pause = 0
		}
		found[to] = x
	}
	*r = found
}

// pass sends an append by way of a relay. False: it has to go directly.
func (r routes) pass(g *Group, m *raftpb.Message) bool {
	x := r[id.Replica(m.GetTo())]
	if x == nil {
		return false
	}
	x.last = g.isLeader() && g.now.Sub(x.heard) < g.election() && !x.paused(g) && x.send(g, m)
	if x.last {
		x.relayed = g.now
	}
	return x.last
}

// send sends an append by way of the relay, if both streams flow and the
// relay's is not behind.
func (x *route) send(g *Group, m *raftpb.Message) bool {
	last, lastTerm := m.GetIndex(), m.GetLogTerm()
	if n := len(m.GetEntries()); n > 0 {
		last, lastTerm = m.GetEntries()[n-1].GetIndex(), m.GetEntries()[n-1].GetTerm()
	}
	able, hold, late := 0, time.Duration(0), false
	g.rn.WithProgress(func(p uint64, _ raft.ProgressType, pr tracker.Progress) {
		switch {
		case pr.State != tracker.StateReplicate:
		case p == m.GetTo():
			able++
			switch {
			case pr.Match >= m.GetIndex():
				x.moved = g.now
			case !x.last:
				x.moved, x.fence = g.now, m.GetIndex()
			default:
				late = g.now.Sub(x.moved) >= g.election()
			}
			if pr.Match < x.fence {
				hold = relayHold
			}
		case p == uint64(x.via) && pr.Next > last:
			able++
		}
	})
	if late { // what was relayed does not come
		x.onGap(g, id.Replica(m.GetTo()))
		return false
	}
	node, known := g.nodeOf(x.via)
	if able < 2 || !known {
		return false
	}
	payload := binary.AppendUvarint([]byte{wireRelay}, uint64(hold/time.Millisecond))
	payload = binary.AppendUvarint(payload, uint64(len(m.GetEntries())))
	payload = binary.AppendUvarint(payload, lastTerm)
	payload, err := proto.MarshalOptions{}.MarshalAppend(payload, withEntries(m, nil))
	if err == nil {
		err = g.host.net.Send(node, Message{Group: g.key, From: g.self, To: x.via, Payload: payload})
	}
	if err != nil {
		g.log.Debug("append not sent by way of a relay", "to", m.GetTo(), "relay", uint64(x.via), "error", err)
		return false
	}
	return true
}

// onAnswer hears of a replica.
func (r routes) onAnswer(g *Group, m *raftpb.Message) {
	for to, x := range r {
		if uint64(x.via) == m.GetFrom() {
			x.heard = g.now
		}
		if uint64(to) == m.GetFrom() && m.GetType() == raftpb.MsgAppResp {
			x.moved = g.now
		}
	}
}

// onGap hears that a replica misses what comes before an append.
func (r routes) onGap(g *Group, from id.Replica) {
	if x := r[from]; x != nil && !x.relayed.IsZero() && g.now.Sub(x.relayed) <= relayedLately && !x.paused(g) {
		x.onGap(g, from)
	}
}

// paused tells whether a gap is too recent to try again.
func (x *route) paused(g *Group) bool { return x.pause > 0 && g.now.Sub(x.gap) < x.pause }

func (x *route) onGap(g *Group, from id.Replica) {
	x.gap, x.pause = g.now, min(max(2*x.pause, relayPause), maxRelayPause)
	g.log.Debug("relayed appends had a gap: sending directly for a while", "to", uint64(from), "relay", uint64(x.via), "pause", x.pause)
}

// withEntries is a copy of an append with other entries.
func withEntries(m *raftpb.Message, entries []*raftpb.Entry) *raftpb.Message {
	return &raftpb.Message{
		Type: raftpb.MsgApp.Enum(), To: new(m.GetTo()), From: new(m.GetFrom()), Term: new(m.GetTerm()),
		LogTerm: new(m.GetLogTerm()), Index: new(m.GetIndex()), Commit: new(m.GetCommit()), Entries: entries,
	}
}

// relayed is an append that waits at its relay for its entries.
type relayed struct {
	append   *raftpb.Message // without them
	count    uint64
	lastTerm uint64
	hold     uint64 // milliseconds
	since    time.Time
}

// decodeRelayed reads what pass has written.
func decodeRelayed(frame Message, payload []byte, self id.Replica) (relayed, error) {
	bad := func(why string) (relayed, error) {
		return relayed{}, fmt.Errorf("%w: group %s: append to be relayed from replica %d: %s", errBadMessage, frame.Group, frame.From, why)
	}
	body := payload[1:]
	var x relayed
	for _, number := range []*uint64{&x.hold, &x.count, &x.lastTerm} {
		v, n := binary.Uvarint(body)
		if n <= 0 || v > maxNumber {
			return bad("a number that makes no sense")
		}
		*number, body = v, body[n:]
	}
	m, err := decodeMessage(body)
	if err != nil {
		return bad(err.Error())
	}
	x.append = m
	switch {
	case frame.To != self || m.GetTo() == uint64(self) || m.GetTo() == 0:
		return bad("not for another replica")
	case m.GetFrom() != uint64(frame.From) || frame.From == self || m.GetFrom() == m.GetTo():
		return bad("sender is not who it says")
	case m.GetType() != raftpb.MsgApp || len(m.GetEntries()) > 0:
		return bad("not an append without entries")
	case max(m.GetTerm(), m.GetIndex(), m.GetLogTerm(), m.GetCommit()) > maxNumber-x.count || x.hold > uint64(relayPatience/time.Millisecond):
		return bad("a number that no log reaches")
	}
	return x, nil
}

// relay takes an append that is to be passed on. What does not fit is lost,
// which raft makes good.
func (g *Group) relay(x relayed) {
	if g.rn == nil || g.failure != nil || len(g.relaying) >= maxRelayed {
		return
	}
	x.since = g.now
	for i := range g.relaying {
		if earlier := &g.relaying[i]; x.hold == 0 && earlier.append.GetTo() == x.append.GetTo() {
			earlier.hold = 0
		}
	}
	g.relaying = append(g.relaying, x)
}

// flushRelayed passes on the appends whose entries are here, to each learner in
// order. It is called at the end of each step.
func (g *Group) flushRelayed() {
	if len(g.relaying) == 0 {
		return
	}
	rest, waits := g.relaying[:0], make(map[uint64]bool)
	for _, x := range g.relaying {
		to := x.append.GetTo()
		ready, lost := false, false
		if !waits[to] { // those behind one that waits must not overtake it
			ready, lost = g.relayable(x)
		}
		switch {
		case ready:
			g.passOn(x)
		case !lost && g.now.Sub(x.since) < relayPatience:
			waits[to] = true
			rest = append(rest, x)
		}
	}
	clear(g.relaying[len(rest):])
	if g.relaying = rest; len(rest) == 0 {
		g.relaying = nil
	}
}

// relayable reports whether the entries of an append are here, or never will be.
func (g *Group) relayable(x relayed) (ready, lost bool) {
	if g.failure != nil || g.rn == nil || x.append.GetTerm() != g.term() || x.append.GetFrom() != g.lead {
		return false, true
	}
	if g.now.Sub(x.since) < time.Duration(x.hold)*time.Millisecond {
		return false, false
	}
	if x.count == 0 {
		return true, false
	}
	last := x.append.GetIndex() + x.count
	if have, err := g.store.LastIndex(); err != nil || have < last {
		return false, err != nil
	}
	term, err := g.store.Term(last)
	return err == nil && term == x.lastTerm, err != nil || term != x.lastTerm
}

// passOn sends an append with its entries.
func (g *Group) passOn(x relayed) {
	to := id.Replica(x.append.GetTo())
	node, known := g.nodeOf(to)
	if !known {
		return
	}
	var entries []*raftpb.Entry
	if x.count > 0 {
		first := x.append.GetIndex() + 1
		var err error
		// The leader's own append was of at most that size, or of one entry.
		if entries, err = g.store.Entries(first, first+x.count, 2*maxMessageBytes); err != nil || uint64(len(entries)) != x.count {
			g.log.Debug("append not relayed", "to", uint64(to), "index", first, "count", x.count, "have", len(entries), "error", err)
			return
		}
	}
	payload, parts, err := encodeMessage(withEntries(x.append, entries))
	if err == nil {
		payload[0] = wireRelayed
		err = g.host.net.Send(node, Message{Group: g.key, From: g.self, To: to, Payload: payload, Parts: parts})
	}
	if err != nil {
		g.log.Debug("append not relayed", "to", uint64(to), "error", err)
	}
}
