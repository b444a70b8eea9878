package wal

import (
	"fmt"
	"io"
	"path"
)

// recovery reads the segments in order and rebuilds the index. The rules are
// in doc.go.
type recovery struct {
	l *Log

	seq     uint64 // of the last batch seen
	chain   uint32
	chained bool // chain is known

	// epoch counts the losses of which it is not known whose frames they
	// took. A group must be proven current in the last epoch.
	epoch   int
	loss    *DamageError // the last of them
	damages []*DamageError
	listed  bool // the oldest segment's head could be read: it lists all groups
	ceiling uint64
	unsure  bool // a frame with a ceiling may be lost

	buf  []byte
	tail tailBatch
}

// tailBatch is the last batch that was accepted: it may not be durable yet.
type tailBatch struct {
	seg *segment
	off int64
	len int64
}

// scan is the state of reading one segment.
type scan struct {
	seg  *segment
	data []byte
	last bool // nothing tells where the segment ends but itself
	bad  bool // some pages could not be read
}

func (r *recovery) report(d *DamageError) {
	r.damages = append(r.damages, d)
	r.l.logger.Error("wal: damage", "dir", r.l.dir, "file", d.File, "offset", d.Offset, "group", d.Group, "reason", d.Reason)
}

// lose notes that frames of unknown groups are gone.
func (r *recovery) lose(d *DamageError) {
	r.report(d)
	r.epoch++
	r.loss = d
	r.unsure = true
	r.chained = false
}

// headOf is a segment's head, if it could be read.
type headOf struct {
	segmentHead
	ok bool
}

func (r *recovery) run(numbers []uint64) error {
	l := r.l
	heads := make([]headOf, len(numbers))
	for i, n := range numbers {
		s, h, err := r.openSegment(n, i == len(numbers)-1)
		if err != nil {
			return err
		}
		heads[i] = h
		l.segments[n] = s
		l.order = append(l.order, s)
	}
	for i, s := range l.order {
		if i > 0 && numbers[i-1]+1 != s.number {
			r.lose(&DamageError{File: segmentName(numbers[i-1] + 1), Offset: -1, Reason: "segment is missing"})
		}
		end := int64(-1)
		if i+1 < len(numbers) && numbers[i+1] == s.number+1 && heads[i+1].ok {
			end = int64(heads[i+1].prevEnd)
		}
		if err := r.segment(s, heads[i], end, i == 0, i == len(numbers)-1); err != nil {
			return err
		}
	}
	r.buf = nil
	r.judge()
	if err := r.settleTail(); err != nil {
		return err
	}
	w := &l.writer
	w.seq, w.chain, w.nextNumber = r.seq, r.chain, 1
	if n := len(l.order); n > 0 {
		w.nextNumber, w.lastEnd = l.order[n-1].number+1, l.order[n-1].end
	}
	l.next = r.ceiling
	for n := range l.groups {
		l.next = max(l.next, n+1)
	}
	if r.unsure {
		l.next += 1 << 32
	}
	l.ceiling = l.next
	return nil
}

func (r *recovery) openSegment(n uint64, last bool) (*segment, headOf, error) {
	l := r.l
	s := &segment{number: n, name: segmentName(n), seed: segmentSeed(l.identity, n)}
	open := l.fs.Open
	if last {
		open = l.fs.OpenReadWrite
	}
	f, err := open(path.Join(l.dir, s.name))
	if err != nil {
		return nil, headOf{}, fmt.Errorf("wal: open segment: %w", err)
	}
	s.file = f
	s.refs.Store(1)
	if s.size, err = f.Size(); err != nil {
		_ = f.Close()
		return nil, headOf{}, fmt.Errorf("wal: size of %s: %w", s.name, err)
	}
	h, ok, err := readHead(f, s.name)
	if err != nil {
		_ = f.Close()
		return nil, headOf{}, err
	}
	ok = ok && h.number == n && h.identity == l.identity
	return s, headOf{h, ok}, nil
}

// segment reads one segment; end is where it ends, or -1.
func (r *recovery) segment(s *segment, h headOf, end int64, first, last bool) error {
	before := len(r.damages)
	defer func() { s.damaged = len(r.damages) > before }()
	sc := scan{seg: s, last: last}
	limit := s.size
	if end >= 0 {
		limit = min(end, s.size)
	}
	if err := r.read(&sc, limit); err != nil {
		return err
	}
	off := int64(align(headFixed + 4))
	if h.ok {
		off = int64(align(h.size))
		r.head(&h.segmentHead, s, first)
	} else {
		r.report(&DamageError{File: s.name, Offset: 0, Reason: "segment head is damaged"})
		r.chained, r.unsure = false, true
		if off = r.findBatch(&sc, off, 0); off < 0 {
			off = int64(len(sc.data))
			if last && !emptyBehindHead(sc.data) {
				r.lose(&DamageError{File: s.name, Offset: 0, Reason: "no batch is readable"})
			}
		}
	}
	s.end = r.batches(&sc, off)
	if end > s.end {
		r.lose(&DamageError{File: s.name, Offset: s.end, Reason: fmt.Sprintf("ends here, the next segment says it ended at %d", end)})
		s.end = end
	}
	return nil
}

