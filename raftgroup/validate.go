package raftgroup

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/id"
)

// maxNumber bounds terms and indices that peers send: raft adds to them, and
// panics, perhaps much later, where they overflow.
const maxNumber = 1 << 62

// errBadMessage says that a peer sent what no correct peer sends.
var errBadMessage = errors.New("malformed message from another replica")

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
