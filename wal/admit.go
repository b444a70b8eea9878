package wal

import "go.etcd.io/raft/v3/raftpb"

// admit judges one update and adds its frame to the batch.
func (l *Log) admit(u *Update, size int, low bool) error {
	w := &l.writer
	if size > maxFramePayload {
		return groupError(ErrTooLarge, u.Group, "%d bytes", size)
	}
	if err := l.refusal(u, low); err != nil {
		return err
	}
	g, err := l.target(u)
	if err != nil {
		return err
	}
	c := change{typ: frameUpdate, group: u.Group}
	if err := g.judge(u, &c, w.seq+1); err != nil {
		return err
	}
	g.pend.counter++
	c.counter = g.pend.counter
	c.entries = u.Entries
	from := len(w.places)
	start := w.openFrame()
	w.buf, w.places = appendUpdate(w.buf, u, &c, w.position(), w.places)
	w.closeFrame(start, frameHeader{typ: c.typ, flags: c.flags, group: c.group, counter: c.counter})
	w.add(c, g, [2]int{from, len(w.places)})
	return nil
}

// refusal is the first update of a group that was refused for lack of space,
// known by what its fields point to.
type refusal struct {
	entry *raftpb.Entry
	hard  *raftpb.HardState
}

func refusalOf(u *Update) refusal {
	r := refusal{hard: u.HardState}
	if len(u.Entries) > 0 {
		r.entry = u.Entries[0]
	}
	return r
}

// refusal refuses an update for lack of space, and what its group has
// submitted behind a refused one: that was meant to follow it.
func (l *Log) refusal(u *Update, low bool) error {
	l.mu.RLock()
	first, waiting := l.refused[u.Group]
	l.mu.RUnlock()
	switch {
	case u.Remove:
	case waiting && first != refusalOf(u):
		l.count.refused.Add(1)
		return groupError(ErrDiskFull, u.Group, "an earlier update was refused and has not come again")
	case low && len(u.Entries) > 0:
		l.refuse(u)
		return groupError(ErrDiskFull, u.Group, "%d entries refused: less than %d bytes are free in %s", len(u.Entries), l.opts.ReserveBytes, l.dir)
	}
	if waiting {
		l.mu.Lock()
		delete(l.refused, u.Group)
		l.mu.Unlock()
	}
	return nil
}

// refuse notes that an update is refused for lack of space.
func (l *Log) refuse(u *Update) {
	l.count.refused.Add(1)
	if u.Remove || (len(u.Entries) == 0 && u.HardState == nil) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.refused[u.Group]; !ok && l.groups[u.Group] != nil {
		l.refused[u.Group] = refusalOf(u)
	}
}

// target finds the group that an update is for.
func (l *Log) target(u *Update) (*group, error) {
	w := &l.writer
	if g := w.newborn[u.Group]; g != nil {
		return g, nil
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if u.Remove {
		if g := l.groups[u.Group]; g != nil {
			return g, nil
		}
	}
	g, err := l.groupLocked(u.Group)
	if err != nil {
		return nil, err
	}
	if l.groups[u.Group] == nil {
		if w.newborn == nil {
			w.newborn = make(map[uint64]*group)
		}
		w.newborn[u.Group] = g
	}
	return g, nil
}

// judge says whether the update fits the group as it will be when the batch
// so far is durable, and fills in what its frame says.
func (g *group) judge(u *Update, c *change, batch uint64) error {
	if g.pend.batch != batch {
		g.pend = pendingState{batch: batch, counter: g.counter, last: g.last(), term: g.hs.term, commit: g.committed(), stored: g.hs.commit}
	}
	if g.pend.removed {
		return groupError(ErrUnknownGroup, g.number, "is removed by an update before this one")
	}
	if u.Remove {
		c.flags, g.pend.removed = flagRemove, true
		return nil
	}
	p := g.pend
	if m := u.Compact; m != nil && m.Index > g.mark.Index {
		c.flags, c.mark = flagCompact, *m
		if term, ok := g.term(m.Index); !ok || term != m.Term {
			if m.Index <= p.commit {
				return groupError(ErrInvalid, g.number, "compaction at %d says term %d, the committed entry has %d", m.Index, m.Term, term)
			}
			c.flags |= flagRestart
			p.last = m.Index
		}
		p.commit = max(p.commit, m.Index)
	}
	if n := len(u.Entries); n > 0 {
		c.flags |= flagEntries
		c.first = u.Entries[0].GetIndex()
		if c.first <= p.commit {
			return groupError(ErrInvalid, g.number, "entries from index %d, committed is %d", c.first, p.commit)
		}
		if c.first > p.last+1 {
			return groupError(ErrInvalid, g.number, "entries from index %d, the last is %d", c.first, p.last)
		}
		for i, e := range u.Entries {
			if e.GetIndex() != c.first+uint64(i) {
				return groupError(ErrInvalid, g.number, "entry %d follows %d", e.GetIndex(), c.first+uint64(i)-1)
			}
		}
		p.last = c.first + uint64(n) - 1
	}
	if hs := u.HardState; hs != nil {
		c.flags |= flagHardState
		c.hs = hardState{set: true, term: hs.GetTerm(), vote: hs.GetVote(), commit: hs.GetCommit()}
		if c.hs.term < p.term || c.hs.commit > p.last || c.hs.commit < p.stored {
			return groupError(ErrInvalid, g.number, "hard state with term %d after %d, commit %d after %d, last index %d",
				c.hs.term, p.term, c.hs.commit, p.stored, p.last)
		}
		p.term, p.stored, p.commit = c.hs.term, c.hs.commit, max(p.commit, c.hs.commit)
	}
	if u.Meta != nil {
		c.flags |= flagMeta
		c.meta = u.Meta
	}
	g.pend = p
	return nil
}
