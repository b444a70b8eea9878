package wal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"path"
	"slices"
)

const (
	// A step of Reclaim moves about this much, so that it ends soon and holds
	// up a commit for one batch at most.
	coldStep  = 4 << 20
	carryStep = 1 << 20
	// chunkBytes is how large a chunk may get by growing; what is compacted
	// is deleted from the cold store chunk by chunk.
	chunkBytes = 64 << 20
	// coldMargin is free space that Badger needs beyond the reserve for its
	// memory-mapped files: a full disk under one kills the process.
	coldMargin = 4 * coldMemtable
)

// Reclaim does one bounded step towards freeing the oldest segment, if one is
// due: it removes the segment if nothing in it is needed, or else moves some
// of what is: committed entries to the cold store, the rest to the newest
// segment. More says that another step is worth while. It may run beside
// Flush; calls for it wait for each other. Errors: ErrFailed, ErrClosed,
// ErrDiskFull (no room for the cold store), a *DamageError (what should move
// is not readable; its segment stays until the group is removed), or those
// of the cold store.
//
// Order: cold store synced, then the manifest frame synced, then a batch
// behind it, then the segment removed, oldest first, then the directory synced.
func (l *Log) Reclaim() (more bool, err error) {
	l.reclaimMu.Lock()
	defer l.reclaimMu.Unlock()
	l.mu.RLock()
	err = l.usableLocked()
	var victim *segment
	if n := len(l.order); err == nil && n > 1 {
		victim = l.order[0]
	}
	dead := victim != nil && victim.live == 0 && victim.bases == 0
	l.mu.RUnlock()
	if err != nil {
		return false, err
	}
	if err := l.emptyTrash(); err != nil {
		return false, err
	}
	if victim == nil {
		return false, nil
	}
	if dead {
		return true, l.removeSegment(victim)
	}
	if !l.due(victim) {
		return false, nil
	}
	jobs, err := l.planMove(victim)
	if err != nil && len(jobs) == 0 {
		return false, err
	}
	if e := l.putCold(jobs); e != nil {
		return false, e
	}
	if e := l.carry(victim, jobs); e != nil {
		return false, e
	}
	return err == nil, err
}

// due decides whether the oldest segment is worth emptying: if all its
// entries are dead and little else is in it, or if the segments hold too
// much. What cannot leave the segments does not count: moving it frees nothing.
func (l *Log) due(victim *segment) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var used, stuck, states int64
	for _, s := range l.order[:len(l.order)-1] {
		used += s.end
	}
	for _, g := range l.groups {
		n := int64(stateSize(g))
		stuck += n
		if g.base == victim.number {
			states += n
		}
		for i := len(g.places) - 1; i >= 0 && g.first+uint64(i) > g.committed(); i-- {
			stuck += int64(g.places[i].size)
		}
	}
	if victim.live == 0 && (l.low || states*4 <= victim.end) {
		return true
	}
	bound := l.opts.HotBytes + 2*stuck
	return used > bound || int64(len(l.order)) > 16+2*bound/l.opts.SegmentSize
}

// stateSize is an upper bound of a group's state frame without entries.
func stateSize(g *group) int {
	n := frameHeaderSize + 128 + len(g.meta)
	if g.suspect != nil {
		n += len(g.suspect.Why) + 10
	}
	for i := range g.chunks {
		n += chunkSize(&g.chunks[i])
	}
	return n
}

// moveJob is what one step does for one group.
type moveJob struct {
	group   uint64
	chunk   chunk // entries for the cold store; empty if last is 0
	records []ColdRecord
}

// planMove lists groups that need the victim, with the records that go to the
// cold store, up to a step's worth.
func (l *Log) planMove(victim *segment) (jobs []moveJob, err error) {
	l.mu.RLock()
	numbers := make([]uint64, 0, len(l.groups))
	for n := range l.groups {
		numbers = append(numbers, n)
	}
	l.mu.RUnlock()
	slices.Sort(numbers)
	cold, carried := 0, 0
	for _, n := range numbers {
		if cold >= coldStep || carried >= carryStep {
			break
		}
		p, size, needed := l.planGroup(n, victim, coldStep-cold)
		if !needed {
			continue
		}
		job := moveJob{group: n}
		if len(p.places) > 0 {
			e := l.readChunk(&job, &p)
			p.release()
			if e != nil {
				err = errors.Join(err, e)
				continue
			}
			cold += int(job.chunk.bytes)
		}
		carried += size
		jobs = append(jobs, job)
	}
	return jobs, err
}

