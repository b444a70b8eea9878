package raftgroup

import (
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// An acknowledgement is sent once within a tick; whatever says something else is sent.
func TestRepeatedAcks(t *testing.T) {
	t.Parallel()
	const tick = 100 * time.Millisecond
	start := time.Unix(1000, 0)
	ack := func(to, term, index uint64, reject bool) *raftpb.Message {
		return &raftpb.Message{
			Type: raftpb.MsgAppResp.Enum(), To: new(to), Term: new(term), Index: new(index), Reject: new(reject),
		}
	}
	var l lastAck
	for i, c := range []struct {
		m        *raftpb.Message
		at       time.Duration
		repeated bool
	}{
		{ack(1, 1, 7, false), 0, false},
		{ack(1, 1, 7, false), 0, true},
		{ack(1, 1, 7, true), 0, false}, // a rejection is no acknowledgement
		{ack(1, 1, 7, false), tick - 1, true},
		{ack(1, 1, 7, false), tick, false}, // the first one may have been lost
		{ack(1, 1, 7, false), 2*tick - 1, true},
		{ack(2, 1, 7, false), 2*tick - 1, false},
		{ack(2, 2, 7, false), 2*tick - 1, false},
		{ack(2, 2, 8, false), 2*tick - 1, false},
		{ack(2, 2, 7, false), 2*tick - 1, false}, // an overwritten suffix
		{&raftpb.Message{Type: raftpb.MsgHeartbeatResp.Enum(), To: new(uint64(2)), Term: new(uint64(2)), Index: new(uint64(7))}, 2*tick - 1, false},
	} {
		if got := l.repeated(c.m, start.Add(c.at), tick); got != c.repeated {
			t.Errorf("case %d: repeated is %v", i, got)
		}
	}
}
