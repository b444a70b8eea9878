package wal

import (
	"cmp"
	"errors"

	"go.etcd.io/raft/v3/raftpb"
)

var errColdMissing = errors.New("the manifest has the entry, the store does not")

// readCold reads entries that the manifest says are in the cold store.
func (l *Log) readCold(number, lo, hi uint64, b *budget) ([]*raftpb.Entry, error) {
	store, release, err := l.coldStore()
	if errors.Is(err, ErrClosed) {
		return nil, err
	}
	if err != nil {
		return nil, l.coldFault(number, lo, "the cold store cannot be used", err)
	}
	defer release()
	records, err := store.Get(number, lo, hi, max(b.left, 1))
	if err == nil && len(records) == 0 {
		err = errColdMissing
	}
	if err != nil {
		return nil, l.coldFault(number, lo, "cannot read", err)
	}
	slots := make([]entrySlot, len(records))
	entries := make([]*raftpb.Entry, 0, len(records))
	for i, rec := range records {
		index := lo + uint64(i)
		typ, term, data, ok := verifyRecord(rec, number, index)
		want, wanted := l.coldTerm(number, index)
		if !ok || (wanted && term != want) {
			return nil, l.coldFault(number, index, "record does not match its checksum or the manifest", nil)
		}
		if !b.take(len(data) + entryOverhead) {
			break
		}
		entries = append(entries, slots[i].fill(index, term, typ, data))
	}
	l.count.coldReads.Add(uint64(len(entries)))
	return entries, nil
}

func (l *Log) coldTerm(number, index uint64) (uint64, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if g := l.groups[number]; g != nil {
		return g.term(index)
	}
	return 0, false
}

// coldFault tells a record that is damaged or gone from one that was
// compacted, and deleted, while it was read.
func (l *Log) coldFault(number, index uint64, reason string, cause error) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	g, err := l.groupLocked(number)
	if err != nil {
		return err
	}
	if index <= g.mark.Index {
		return g.outside(index)
	}
	return &DamageError{Group: number, Index: index, File: coldDirectoryName, Offset: -1, Reason: reason, Err: cause}
}

// VerifyCold reads all that the manifest of a group says the cold store has,
// and checks it: a *DamageError names the first entry that is lost, and the
// first of its chunk if every record is good but they are not the ones that
// were put there.
func (l *Log) VerifyCold(number uint64) error {
	l.mu.RLock()
	g, err := l.groupLocked(number)
	if err != nil {
		l.mu.RUnlock()
		return err
	}
	chunks := append([]chunk(nil), g.chunks...)
	l.mu.RUnlock()
	for _, k := range chunks {
		if err := l.verifyChunk(number, k); err != nil && !errors.Is(err, ErrCompacted) {
			return err
		}
	}
	return nil
}

func (l *Log) verifyChunk(number uint64, k chunk) error {
	store, release, err := l.coldStore()
	if errors.Is(err, ErrClosed) {
		return err
	}
	if err != nil {
		return l.coldFault(number, k.first, "the cold store cannot be used", err)
	}
	defer release()
	sum := uint32(0)
	for at := k.first; at <= k.last; {
		records, err := store.Get(number, at, k.last+1, scratchSize)
		if err != nil || len(records) == 0 {
			return l.coldFault(number, at, "cannot read", cmp.Or(err, errColdMissing))
		}
		for _, rec := range records {
			if _, _, _, ok := verifyRecord(rec, number, at); !ok {
				return l.coldFault(number, at, "record does not match its checksum", nil)
			}
			sum = chainRecord(sum, recordSum(rec))
			at++
		}
	}
	if sum != k.sum {
		return l.coldFault(number, k.first, "records do not match the manifest", nil)
	}
	return nil
}