// planGroup finds what a group has in the victim: places of the committed
// entries that must go cold (the victim's, and those before them, because the
// cold range has no gaps), and about how much is carried.
func (l *Log) planGroup(number uint64, victim *segment, limit int) (p readPlan, size int, needed bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	g := l.groups[number]
	if g == nil {
		return p, 0, false
	}
	top, tail := uint64(0), false
	for i := range g.places {
		if uint64(g.places[i].seg) != victim.number {
			continue
		}
		if at := g.first + uint64(i); at <= g.committed() {
			top = at
		} else {
			size += int(g.places[i].size)
			tail = true
		}
	}
	if top == 0 && !tail && g.base != victim.number {
		return p, 0, false
	}
	size += stateSize(g)
	p.first = g.first
	for at, total := g.first, 0; at <= top && total < limit; at++ {
		pl := g.places[at-g.first]
		s := l.segments[uint64(pl.seg)]
		if n := len(p.segments); n == 0 || p.segments[n-1] != s {
			s.acquire()
		}
		p.places = append(p.places, pl)
		p.segments = append(p.segments, s)
		total += int(pl.size)
	}
	return p, size, true
}

// readChunk reads and verifies the planned records.
func (l *Log) readChunk(job *moveJob, p *readPlan) error {
	k := chunk{first: p.first, last: p.first + uint64(len(p.places)) - 1}
	for i, pl := range p.places {
		b := make([]byte, pl.size)
		index := p.first + uint64(i)
		if _, err := p.segments[i].file.ReadAt(b, int64(pl.off)); err != nil {
			return p.damage(job.group, i, "cannot read", err)
		}
		if _, term, _, ok := verifyRecord(b, job.group, index); !ok || term != pl.term {
			return p.damage(job.group, i, "entry does not match its checksum", nil)
		}
		k.add(index, pl.term, b)
		job.records = append(job.records, ColdRecord{Key: ColdKey{job.group, index}, Bytes: b})
	}
	job.chunk = k
	return nil
}

func (k *chunk) add(index, term uint64, record []byte) {
	if n := len(k.terms); n == 0 || k.terms[n-1].term != term {
		k.terms = append(k.terms, termRun{first: index, term: term})
	}
	k.sum = chainRecord(k.sum, recordSum(record))
	k.bytes += uint64(len(record))
}

func chainRecord(sum, record uint32) uint32 {
	var b [4]byte
	le.PutUint32(b[:], record)
	return crc32.Update(sum, castagnoli, b[:])
}

// putCold makes the records durable in the cold store.
func (l *Log) putCold(jobs []moveJob) error {
	var records []ColdRecord
	size := uint64(0)
	for i := range jobs {
		records = append(records, jobs[i].records...)
		size += jobs[i].chunk.bytes
	}
	if len(records) == 0 {
		return nil
	}
	if err := l.coldRoom(size); err != nil {
		return err
	}
	store, err := l.coldWriter()
	if err != nil {
		return err
	}
	if err := l.sweep(store); err != nil {
		return err
	}
	if err = store.Put(records); err == nil {
		err = store.Sync()
	}
	if err != nil {
		return l.cold.fail(err)
	}
	return nil
}

// coldRoom checks that there is room for a write to the cold store.
func (l *Log) coldRoom(size uint64) error {
	free, err := l.fs.Free(l.dir)
	if err != nil {
		return fmt.Errorf("wal: free space of %s: %w", l.dir, err)
	}
	need := l.opts.ReserveBytes + 4*size
	if l.opts.Cold == nil {
		need += coldMargin
	}
	if free < need {
		return fmt.Errorf("%w: the cold store needs %d bytes, %d are free", ErrDiskFull, need, free)
	}
	return nil
}

