package wal

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
)

// group is what the log knows of one group. Its log is, in this order: what
// was compacted (up to mark), what is cold (chunks), what is hot (places).
// Guarded by Log.mu; written only by who holds Log.flushMu as well.
type group struct {
	number  uint64
	counter uint64 // frames written
	hs      hardState
	meta    []byte
	mark    Mark
	chunks  []chunk
	first   uint64 // index of places[0]
	places  []place
	base    uint64 // segment with the newest frame that alone tells all but the entries
	suspect *Suspect
	cache   entryCache

	// partial says, during recovery, that the frame at base is still to come.
	partial bool
	// epoch is, during recovery, the number of losses that this group is
	// known to have survived.
	epoch int

	pend pendingState
}

// pendingState is the group as it will be when the batch that is being made
// is durable. Guarded by Log.flushMu.
type pendingState struct {
	batch   uint64 // for which batch it is valid
	counter uint64
	last    uint64
	term    uint64
	commit  uint64 // entries up to here cannot change
	stored  uint64 // the hard state's commit
	removed bool
}

func newGroup(number uint64) *group { return &group{number: number, first: 1} }

func (g *group) last() uint64 { return g.first + uint64(len(g.places)) - 1 }

// committed is the index up to which entries can never change.
func (g *group) committed() uint64 { return max(g.hs.commit, g.mark.Index) }

// term returns the term of an index from the mark to the last.
func (g *group) term(index uint64) (uint64, bool) {
	switch {
	case index == g.mark.Index:
		return g.mark.Term, true
	case index < g.mark.Index || index > g.last():
		return 0, false
	case index >= g.first:
		return g.places[index-g.first].term, true
	}
	k, ok := g.chunk(index)
	if !ok {
		return 0, false
	}
	i, found := slices.BinarySearchFunc(k.terms, index, func(t termRun, index uint64) int {
		switch {
		case t.first < index:
			return -1
		case t.first > index:
			return 1
		}
		return 0
	})
	if !found {
		i--
	}
	if i < 0 {
		return 0, false
	}
	return k.terms[i].term, true
}

// chunk returns the cold chunk that holds an index.
func (g *group) chunk(index uint64) (*chunk, bool) {
	i, _ := slices.BinarySearchFunc(g.chunks, index, func(k chunk, index uint64) int {
		switch {
		case k.last < index:
			return -1
		case k.first > index:
			return 1
		}
		return 0
	})
	if i == len(g.chunks) || g.chunks[i].first > index {
		return nil, false
	}
	return &g.chunks[i], true
}

// apply makes the change of a frame that is durable, in segment seg. It says
// why not if the frame contradicts what is known, which only recovery of a
// damaged log can see.
func (l *Log) applyLocked(g *group, c *change, seg *segment) error {
	g.counter = c.counter
	if c.flags&flagRemove != 0 {
		l.forgetLocked(g)
		return nil
	}
	if c.typ == frameState {
		return l.applyStateLocked(g, c, seg)
	}
	if c.counter == 1 {
		g.partial = false
		l.rebaseLocked(g, seg)
	}
	if c.flags&flagCompact != 0 {
		l.compactLocked(g, c.mark, c.flags&flagRestart != 0)
	}
	if c.flags&flagEntries != 0 {
		if err := l.appendLocked(g, c, seg); err != nil {
			return err
		}
	}
	if c.flags&flagHardState != 0 {
		g.hs = c.hs
	}
	if c.flags&flagMeta != 0 {
		g.meta = slices.Clone(c.meta)
		if g.meta == nil {
			g.meta = []byte{}
		}
	}
	return nil
}

func (l *Log) appendLocked(g *group, c *change, seg *segment) error {
	if c.first < g.first {
		if !g.partial {
			return fmt.Errorf("entries from index %d overwrite what starts at %d", c.first, g.first)
		}
		l.releaseLocked(g.places)
		g.places, g.first = nil, c.first
	}
	if c.first > g.last()+1 {
		if !g.partial || len(g.places) > 0 {
			return fmt.Errorf("entries from index %d after %d", c.first, g.last())
		}
		g.first = c.first
	}
	keep := c.first - g.first
	l.releaseLocked(g.places[keep:])
	g.places = append(g.places[:keep], c.places...)
	seg.live += len(c.places)
	for i := range c.places {
		seg.liveBytes += int64(c.places[i].size)
	}
	l.cacheLocked(g, c)
	return nil
}

// compactLocked forgets entries up to the mark, or, with restart, all of them.
func (l *Log) compactLocked(g *group, m Mark, restart bool) {
	if restart {
		l.trashLocked(g, g.chunks)
		l.releaseLocked(g.places)
		g.chunks, g.places, g.first = nil, nil, m.Index+1
		l.dropCacheLocked(g, g.cache.last()+1)
	}
	g.mark = m
	dead := 0
	for dead < len(g.chunks) && g.chunks[dead].last <= m.Index {
		dead++
	}
	l.trashLocked(g, g.chunks[:dead])
	g.chunks = slices.Delete(g.chunks, 0, dead)
	l.trimLocked(g, m.Index+1)
	l.dropCacheLocked(g, m.Index+1)
}

