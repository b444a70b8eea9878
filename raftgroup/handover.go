package raftgroup

import (
	"sync"

	"go.etcd.io/raft/v3/raftpb"
)

const (
	// maxHandover bounds the bytes, and maxHandoverSubs the subscriptions, that a
	// step hands commits out to itself. It is what a step of a group among many
	// commits; larger batches are worth a goroutine of their own.
	maxHandover     = 4 << 10
	maxHandoverSubs = 4
)

// handover lets a group's step hand out what it has just applied, while the
// goroutine of the delivery waits for that. It saves reading the log, where these
// entries are again, and two changes of goroutines for each commit: where many groups
// commit a little each, that was a sixth of all work.
//
// A deliverer belongs to its goroutine, but from rest to resume, when it belongs to
// whoever holds mu. A step holds it over sends that do not wait.
type handover struct {
	mu    sync.Mutex
	waits *deliverer // nil: its goroutine has it
}

// rest lets steps hand out. The caller has seen that there is nothing to do; of
// what is applied meanwhile it is notified, or it is handed out.
func (h *handover) rest(d *deliverer) {
	h.mu.Lock()
	h.waits = d
	h.mu.Unlock()
}

// resume ends that.
func (h *handover) resume() { h.rest(nil) }

// tellSubscriptions has entries delivered that were just applied.
func (g *Group) tellSubscriptions(entries []*raftpb.Entry) {
	direct := len(g.subs) <= maxHandoverSubs && handsOver(entries)
	for _, sub := range g.subs {
		g.maybeStartDelivery(sub)
		if !direct || !sub.handOver(g, entries) {
			sub.notify()
		}
	}
}

// handsOver reports whether entries are few and small, and nothing but changes.
func handsOver(entries []*raftpb.Entry) bool {
	size := 0
	for _, e := range entries {
		if size += len(e.GetData()); size > maxHandover || e.GetType() != raftpb.EntryNormal {
			return false
		}
		if kind, _, err := entryKind(e.GetData()); err != nil || kind != KindBatch {
			return false
		}
	}
	return len(entries) > 0
}

// handOver hands out the payloads of entries, if delivery waits and has come to
// them. False: not all of them, and delivery is to be notified.
func (s *Subscription) handOver(g *Group, entries []*raftpb.Entry) bool {
	s.direct.mu.Lock()
	defer s.direct.mu.Unlock()
	d := s.direct.waits
	if d == nil || d.g != g || s.group.Load() != g || s.drainAt.Load() > 0 ||
		d.met != nil || d.over != nil || len(d.ready) > 0 || len(d.c.ahead) > 0 || d.come()+1 != entries[0].GetIndex() {
		return false
	}
	for _, e := range entries {
		got, err := d.c.take(e)
		if err != nil {
			return false // delivery meets it again, and reports it
		}
		d.moved = false
		s.at.Store(d.c.state.index)
		for i, p := range got.payloads {
			if !s.trySend(p) {
				d.ready = got.payloads[i:]
				return false
			}
		}
	}
	return true
}

// trySend hands over one commit if there is room for it.
func (s *Subscription) trySend(p []byte) bool {
	if !s.out.fits(len(p)) {
		return false
	}
	select {
	case s.commitCh <- p:
		s.out.sent(len(p))
		return true
	default:
		return false
	}
}