// carry writes the state frames of the jobs' groups, with the new manifest
// and the uncommitted entries that the victim still holds.
func (l *Log) carry(victim *segment, jobs []moveJob) error {
	l.flushMu.Lock()
	defer l.flushMu.Unlock()
	w := &l.writer
	size, room := 0, carryStep
	var frames []stateFrame
	for i := range jobs {
		f, ok, err := l.stateOf(&jobs[i], victim, &room)
		if err != nil {
			return err
		}
		if ok {
			frames = append(frames, f)
			size += f.size
		}
	}
	if len(frames) == 0 {
		return nil
	}
	if err := l.beginLocked(size); err != nil {
		return err
	}
	moved := uint64(0)
	for i := range frames {
		f := &frames[i]
		f.change.counter = f.group.counter + 1
		start := w.openFrame()
		w.buf = appendState(w.buf, &f.change, f.runs, w.position())
		w.closeFrame(start, frameHeader{
			typ: frameState, flags: f.change.flags, group: f.change.group, counter: f.change.counter,
		})
		w.add(f.change, f.group, [2]int{})
		moved += f.moved
	}
	if err := l.writeLocked(0); err != nil {
		return err
	}
	l.count.coldMoved.Add(moved)
	l.count.carried.Add(uint64(len(frames)))
	return nil
}

// stateFrame is a state frame to be written.
type stateFrame struct {
	group  *group
	change change
	runs   []rawRun
	size   int
	moved  uint64
}

// stateOf makes a group's state frame as of now; nobody else writes frames
// meanwhile. ok is false if the group does not need the victim any more.
func (l *Log) stateOf(job *moveJob, victim *segment, room *int) (f stateFrame, ok bool, err error) {
	l.mu.RLock()
	g := l.groups[job.group]
	if g == nil {
		l.mu.RUnlock()
		l.giveUp(job)
		return f, false, nil
	}
	c := change{typ: frameState, group: g.number, mark: g.mark, hs: g.hs, last: g.last(), meta: g.meta}
	if g.hs.set {
		c.flags |= flagHardState
	}
	if g.meta != nil {
		c.flags |= flagMeta
	}
	if g.suspect != nil {
		c.flags |= flagSuspect
		c.reason = g.suspect.Why
	}
	c.chunks = slices.Clone(g.chunks)
	stale := false
	if k := job.chunk; k.last != 0 {
		if g.first == k.first && k.last <= min(g.last(), g.committed()) {
			c.chunks = addChunk(c.chunks, k, job.records)
			f.moved = k.last - k.first + 1
		} else {
			stale = true // compacted meanwhile
		}
	}
	f.group, f.change, f.size = g, c, stateSize(g)+chunkSize(&job.chunk)
	p := planTail(g, victim, room)
	for _, s := range p.segments {
		s.acquire()
	}
	l.mu.RUnlock()
	if stale {
		l.giveUp(job)
	}
	defer func() {
		for _, s := range p.segments {
			_ = s.release()
		}
	}()
	f.runs, err = p.read(g.number, &f.size)
	return f, true, err
}

// addChunk adds a chunk to a manifest: to the last one, if that is small.
func addChunk(chunks []chunk, k chunk, records []ColdRecord) []chunk {
	n := len(chunks)
	if n == 0 || chunks[n-1].last+1 != k.first || chunks[n-1].bytes+k.bytes > chunkBytes {
		return append(chunks, k)
	}
	last := chunks[n-1]
	last.last, last.bytes = k.last, last.bytes+k.bytes
	for i := range records {
		last.sum = chainRecord(last.sum, recordSum(records[i].Bytes))
	}
	last.terms = slices.Clone(last.terms)
	for _, t := range k.terms {
		if last.terms[len(last.terms)-1].term != t.term {
			last.terms = append(last.terms, t)
		}
	}
	chunks[n-1] = last
	return chunks
}

// tailPlan lists uncommitted entries in the victim.
type tailPlan struct {
	index    []uint64
	places   []place
	segments []*segment
}

func planTail(g *group, victim *segment, room *int) (p tailPlan) {
	for i := range g.places {
		at, pl := g.first+uint64(i), g.places[i]
		if uint64(pl.seg) != victim.number || at <= g.committed() {
			continue
		}
		if *room <= 0 {
			break
		}
		*room -= int(pl.size)
		p.index = append(p.index, at)
		p.places = append(p.places, pl)
		p.segments = append(p.segments, victim)
	}
	return p
}

