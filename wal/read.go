package wal

import (
	"sync"

	"go.etcd.io/raft/v3/raftpb"
)

const (
	scratchSize = 256 << 10
	// spanGap is how many bytes of other groups are read along rather than
	// paying for another read.
	spanGap = 16 << 10
)

var scratchPool = sync.Pool{New: func() any { b := make([]byte, scratchSize); return &b }}

// FirstIndex returns the first index that has an entry, or would have.
func (l *Log) FirstIndex(number uint64) (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	g, err := l.groupLocked(number)
	if err != nil {
		return 0, err
	}
	return g.mark.Index + 1, nil
}

// LastIndex returns the last index, or that of the compaction mark if there
// are no entries.
func (l *Log) LastIndex(number uint64) (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	g, err := l.groupLocked(number)
	if err != nil {
		return 0, err
	}
	return g.last(), nil
}

// Term returns the term of the entry at index, or the mark's: ErrCompacted
// below that, ErrUnavailable beyond the end. It reads memory only.
func (l *Log) Term(number, index uint64) (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	g, err := l.groupLocked(number)
	if err != nil {
		return 0, err
	}
	if term, ok := g.term(index); ok {
		return term, nil
	}
	return 0, g.outside(index)
}

func (g *group) outside(index uint64) error {
	if index <= g.mark.Index {
		return groupError(ErrCompacted, g.number, "index %d, compacted up to %d", index, g.mark.Index)
	}
	return groupError(ErrUnavailable, g.number, "index %d, the last is %d", index, g.last())
}

// Entries returns entries from lo up to hi (exclusive), fewer if they exceed
// maxBytes or where the cold store's part ends, at least one: ErrCompacted if lo was compacted away,
// ErrUnavailable if hi-1 is beyond the end, a *DamageError if one is not
// readable. The entries and their data are shared with the cache and must
// not be changed; the slice is the caller's. It may read a disk.
func (l *Log) Entries(number, lo, hi, maxBytes uint64) ([]*raftpb.Entry, error) {
	p, err := l.plan(number, lo, hi, maxBytes)
	if err != nil {
		return nil, err
	}
	defer p.release()
	if p.cold > 0 {
		return l.readCold(number, lo, p.cold, &p.budget)
	}
	l.count.cacheHits.Add(uint64(len(p.cached)))
	if len(p.places) == 0 {
		return p.cached, nil
	}
	entries, err := l.readHot(number, &p)
	if err != nil {
		return nil, err
	}
	return append(entries, p.cached...), nil
}

// readPlan says where a range of entries comes from: the cold store, or
// places, then the cache.
type readPlan struct {
	cold     uint64 // not 0: from the cold store, up to here
	budget   budget
	first    uint64 // index of places[0]
	places   []place
	segments []*segment // of each place; held
	cached   []*raftpb.Entry
}

// budget counts down the bytes that may still be returned.
type budget struct {
	left  uint64
	taken int
}

// take reports whether an entry of n bytes may be returned: the first always.
func (b *budget) take(n int) bool {
	if uint64(n) > b.left {
		if b.left = 0; b.taken > 0 {
			return false
		}
	} else {
		b.left -= uint64(n)
	}
	b.taken++
	return true
}

func (p *readPlan) release() {
	var last *segment
	for _, s := range p.segments {
		if s != last {
			_ = s.release()
			last = s
		}
	}
}

func (l *Log) plan(number, lo, hi, maxBytes uint64) (readPlan, error) {
	p := readPlan{budget: budget{left: maxBytes}}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return p, ErrClosed
	}
	g, err := l.groupLocked(number)
	if err != nil {
		return p, err
	}
	if lo <= g.mark.Index {
		return p, g.outside(lo)
	}
	if hi > g.last()+1 {
		return p, g.outside(hi - 1)
	}
	if lo >= hi {
		return p, nil
	}
	at := lo
	cached := g.cache.first()
	if at < g.first && (cached == 0 || at < cached) {
		// A read that starts cold ends there: the caller comes again for the rest.
		p.cold = min(hi, g.first)
		return p, nil
	}
	p.first = at
	for ; at < hi && (cached == 0 || at < cached); at++ {
		pl := g.places[at-g.first]
		if !p.budget.take(placeSize(pl)) {
			return p, nil
		}
		s := l.segments[uint64(pl.seg)]
		if n := len(p.segments); n == 0 || p.segments[n-1] != s {
			s.acquire()
		}
		p.places = append(p.places, pl)
		p.segments = append(p.segments, s)
	}
	from := at
	for ; at < hi; at++ {
		if !p.budget.take(entrySize(g.cache.entries[at-cached])) {
			break
		}
	}
	if at > from {
		p.cached = append([]*raftpb.Entry(nil), g.cache.entries[from-cached:at-cached]...)
	}
	return p, nil
}

// placeSize is the entrySize of the entry whose record is there.
func placeSize(p place) int {
	return int(p.size) - recordHeader - 1 - uvarintLen(p.term) + entryOverhead
}

// readHot reads the planned places: neighbours in one read, the data of all
// of them in one slab.
func (l *Log) readHot(number uint64, p *readPlan) ([]*raftpb.Entry, error) {
	total := 0
	for _, pl := range p.places {
		total += int(pl.size)
	}
	slab := make([]byte, 0, total)
	slots := make([]entrySlot, len(p.places))
	dst := make([]*raftpb.Entry, 0, len(p.places)+len(p.cached))
	scratch := scratchPool.Get().(*[]byte)
	defer scratchPool.Put(scratch)
	for i := 0; i < len(p.places); {
		n := p.span(i)
		from := int64(p.places[i].off)
		end := int64(p.places[i+n-1].off) + int64(p.places[i+n-1].size)
		b := *scratch
		if end-from > int64(len(b)) {
			b = make([]byte, end-from)
		}
		b = b[:end-from]
		if _, err := p.segments[i].file.ReadAt(b, from); err != nil {
			return nil, p.damage(number, i, "cannot read", err)
		}
		for ; n > 0; n-- {
			pl := p.places[i]
			rec := b[int64(pl.off)-from:][:pl.size]
			index := p.first + uint64(i)
			typ, term, data, ok := verifyRecord(rec, number, index)
			if !ok || term != pl.term {
				return nil, p.damage(number, i, "entry does not match its checksum", nil)
			}
			if data != nil {
				start := len(slab)
				slab = append(slab, data...)
				data = slab[start:len(slab):len(slab)]
			}
			dst = append(dst, slots[i].fill(index, term, typ, data))
			i++
		}
	}
	l.count.diskReads.Add(uint64(len(p.places)))
	return dst, nil
}

// span returns how many places from i on are read at once.
func (p *readPlan) span(i int) int {
	n := 1
	first := p.places[i]
	end := first.off + first.size
	for i+n < len(p.places) {
		next := p.places[i+n]
		if next.seg != first.seg || next.off < end || next.off-end > spanGap ||
			uint64(next.off)+uint64(next.size)-uint64(first.off) > scratchSize {
			break
		}
		end = next.off + next.size
		n++
	}
	return n
}

func (p *readPlan) damage(number uint64, i int, reason string, err error) error {
	return &DamageError{
		Group: number, Index: p.first + uint64(i), File: p.segments[i].name, Offset: int64(p.places[i].off),
		Reason: reason, Err: err,
	}
}
