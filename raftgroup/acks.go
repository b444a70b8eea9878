package raftgroup

import (
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// lastAck is what this replica acknowledged last.
type lastAck struct {
	to, term, index uint64
	at              time.Time
}

// repeated reports whether an acknowledgement says what one sent within this
// tick has said. Raft acknowledges each append, also an empty one that only
// tells of a commit; for every proposal that would be a message from each
// follower that teaches the leader nothing. If the first one was lost, or the
// leader probes, it asks again after the next heartbeat, and is answered.
func (l *lastAck) repeated(m *raftpb.Message, now time.Time, tick time.Duration) bool {
	if m.GetType() != raftpb.MsgAppResp || m.GetReject() {
		return false
	}
	ack := lastAck{to: m.GetTo(), term: m.GetTerm(), index: m.GetIndex(), at: now}
	if ack.to == l.to && ack.term == l.term && ack.index == l.index && now.Sub(l.at) < tick {
		return true
	}
	*l = ack
	return false
}