// trimLocked makes first the lowest hot index at least.
func (l *Log) trimLocked(g *group, first uint64) {
	if first <= g.first {
		return
	}
	n := min(first-g.first, uint64(len(g.places)))
	l.releaseLocked(g.places[:n])
	g.places, g.first = g.places[n:], first
	// A slice that is only ever cut at the front keeps what it lost until it grows.
	if spare := cap(g.places) - len(g.places); len(g.places) == 0 {
		g.places = nil
	} else if spare > 64 && spare > 3*len(g.places) {
		g.places = slices.Clone(g.places)
	}
}

func (l *Log) applyStateLocked(g *group, c *change, seg *segment) error {
	l.rebaseLocked(g, seg)
	g.mark, g.hs = c.mark, c.hs
	if c.flags&flagMeta != 0 {
		g.meta = slices.Clone(c.meta)
	} else {
		g.meta = nil
	}
	g.chunks = c.chunks
	if c.flags&flagSuspect != 0 {
		if g.suspect == nil {
			l.setAsideLocked(g, &Suspect{Group: g.number, Why: c.reason, Offset: -1})
		}
		g.partial = false
		return nil
	}
	first := c.mark.Index + 1
	if n := len(c.chunks); n > 0 {
		first = max(first, c.chunks[n-1].last+1)
	}
	if c.last+1 < first || (len(g.places) > 0 && g.last() > c.last) {
		return fmt.Errorf("state ends at index %d, entries at %d", c.last, g.last())
	}
	if len(g.places) == 0 {
		g.first = first
	}
	l.trimLocked(g, first)
	// Holes stand for entries that an earlier segment held; what carries them
	// to a later one follows, or they are lost.
	if g.first > first {
		g.places = append(make([]place, g.first-first), g.places...)
		g.first = first
	}
	if n := c.last - g.last(); n > 0 {
		g.places = append(g.places, make([]place, n)...)
	}
	for _, r := range c.carried {
		for i, p := range r.places {
			at := r.first + uint64(i)
			if at < g.first || at > g.last() {
				return fmt.Errorf("carried index %d is not between %d and %d", at, g.first, g.last())
			}
			old := g.places[at-g.first : at-g.first+1]
			if old[0].seg != 0 && old[0].term != p.term {
				return fmt.Errorf("carried index %d has term %d, not %d", at, p.term, old[0].term)
			}
			l.releaseLocked(old)
			old[0] = p
			seg.live++
			seg.liveBytes += int64(p.size)
		}
	}
	g.partial = false
	return nil
}

// setAsideLocked makes a suspect of a group of l.groups, until it is removed.
func (l *Log) setAsideLocked(g *group, why *Suspect) {
	g.suspect = why
	l.suspects[g.number] = g
}

// forgetLocked removes a group and all that it holds.
func (l *Log) forgetLocked(g *group) {
	l.releaseLocked(g.places)
	l.trashLocked(g, g.chunks)
	l.dropCacheLocked(g, g.cache.last()+1)
	l.rebaseLocked(g, nil)
	g.places, g.chunks = nil, nil
	delete(l.groups, g.number)
	delete(l.suspects, g.number)
	delete(l.refused, g.number)
}

// rebaseLocked notes that seg has the frame that a recovery can start g from.
func (l *Log) rebaseLocked(g *group, seg *segment) {
	if s := l.segments[g.base]; s != nil {
		s.bases--
	}
	g.base = 0
	if seg != nil {
		seg.bases++
		g.base = seg.number
	}
}

// releaseLocked takes entries off the count of what their segments hold.
func (l *Log) releaseLocked(places []place) {
	var s *segment
	for i := range places {
		if places[i].seg == 0 {
			continue
		}
		if s == nil || s.number != uint64(places[i].seg) {
			s = l.segments[uint64(places[i].seg)]
		}
		if s != nil {
			s.live--
			s.liveBytes -= int64(places[i].size)
		}
	}
}

func (l *Log) trashLocked(g *group, chunks []chunk) {
	for i := range chunks {
		l.trash = append(l.trash, coldRange{group: g.number, first: chunks[i].first, last: chunks[i].last})
	}
}

func (g *group) state() GroupState {
	st := GroupState{Group: g.number, Meta: g.meta, Compacted: g.mark, LastIndex: g.last()}
	if g.hs.set {
		hs := g.hs
		st.HardState = &raftpb.HardState{Term: &hs.term, Vote: &hs.vote, Commit: &hs.commit}
	}
	return st
}