// read reads and verifies the entries, as runs, and adds to size what they take.
func (p *tailPlan) read(number uint64, size *int) (runs []rawRun, err error) {
	for i, pl := range p.places {
		b := make([]byte, pl.size)
		d := DamageError{Group: number, Index: p.index[i], File: p.segments[i].name, Offset: int64(pl.off)}
		if _, err := p.segments[i].file.ReadAt(b, int64(pl.off)); err != nil {
			d.Reason, d.Err = "cannot read", err
			return nil, &d
		}
		if _, term, _, ok := verifyRecord(b, number, p.index[i]); !ok || term != pl.term {
			d.Reason = "entry does not match its checksum"
			return nil, &d
		}
		n := len(runs)
		if n == 0 || runs[n-1].first+uint64(len(runs[n-1].records)) != p.index[i] {
			runs = append(runs, rawRun{first: p.index[i]})
			*size += 20
			n++
		}
		r := &runs[n-1]
		r.records, r.terms = append(r.records, b), append(r.terms, pl.term)
		*size += len(b)
	}
	return runs, nil
}

// giveUp has records deleted that went to the cold store in vain.
func (l *Log) giveUp(job *moveJob) {
	if job.chunk.last == 0 {
		return
	}
	l.mu.Lock()
	l.trash = append(l.trash, coldRange{job.group, job.chunk.first, job.chunk.last})
	l.mu.Unlock()
}

// removeSegment removes the oldest segment, which nobody needs. One with
// damage in it is kept under another name.
func (l *Log) removeSegment(s *segment) error {
	l.flushMu.Lock()
	defer l.flushMu.Unlock()
	// What was carried out of the segment must not stand in the last batch,
	// where damage would pass for a tear.
	if err := l.sealLocked(false); err != nil {
		return err
	}
	name := path.Join(l.dir, s.name)
	var err error
	if s.damaged {
		err = l.fs.Rename(name, name+".damaged")
	} else {
		err = l.fs.Remove(name)
	}
	if err != nil {
		return fmt.Errorf("wal: remove %s: %w", s.name, err)
	}
	if err := l.fs.SyncDir(l.dir); err != nil {
		return l.fail("sync directory", err)
	}
	l.mu.Lock()
	l.order = slices.Delete(l.order, 0, 1)
	delete(l.segments, s.number)
	l.mu.Unlock()
	l.count.freed.Add(1)
	return s.release()
}

// emptyTrash deletes from the cold store what the manifest has given up. It
// waits when space is low: deleting writes.
func (l *Log) emptyTrash() error {
	l.mu.Lock()
	trash := l.trash
	l.trash = nil
	l.mu.Unlock()
	if len(trash) == 0 {
		return nil
	}
	err := l.deleteCold(trash)
	if err != nil {
		l.mu.Lock()
		l.trash = append(trash, l.trash...)
		l.mu.Unlock()
		if errors.Is(err, ErrDiskFull) {
			return nil
		}
	}
	return err
}

func (l *Log) deleteCold(trash []coldRange) error {
	if err := l.coldRoom(0); err != nil {
		return err
	}
	store, err := l.coldWriter()
	if err != nil {
		return err
	}
	if err := l.sweep(store); err != nil {
		return err
	}
	for _, t := range trash {
		if err := store.Delete(ColdKey{t.group, t.first}, ColdKey{t.group, t.last + 1}); err != nil {
			return l.cold.fail(err)
		}
	}
	if err := store.Sync(); err != nil {
		return l.cold.fail(err)
	}
	return nil
}

// sweep deletes, once in a life, what no manifest names: an earlier life may
// have ended before it did.
func (l *Log) sweep(store ColdStore) error {
	if l.cold.swept {
		return nil
	}
	l.mu.RLock()
	var live []coldRange
	for _, g := range l.groups {
		if g.suspect != nil {
			live = append(live, coldRange{g.number, 0, 1<<64 - 2}) // its manifest may be lost
			continue
		}
		for _, k := range g.chunks {
			live = append(live, coldRange{g.number, k.first, k.last})
		}
	}
	l.mu.RUnlock()
	slices.SortFunc(live, func(a, b coldRange) int {
		return compareColdKeys(ColdKey{a.group, a.first}, ColdKey{b.group, b.first})
	})
	from := ColdKey{}
	for _, k := range live {
		if to := (ColdKey{k.group, k.first}); from != to {
			if err := store.Delete(from, to); err != nil {
				return l.cold.fail(err)
			}
		}
		from = ColdKey{k.group, k.last + 1}
	}
	if err := store.Delete(from, ColdKey{Group: 1<<64 - 1, Index: 1<<64 - 1}); err != nil {
		return l.cold.fail(err)
	}
	l.cold.swept = true
	return nil
}
