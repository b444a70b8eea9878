package sim

import (
	"hash/crc32"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
	"github.com/copycat-replication/copycat/wal"
)

type hardState struct{ term, vote, commit uint64 }

// replicaLog is what is durable of a replica.
type replicaLog struct {
	group     id.Group // zero before its birth is decided
	meta      grouppb.Replica
	hard      hardState
	terms     map[uint64]uint64
	last      uint64
	mark      uint64 // compacted up to there
	committed uint64 // up to there the entries were compared
	stored    map[string]bool
}

// watchedLog is a node's log; what becomes durable in it is looked at.
type watchedLog struct {
	*wal.Log
	n    *node
	life uint64
}

// NewGroup implements raftgroup.LogStore. When no number is left, the log asks
// for a flush by itself.
func (l watchedLog) NewGroup() (uint64, error) {
	l.n.submitted = true
	return l.Log.NewGroup()
}

// Submit implements raftgroup.LogStore.
func (l watchedLog) Submit(updates []wal.Update, done func(error)) {
	l.n.submitted = true
	l.Log.Submit(updates, func(err error) {
		if err == nil && l.n.life == l.life {
			for i := range updates {
				l.n.s.watch.durable(l.n, &updates[i])
			}
		}
		done(err)
	})
}

// reopened takes down what a process found in its log: what was written before
// the crash and not answered may be there or not.
func (w *watch) reopened(n *node) {
	known := make(map[uint64]bool)
	for _, st := range n.log.Groups() {
		known[st.Group] = true
		key := local{n.number, st.Group}
		old := w.locals[key]
		r := &replicaLog{terms: make(map[uint64]uint64), stored: make(map[string]bool), last: st.LastIndex, mark: st.Compacted.Index}
		if old != nil {
			r.hard, r.committed, r.stored = old.hard, old.committed, old.stored
		}
		w.locals[key] = r
		w.meta(n, key, r, st.Meta)
		first, err := n.log.FirstIndex(st.Group)
		for i := first; err == nil && i <= st.LastIndex; i++ {
			r.terms[i], err = n.log.Term(st.Group, i)
		}
		if st.HardState != nil {
			w.hardState(key, r, st.HardState)
		}
	}
	for key := range w.locals {
		if key.node == n.number && !known[key.group] {
			delete(w.locals, key) // set aside, or removed
		}
	}
}

// durable looks at one update that has become durable.
func (w *watch) durable(n *node, u *wal.Update) {
	key := local{n.number, u.Group}
	if u.Remove {
		delete(w.locals, key)
		return
	}
	r := w.locals[key]
	if r == nil {
		r = &replicaLog{terms: make(map[uint64]uint64), stored: make(map[string]bool)}
		w.locals[key] = r
	}
	if u.Meta != nil {
		w.meta(n, key, r, u.Meta)
	}
	if c := u.Compact; c != nil && c.Index > r.mark {
		r.mark = c.Index
		if c.Index > r.last || r.terms[c.Index] != c.Term {
			clear(r.terms) // a snapshot was installed
			r.last, r.committed = c.Index, max(r.committed, c.Index)
		}
	}
	for _, e := range u.Entries {
		for i := e.GetIndex(); i <= r.last; i++ {
			delete(r.terms, i)
		}
		r.terms[e.GetIndex()], r.last = e.GetTerm(), e.GetIndex()
		at := entryAt{entryOf{r.group, e.GetIndex()}, e.GetTerm()}
		sum := crc32.ChecksumIEEE(e.GetData()) + uint32(e.GetType())
		if before, known := w.entries[at]; known && before != sum {
			w.broken("%s has two entries %d of term %d", r.group, at.index, at.term)
		}
		w.entries[at] = sum
	}
	if u.HardState != nil {
		w.hardState(key, r, u.HardState)
	}
}

// hardState holds a replica's hard state against the one before, and what it
// commits against what others have.
func (w *watch) hardState(key local, r *replicaLog, next *raftpb.HardState) {
	was, is := r.hard, hardState{next.GetTerm(), next.GetVote(), next.GetCommit()}
	switch {
	case is.term < was.term, is.commit < was.commit:
		w.broken("node %d, replica %d of %s: hard state goes back from %+v to %+v", key.node, r.meta.Replica, r.group, was, is)
	case is.term == was.term && was.vote != 0 && is.vote != was.vote:
		w.broken("node %d, replica %d of %s: vote of term %d changes from %d to %d", key.node, r.meta.Replica, r.group, is.term, was.vote, is.vote)
	}
	r.hard = is
	for ; r.committed < is.commit; r.committed++ {
		index := r.committed + 1
		t, known := r.terms[index]
		if !known {
			continue // it came in a snapshot
		}
		at := entryOf{r.group, index}
		if d, known := w.decision[at]; !known {
			w.decision[at] = committed{t, key}
		} else if d.term != t {
			w.broken("%s committed entry %d of term %d on node %d, and of term %d on node %d", r.group, index, d.term, d.by.node, t, key.node)
		}
	}
}
