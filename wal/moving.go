package wal

import (
	"bytes"
	"cmp"
	"errors"
	"slices"
)

// moveJob is what one step does for one group.
type moveJob struct {
	group   uint64
	cold    []movingRecord // for the cold store, without a gap
	hot     []movingRecord // for the newest segment
	chunk   chunk          // what cold makes; empty if last is 0
	records []ColdRecord
	err     error // why nothing of it moves
}

// movingRecord is an entry's record that moves to another place.
type movingRecord struct {
	index   uint64
	place   place
	segment *segment // of the place; nobody closes it meanwhile, since that takes reclaimMu
	bytes   []byte
}

// planMove lists groups that need the victim, with the records that go to the
// cold store, and those that go to the newest segment, up to a step's worth. They are
// read here, since the committer waits for what carry does. The error tells of groups
// that are left out.
func (l *Log) planMove(victim *segment, hot bool) (jobs []moveJob, err error) {
	l.mu.RLock()
	numbers := make([]uint64, 0, len(l.groups))
	for n := range l.groups {
		numbers = append(numbers, n)
	}
	live := victim.live // none is added to it
	l.mu.RUnlock()
	slices.Sort(numbers)
	cold, carried := 0, 0
	for _, n := range numbers {
		if cold >= coldStep || carried >= carryStep {
			break
		}
		job, toCold, toHot := l.planGroup(n, victim, hot, coldStep-cold, carryStep-carried, &live)
		if toHot > 0 {
			cold, carried = cold+toCold, carried+toHot
			jobs = append(jobs, job)
		}
	}
	l.readMoving(jobs, victim)
	jobs = slices.DeleteFunc(jobs, func(job moveJob) bool {
		err = errors.Join(err, job.err)
		return job.err != nil
	})
	for i := range jobs {
		jobs[i].makeChunk()
	}
	return jobs, err
}

// planGroup finds what a group has in the victim: the committed
// entries that must go cold (the victim's, and those before them, because the
// cold range has no gaps; none with hot), and the others, up to about coldRoom and
// hotRoom bytes; and how much that is, with the state. toHot is 0 if the group does not need the
// victim. live is how many entries in the victim were not found yet in other groups.
func (l *Log) planGroup(number uint64, victim *segment, hot bool, coldRoom, hotRoom int, live *int) (job moveJob, toCold, toHot int) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	g := l.groups[number]
	if g == nil {
		return job, 0, 0
	}
	job.group = number
	top, needed := uint64(0), g.base == victim.number
	for i := 0; i < len(g.places) && *live > 0; i++ {
		at, pl := g.first+uint64(i), g.places[i]
		if uint64(pl.seg) != victim.number {
			continue
		}
		*live--
		needed = true
		if at <= g.committed() && !hot {
			top = at
		} else if toHot < hotRoom {
			toHot += int(pl.size)
			job.hot = append(job.hot, movingRecord{index: at, place: pl, segment: victim})
		}
	}
	if !needed {
		return job, 0, 0
	}
	for at := g.first; at <= top && toCold < coldRoom; at++ {
		pl := g.places[at-g.first]
		toCold += int(pl.size)
		job.cold = append(job.cold, movingRecord{index: at, place: pl, segment: l.segments[uint64(pl.seg)]})
	}
	return job, toCold, toHot + stateSize(g)
}

// makeChunk makes of the records that go cold what the store and the manifest get.
func (job *moveJob) makeChunk() {
	n := len(job.cold)
	if n == 0 {
		return
	}
	k := chunk{first: job.cold[0].index, last: job.cold[n-1].index}
	job.records = make([]ColdRecord, n)
	for i := range job.cold {
		r := &job.cold[i]
		k.add(r.index, r.place.term, r.bytes)
		job.records[i] = ColdRecord{Key: ColdKey{job.group, r.index}, Bytes: r.bytes}
	}
	job.chunk, job.cold = k, nil
}

// readMoving reads and verifies the records of all jobs, or says in a job why it cannot.
// Those that stand near each other are read at once, whatever their groups: what is in a
// segment is hardly in the page cache, and 10,000 small entries one by one would take a second
// of a fast disk, for which Close would wait.
func (l *Log) readMoving(jobs []moveJob, victim *segment) {
	type item struct {
		job *moveJob
		*movingRecord
	}
	var items []item
	for i := range jobs {
		for _, list := range [][]movingRecord{jobs[i].cold, jobs[i].hot} {
			for k := range list {
				items = append(items, item{&jobs[i], &list[k]})
			}
		}
	}
	slices.SortFunc(items, func(a, b item) int {
		return cmp.Or(cmp.Compare(a.place.seg, b.place.seg), cmp.Compare(a.place.off, b.place.off))
	})
	scratch := scratchPool.Get().(*[]byte)
	defer scratchPool.Put(scratch)
	for len(items) > 0 {
		first := items[0].place
		n, end, size := 0, first.off, 0
		for _, it := range items {
			pl := it.place
			if n > 0 && (pl.seg != first.seg || pl.off < end || pl.off-end > spanGap || pl.off-first.off+pl.size > scratchSize) {
				break
			}
			n, end, size = n+1, pl.off+pl.size, size+int(pl.size)
		}
		var b, slab []byte
		if n > 1 { // one alone is read below
			b, slab = (*scratch)[:end-first.off], make([]byte, 0, size)
			if _, err := items[0].segment.file.ReadAt(b, int64(first.off)); err != nil {
				b = nil
			}
		}
		for _, it := range items[:n] {
			if b != nil {
				rec := b[it.place.off-first.off:][:it.place.size]
				if _, term, _, ok := verifyRecord(rec, it.job.group, it.index); ok && term == it.place.term {
					slab = append(slab, rec...)
					it.bytes = slab[len(slab)-len(rec) : len(slab) : len(slab)]
					continue
				}
			}
			if it.job.err == nil {
				it.bytes, it.job.err = l.moved(it.job.group, it.movingRecord, victim)
			}
		}
		items = items[n:]
	}
}

// maxRefusals is how often the disk may refuse an entry of a segment that must be
// freed before it is taken for lost. There is an attempt with each new segment.
const maxRefusals = 3

// moved returns the record of an entry as it moves out of its segment, so that the
// victim is freed: what is read there if it verifies, and else a lost record, after
// which the segment's file is kept under another name. The error is that of a disk which
// may give it yet. The caller holds reclaimMu.
func (l *Log) moved(number uint64, r *movingRecord, victim *segment) ([]byte, error) {
	s, pl := r.segment, r.place
	d := &DamageError{Group: number, Index: r.index, File: s.name, Offset: int64(pl.off), Reason: "entry does not match its checksum"}
	b := make([]byte, pl.size)
	if _, err := s.file.ReadAt(b, int64(pl.off)); err != nil {
		d.Reason, d.Err = "cannot read", err
		if victim.refusals < maxRefusals {
			return nil, d
		}
	} else if _, term, _, ok := verifyRecord(b, number, r.index); ok && term == pl.term {
		return b, nil
	}
	lost := lostRecord(number, r.index, pl.term)
	if !bytes.Equal(b, lost) { // and not the trace of an earlier loss
		l.mu.Lock()
		s.damaged = true
		l.mu.Unlock()
		l.count.lost.Add(1)
		l.logger.Error("wal: entry is lost, its segment is freed without it", "dir", l.dir, "error", d)
	}
	return lost, nil
}
