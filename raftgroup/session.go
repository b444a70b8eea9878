package raftgroup

import (
	"cmp"
	"slices"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

// maxTombstones bounds how many ended sessions the table remembers. A proposer
// reads of its own end from the tombstone; it needs it only until it has
// caught up with the log, so a thousand is generous.
const maxTombstones = 1024

// session is one proposer as the log knows it.
type session struct {
	id          uint64 // index of the entry that opened it
	last        uint64 // last number that counted
	node        id.Node
	incarnation uint64
	nonce       [16]byte // of the SessionOpen
}

// tombstone says how far an ended session had come.
type tombstone struct {
	session uint64
	last    uint64
}

// sessionTable is the part of the applied state that makes proposals count
// once (design, section 5; Ongaro's dissertation, section 6.3). It is a pure
// function of the log: every replica has the same table at the same index.
type sessionTable struct {
	live  map[uint64]*session
	tombs []tombstone // oldest first
}

// open registers the session of a SessionOpen at index. It ends the sessions
// of older incarnations of the same node, and returns them.
func (t *sessionTable) open(index uint64, node id.Node, incarnation uint64, limit int) (ended []uint64, ok bool) {
	for _, s := range t.live {
		if s.node == node && s.incarnation < incarnation {
			ended = append(ended, s.id)
		}
	}
	slices.Sort(ended)
	for _, s := range ended {
		t.end(s)
	}
	if len(t.live) >= limit {
		return ended, false
	}
	if t.live == nil {
		t.live = make(map[uint64]*session)
	}
	t.live[index] = &session{id: index, node: node, incarnation: incarnation}
	return ended, true
}

// opened finds the live session that a SessionOpen with this nonce has opened.
func (t *sessionTable) opened(node id.Node, nonce [16]byte) *session {
	for _, s := range t.live {
		if s.node == node && s.nonce == nonce {
			return s
		}
	}
	return nil
}

// end closes a session and leaves a tombstone.
func (t *sessionTable) end(id uint64) bool {
	s := t.live[id]
	if s == nil {
		return false
	}
	delete(t.live, id)
	t.tombs = append(t.tombs, tombstone{session: id, last: s.last})
	if over := len(t.tombs) - maxTombstones; over > 0 {
		t.tombs = slices.Delete(t.tombs, 0, over)
	}
	return true
}

// expire ends a session if it has not moved on from last.
func (t *sessionTable) expire(id, last uint64) bool {
	s := t.live[id]
	return s != nil && s.last == last && t.end(id)
}

// verdict is what became of a batch.
type verdict uint8

const (
	verdictCounts    verdict = iota + 1 // from counted.from on
	verdictDuplicate                    // all of its numbers had counted before
	verdictGap                          // it starts beyond last+1
	verdictUnknown                      // no such session
)

// count decides from which number on a batch counts, and moves the session on.
func (t *sessionTable) count(id, first uint64, n uint32) (from uint64, v verdict) {
	s := t.live[id]
	switch {
	case s == nil:
		return 0, verdictUnknown
	case first > s.last+1:
		return 0, verdictGap
	case first+uint64(n)-1 <= s.last:
		return 0, verdictDuplicate
	}
	from = s.last + 1
	s.last = first + uint64(n) - 1
	return from, verdictCounts
}

// last returns how far a session has come; live tells whether it can go on,
// known whether the table still knows it at all.
func (t *sessionTable) last(id uint64) (last uint64, live, known bool) {
	if s := t.live[id]; s != nil {
		return s.last, true, true
	}
	for i := len(t.tombs) - 1; i >= 0; i-- {
		if t.tombs[i].session == id {
			return t.tombs[i].last, false, true
		}
	}
	return 0, false, false
}

// sorted returns the live sessions in the order of their IDs.
func (t *sessionTable) sorted() []*session {
	all := make([]*session, 0, len(t.live))
	for _, s := range t.live {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *session) int { return cmp.Compare(a.id, b.id) })
	return all
}

func (t *sessionTable) encode(into *grouppb.State) {
	for _, s := range t.sorted() {
		into.Sessions = append(into.Sessions, &grouppb.Session{Id: s.id, Last: s.last, Node: s.node[:], Incarnation: s.incarnation, Nonce: s.nonce[:]})
	}
	for _, b := range t.tombs {
		into.Tombstones = append(into.Tombstones, &grouppb.Tombstone{Session: b.session, Last: b.last})
	}
}

func (t *sessionTable) decode(from *grouppb.State) error {
	t.live = make(map[uint64]*session, len(from.Sessions))
	for _, s := range from.Sessions {
		node, err := id.NodeFromBytes(s.Node)
		if err != nil {
			return err
		}
		live := &session{id: s.Id, last: s.Last, node: node, incarnation: s.Incarnation}
		copy(live.nonce[:], s.Nonce)
		t.live[s.Id] = live
	}
	t.tombs = nil
	for _, b := range from.Tombstones {
		t.tombs = append(t.tombs, tombstone{session: b.Session, last: b.Last})
	}
	return nil
}
