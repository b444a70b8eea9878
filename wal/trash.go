package wal

import (
	"fmt"
	"slices"
)

// putCold makes the records durable in the cold store, unless there are any
// and full says that it must not be written to.
func (l *Log) putCold(jobs []moveJob, full error) error {
	var records []ColdRecord
	size := uint64(0)
	for i := range jobs {
		records = append(records, jobs[i].records...)
		size += jobs[i].chunk.bytes
	}
	if len(records) == 0 {
		return nil
	}
	if full != nil {
		return full
	}
	if err := l.coldRoom(size); err != nil {
		return err
	}
	store, release, err := l.coldWriter()
	if err != nil {
		return err
	}
	defer release()
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
	need := l.opts.ReserveBytes + 4*size
	if l.opts.Cold == nil {
		need += coldMargin
	}
	free, err := l.fs.Free(l.dir)
	if err == nil && free < need && l.Yield() {
		free, err = l.fs.Free(l.dir)
	}
	if err != nil {
		return fmt.Errorf("wal: free space of %s: %w", l.dir, err)
	}
	if free < need {
		return fmt.Errorf("%w: the cold store needs %d bytes, %d are free", ErrDiskFull, need, free)
	}
	return nil
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

// emptyTrash deletes from the cold store what the manifest has given up. It
// answers ErrDiskFull, and keeps the trash, when space is low: deleting writes.
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
	}
	return err
}

func (l *Log) deleteCold(trash []coldRange) error {
	if err := l.coldRoom(0); err != nil {
		return err
	}
	store, release, err := l.coldWriter()
	if err != nil {
		return err
	}
	defer release()
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
