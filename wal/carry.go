package wal

import "slices"

// carry writes the state frames of the jobs' groups, with the new manifest
// and the entries of the victim that stay in the hot tier.
func (l *Log) carry(jobs []moveJob) error {
	l.flushMu.Lock()
	defer l.flushMu.Unlock()
	w := &l.writer
	size := 0
	var frames []stateFrame
	for i := range jobs {
		if f, ok := l.stateOf(&jobs[i]); ok {
			frames = append(frames, f)
			size += f.size
		}
	}
	if len(frames) == 0 {
		return nil
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
// meanwhile. ok is false if the group is not there any more.
func (l *Log) stateOf(job *moveJob) (f stateFrame, ok bool) {
	l.mu.RLock()
	g := l.groups[job.group]
	if g == nil {
		l.mu.RUnlock()
		l.giveUp(job)
		return f, false
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
	f.runs = hotRuns(g, job.hot, &f.size)
	l.mu.RUnlock()
	if stale {
		l.giveUp(job)
	}
	return f, true
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

// hotRuns makes runs of the records that still stand where they were read, and adds
// to size what they take. The caller holds Log.mu.
func hotRuns(g *group, records []movingRecord, size *int) (runs []rawRun) {
	for i := range records {
		r := &records[i]
		if r.index < g.first || r.index > g.last() || g.places[r.index-g.first] != r.place {
			continue // compacted, or overwritten
		}
		n := len(runs)
		if n == 0 || runs[n-1].first+uint64(len(runs[n-1].records)) != r.index {
			runs = append(runs, rawRun{first: r.index})
			*size += 20
			n++
		}
		to := &runs[n-1]
		to.records, to.terms = append(to.records, r.bytes), append(to.terms, r.place.term)
		*size += len(r.bytes)
	}
	return runs
}
