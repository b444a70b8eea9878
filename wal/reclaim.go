package wal

import (
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
// An entry that is rotten, or that the disk goes on refusing when the segments hold too much, keeps no segment
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
	due, hot, pressing := l.due(victim)
	if !due {
		return false, nil
	}
	err = l.empty(victim, hot, full)
	var d *DamageError
	if pressing && errors.As(err, &d) {
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
// count: moving it frees nothing. With hot, what is needed of it stays in the hot tier. Pressing
// says that it must go: until then, what the disk refuses to read can wait where it is.
func (l *Log) due(victim *segment) (due, hot, pressing bool) {
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
	over := used > bound || int64(len(l.order)) > 16+2*bound/l.opts.SegmentSize
	return over || hot && (l.low || states*4 <= victim.end), hot, over || l.low
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
