package wal

import (
	"errors"
	"slices"
)

// carry writes the state frames of the jobs' groups, with the new manifest
// and the uncommitted entries that the victim still holds.
func (l *Log) carry(victim *segment, jobs []moveJob) error {
	l.flushMu.Lock()
	defer l.flushMu.Unlock()
	w := &l.writer
	size, room := 0, carryStep
	var frames []stateFrame
	var damage error // of some groups; the others go on
	for i := range jobs {
		f, ok, err := l.stateOf(&jobs[i], victim, &room)
		damage = errors.Join(damage, err)
		if err != nil {
			l.giveUp(&jobs[i])
		}
		if ok && err == nil {
			frames = append(frames, f)
			size += f.size
		}
	}
	if len(frames) == 0 {
		return damage
	}
	if err := l.beginLocked(size); err != nil {
		for i := range jobs {
			l.giveUp(&jobs[i])
		}
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
	l.run.wake() // to seal
	return damage
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
	l.mu.RUnlock()
	if stale {
		l.giveUp(job)
	}
	f.runs, err = l.readTail(&p, g.number, victim, &f.size)
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
	index  []uint64
	places []place
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
	}
	return p
}

// readTail reads and verifies the entries, as runs, and adds to size what they
// take. Nobody closes the victim meanwhile: that takes reclaimMu.
func (l *Log) readTail(p *tailPlan, number uint64, victim *segment, size *int) (runs []rawRun, err error) {
	for i, pl := range p.places {
		b, err := l.moved(number, p.index[i], pl, victim, victim)
		if err != nil {
			return nil, err
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
