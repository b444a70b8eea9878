package raftgroup

import "go.etcd.io/raft/v3/raftpb"

// beats knows which of a leader's heartbeats say nothing new: those to a follower
// that has acknowledged entries since the tick before. It has just heard of its
// leader, and the leader of it. With many groups that all have a little work,
// heartbeats and their answers would be every third message.
//
// What a heartbeat does besides is done by the next one at the latest, which goes
// out when nothing was acknowledged for a tick: what was lost is sent anew, a
// commit whose word was lost is told again. One that carries a read always goes.
//
// Owned by the step.
type beats struct {
	followers []followerBeat
}

type followerBeat struct {
	replica uint64
	index   uint64 // newest that it has acknowledged
	fresh   bool   // since the last tick
}

// maxBeats bounds the followers that are remembered: those beyond get all heartbeats.
const maxBeats = 64

// acked notes an acknowledgement that raft is about to get.
func (b *beats) acked(by, index uint64) {
	for i := range b.followers {
		if f := &b.followers[i]; f.replica == by {
			f.fresh = f.fresh || index > f.index
			f.index = max(f.index, index)
			return
		}
	}
	if len(b.followers) < maxBeats {
		b.followers = append(b.followers, followerBeat{replica: by, index: index})
	}
}

// needless reports whether a heartbeat can be left out.
func (b *beats) needless(m *raftpb.Message) bool {
	if len(m.GetContext()) > 0 {
		return false
	}
	for i := range b.followers {
		if f := &b.followers[i]; f.replica == m.GetTo() {
			return f.fresh
		}
	}
	return false
}

// allFresh reports whether as many followers have acknowledged something new since
// the last tick.
func (b *beats) allFresh(followers int) bool {
	n := 0
	for i := range b.followers {
		if b.followers[i].fresh {
			n++
		}
	}
	return n == followers
}

// tick ends a step with a tick, whose heartbeats are out.
func (b *beats) tick() {
	for i := range b.followers {
		b.followers[i].fresh = false
	}
}