// emptyBehindHead reports whether nothing was ever written behind a damaged
// head, if the head's length can be believed. Of a file that was used before it
// says no: then a loss is assumed. Such a segment is without a batch only for the
// moment between its making and the batch that it was made for.
func emptyBehindHead(data []byte) bool {
	if len(data) < headFixed {
		return false
	}
	size := int(le.Uint32(data[12:]))
	if size < headFixed || size > len(data) {
		return false
	}
	for _, b := range data[size:] {
		if b != 0 {
			return false
		}
	}
	return true
}

// head takes in what a segment's head says about what came before.
func (r *recovery) head(h *segmentHead, s *segment, first bool) {
	if first {
		r.listed = true
		r.seq = h.prevSeq
	} else if h.prevSeq != r.seq {
		r.lose(&DamageError{File: s.name, Offset: 0, Reason: fmt.Sprintf("batches %d to %d are lost", r.seq+1, h.prevSeq)})
		r.seq = max(r.seq, h.prevSeq)
	}
	r.ceiling = h.ceiling
	r.table(h.table, s.name, 0)
	r.chain, r.chained = h.chain, true
}

// table compares the frame counters with what was read.
func (r *recovery) table(t []tableEntry, file string, off int64) {
	l := r.l
	seen := make(map[uint64]struct{}, len(t))
	for _, e := range t {
		seen[e.group] = struct{}{}
		g := l.groups[e.group]
		if g == nil {
			g = newGroup(e.group)
			g.partial, g.counter = true, e.counter
			l.groups[e.group] = g
		}
		if e.suspect {
			r.suspect(g, "was set aside before", "", -1)
		}
		if g.counter != e.counter {
			r.suspect(g, fmt.Sprintf("has %d frames, should have %d", g.counter, e.counter), file, off)
			g.counter = max(g.counter, e.counter)
		}
		g.epoch = r.epoch
	}
	for n, g := range l.groups {
		if _, ok := seen[n]; !ok {
			l.forgetLocked(g) // its removal is what was lost
		}
	}
}

func (r *recovery) suspect(g *group, why, file string, off int64) {
	if g.suspect == nil {
		r.l.setAsideLocked(g, &Suspect{Group: g.number, Why: why, File: file, Offset: off})
		r.l.logger.Error("wal: group set aside", "dir", r.l.dir, "group", g.number, "why", why, "file", file, "offset", off)
	}
}

// judge sets aside every group that cannot be proven current.
func (r *recovery) judge() {
	l := r.l
	for _, g := range l.groups {
		if g.suspect == nil && g.epoch < r.epoch {
			r.suspect(g, "frames may be lost: "+r.loss.Reason, r.loss.File, r.loss.Offset)
		}
		if g.suspect == nil && g.partial {
			r.suspect(g, "no frame with its whole state is left", "", -1)
		}
		for i := range g.places {
			if g.suspect == nil && g.places[i].seg == 0 {
				r.suspect(g, fmt.Sprintf("entry %d is lost", g.first+uint64(i)), "", -1)
			}
		}
		if g.suspect == nil && g.hs.commit > g.last() {
			r.suspect(g, fmt.Sprintf("commit %d is beyond the last index %d", g.hs.commit, g.last()), "", -1)
		}
		if g.suspect != nil {
			l.releaseLocked(g.places)
			g.places = nil
		}
		g.pend = pendingState{}
	}
}

// settleTail makes the last batch durable: it may be in the page cache only,
// and after a failed sync the cache may call clean what is not on the disk.
// So its bytes are written again.
func (r *recovery) settleTail() error {
	t := r.tail
	if t.seg == nil {
		return nil
	}
	b := make([]byte, min(t.len, t.seg.size-t.off))
	if _, err := t.seg.file.ReadAt(b, t.off); err != nil && err != io.EOF {
		return fmt.Errorf("wal: read tail of %s: %w", t.seg.name, err)
	}
	if _, err := t.seg.file.WriteAt(b, t.off); err != nil {
		return fmt.Errorf("wal: write tail of %s again: %w", t.seg.name, err)
	}
	if err := t.seg.file.SyncData(); err != nil {
		return fmt.Errorf("wal: sync tail of %s: %w", t.seg.name, err)
	}
	return nil
}

// shrinkTail gives back what was preallocated behind the end of the segment
// that was the last one, once the next one's head says where that end is. A
// damaged segment stays as it is.
func (r *recovery) shrinkTail() {
	n := len(r.l.order)
	if n < 2 {
		return
	}
	s := r.l.order[n-2]
	if s.damaged || s.size <= s.end {
		return
	}
	if err := s.file.Truncate(s.end); err != nil {
		r.l.logger.Warn("wal: cannot shrink segment", "file", s.name, "error", err)
		return
	}
	s.size = s.end
}
