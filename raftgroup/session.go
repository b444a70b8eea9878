package raftgroup

import (
	"cmp"
	"fmt"
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
//
// Subscriptions may come and go thousands of times, so that no entry costs a
// walk over all live sessions: byNode finds those of a node, and of those the
// one with a nonce.
type sessionTable struct {
	live   map[uint64]*session
	byNode map[id.Node]*nodeSessions
	tombs  []tombstone // oldest first
}

// nodeSessions are the live sessions of one node.
type nodeSessions struct {
	byNonce map[[16]byte]*session
	oldest  uint64 // no session here is of an earlier incarnation
}

// open registers the session of a SessionOpen at index. It ends the sessions
// of older incarnations of the same node, and returns them. No live session of
// the node has this nonce.
func (t *sessionTable) open(index uint64, node id.Node, incarnation uint64, nonce [16]byte, limit int) (ended []uint64, ok bool) {
	for _, s := range t.endOlder(node, incarnation) {
		ended = append(ended, s.id)
	}
	if len(t.live) >= limit {
		return ended, false
	}
	t.add(&session{id: index, node: node, incarnation: incarnation, nonce: nonce})
	return ended, true
}

// endOlder ends the sessions of older incarnations of a node, in the order of
// their IDs.
func (t *sessionTable) endOlder(node id.Node, incarnation uint64) (ended []*session) {
	of := t.byNode[node]
	if of == nil || of.oldest >= incarnation {
		return nil
	}
	for _, s := range of.byNonce {
		if s.incarnation < incarnation {
			ended = append(ended, s)
		}
	}
	slices.SortFunc(ended, func(a, b *session) int { return cmp.Compare(a.id, b.id) })
	for _, s := range ended {
		t.end(s.id)
	}
	of.oldest = incarnation
	return ended
}

func (t *sessionTable) add(s *session) {
	if t.live == nil {
		t.live, t.byNode = make(map[uint64]*session), make(map[id.Node]*nodeSessions)
	}
	of := t.byNode[s.node]
	if of == nil {
		of = &nodeSessions{byNonce: make(map[[16]byte]*session), oldest: s.incarnation}
		t.byNode[s.node] = of
	}
	of.oldest = min(of.oldest, s.incarnation)
	t.live[s.id], of.byNonce[s.nonce] = s, s
}

// opened finds the live session that a SessionOpen with this nonce has opened.
func (t *sessionTable) opened(node id.Node, nonce [16]byte) *session {
	if of := t.byNode[node]; of != nil {
		return of.byNonce[nonce]
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
	of := t.byNode[s.node]
	if delete(of.byNonce, s.nonce); len(of.byNonce) == 0 {
		delete(t.byNode, s.node)
	}
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
	t.live, t.byNode = nil, nil
	for _, s := range from.Sessions {
		node, err := id.NodeFromBytes(s.Node)
		if err != nil {
			return err
		}
		live := &session{id: s.Id, last: s.Last, node: node, incarnation: s.Incarnation}
		copy(live.nonce[:], s.Nonce)
		if t.live[live.id] != nil || t.opened(node, live.nonce) != nil {
			return fmt.Errorf("%w: session %d is there twice", ErrMalformedEntry, live.id)
		}
		t.add(live)
	}
	t.tombs = nil
	for _, b := range from.Tombstones {
		t.tombs = append(t.tombs, tombstone{session: b.Session, last: b.Last})
	}
	return nil
}
