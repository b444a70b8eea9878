package wal

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
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
// due: it removes the segment if nothing in it is needed (its file may be kept for a new
// segment, as long as all of them stay within HotBytes), or else moves some
// of what is: committed entries to the cold store, the rest to the newest
// segment. More says that another step is worth while. It may run beside
// Flush; calls for it wait for each other. Errors: ErrFailed, ErrClosed,
// ErrDiskFull (no room for the cold store), a *DamageError (the disk does not
// give what should move: its segment stays for now), or those of the cold store.
//
// An entry that is rotten, or that the disk goes on refusing, keeps no segment
// from being freed, since those behind it could not be freed either: a lost
// record takes its place (see moved), and whoever reads it hears of the damage.
//
// Order: cold store synced, then the manifest frame synced, then a batch
// behind it, then the segment removed, oldest first, then the directory synced.
func (l *Log) Reclaim() (more bool, err error) {
	l.reclaimMu.Lock()
	defer l.reclaimMu.Unlock()
	l.yieldSpares()
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
	// Nothing new goes cold before the trash is out: a range in it that was
	// put in vain may be put again.
	full := l.emptyTrash()
	if full != nil && !errors.Is(full, ErrDiskFull) {
		return false, full
	}
	if victim == nil {
		return false, nil
	}
	if dead {
		return true, l.removeSegment(victim)
	}
	due, hot := l.due(victim)
	if !due {
		return false, nil
	}
	err = l.empty(victim, hot, full)
	var d *DamageError
	if errors.As(err, &d) {
		victim.refusals++
	}
	return err == nil, err
}

// empty moves some of what is needed of the victim; with hot, all of it into the newest
// segment. full, if not nil, says that there is no room for the cold store.
func (l *Log) empty(victim *segment, hot bool, full error) error {
	jobs, err := l.planMove(victim, hot)
	if err != nil && len(jobs) == 0 {
		return err
	}
	if err := l.putCold(jobs, full); err != nil {
		return err
	}
	return cmp.Or(l.carry(jobs), err)
}

// maxRefusals is how often the disk may refuse an entry of a segment that is to be
// freed before it is taken for lost. There is an attempt with each new segment.
const maxRefusals = 3

// moved returns the record of an entry as it moves out of segment s, so that the
// victim is freed: what is read there if it verifies, and else a lost record, after
// which the file of s is kept under another name. The error is that of a disk which
// may give it yet. The caller holds reclaimMu.
func (l *Log) moved(number, index uint64, pl place, s, victim *segment) ([]byte, error) {
	d := &DamageError{Group: number, Index: index, File: s.name, Offset: int64(pl.off), Reason: "entry does not match its checksum"}
	b := make([]byte, pl.size)
	if _, err := s.file.ReadAt(b, int64(pl.off)); err != nil {
		d.Reason, d.Err = "cannot read", err
		if victim.refusals < maxRefusals {
			return nil, d
		}
	} else if _, term, _, ok := verifyRecord(b, number, index); ok && term == pl.term {
		return b, nil
	}
	lost := lostRecord(number, index, pl.term)
	if !bytes.Equal(b, lost) { // and not the trace of an earlier loss
		l.mu.Lock()
		s.damaged = true
		l.mu.Unlock()
		l.count.lost.Add(1)
		l.logger.Error("wal: entry is lost, its segment is freed without it", "dir", l.dir, "error", d)
	}
	return lost, nil
}

// littleLive reports whether so little in the segment is needed that writing it once
// more, at the end of the log, costs next to nothing beside the room that it frees: a
// sixteenth, and one batch. The few entries of quiet groups would else pin segments
// of busy ones until the segments hold HotBytes, with new files all the while, where
// used ones take twice as much a second (see spare); and would open a cold store that
// nothing else needs. This is the cleaning policy of log-structured file
// systems (Rosenblum and Ousterhout, 1992, section 3.4), with a bound for the cost.
func (s *segment) littleLive() bool {
	return s.liveBytes <= min(carryStep, s.size/16)
}

// due decides whether the oldest segment is worth emptying: if hardly anything
// in it is needed, or if the segments hold too much. What cannot leave the segments does not
// count: moving it frees nothing. With hot, what is needed of it stays in the hot tier.
func (l *Log) due(victim *segment) (due, hot bool) {
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
	hot = victim.littleLive()
	bound := l.opts.HotBytes + 2*stuck
	due = hot && (l.low || states*4 <= victim.end) || used > bound || int64(len(l.order)) > 16+2*bound/l.opts.SegmentSize
	return due, hot
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
	hot     []hotRecord
}

// planMove lists groups that need the victim, with the records that go to the
// cold store, and those that go to the newest segment, up to a step's worth. They are
// read here, since the committer waits for what carry does.
func (l *Log) planMove(victim *segment, hot bool) (jobs []moveJob, err error) {
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
		p, size, needed := l.planGroup(n, victim, hot, coldStep-cold)
		if !needed {
			continue
		}
		job := moveJob{group: n}
		if e := l.readStaying(&job, victim, hot, carryStep-carried); e != nil {
			err = errors.Join(err, e)
			continue
		}
		if len(p.places) > 0 {
			e := l.readChunk(&job, &p, victim)
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
// cold range has no gaps; none with hot), and about how much is carried.
func (l *Log) planGroup(number uint64, victim *segment, hot bool, limit int) (p readPlan, size int, needed bool) {
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
		if at := g.first + uint64(i); at <= g.committed() && !hot {
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
func (l *Log) readChunk(job *moveJob, p *readPlan, victim *segment) error {
	k := chunk{first: p.first, last: p.first + uint64(len(p.places)) - 1}
	for i, pl := range p.places {
		index := p.first + uint64(i)
		b, err := l.moved(job.group, index, pl, p.segments[i], victim)
		if err != nil {
			return err
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

// removeSegment removes the oldest segment, which nobody needs. One with
// damage in it is kept under another name.
func (l *Log) removeSegment(s *segment) error {
	// What was carried out of the segment must not stand in the last batch,
	// where damage would pass for a tear. Batches that come meanwhile do no harm.
	if err := l.Seal(); err != nil {
		return err
	}
	name := path.Join(l.dir, s.name)
	spare := !s.damaged && l.wantsSpare(s)
	var err error
	switch {
	case s.damaged:
		err = l.fs.Rename(name, name+".damaged")
	case spare:
		err = l.fs.Rename(name, spareName(name))
	default:
		err = l.fs.Remove(name)
	}
	// One that is gone already must not keep those behind it.
	if spare = spare && err == nil; err != nil && !errors.Is(err, fs.ErrNotExist) {
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
	if spare {
		// Not before the directory is synced: a segment that came back after a crash
		// must not have been written over.
		l.addSpare(s, spareName(name))
	}
	return s.release()
}
