package wal

import (
	"errors"
	"fmt"

	"github.com/copycat-replication/copycat/internal/vfs"
)

// raiseCeiling adds a frame that reserves more group numbers when half of
// them are gone.
func (l *Log) raiseCeiling() {
	w := &l.writer
	if w.ceiling != 0 || !l.shortOfNumbers() {
		return
	}
	l.mu.RLock()
	w.ceiling = l.next + ceilingStep
	l.mu.RUnlock()
	w.addCeiling()
}

// shortOfNumbers reports whether half of the reserved group numbers are gone.
func (l *Log) shortOfNumbers() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.ceiling-l.next <= ceilingStep/2
}

func (w *writer) addCeiling() {
	start := w.openFrame()
	w.buf = le.AppendUint64(w.buf, w.ceiling)
	w.closeFrame(start, frameHeader{typ: frameCeiling})
}

// Seal writes an empty synced batch behind the last one, so that damage in
// that one can be told from a tear. It does nothing if the last batch is a
// seal already.
func (l *Log) Seal() error {
	l.flushMu.Lock()
	defer l.flushMu.Unlock()
	return l.sealLocked(false)
}

// sealLocked seals. A seal may carry the table of frame counters, so that
// groups without loss can be proven current when a batch before it is
// damaged: if that is cheap against what was written since, or at the end.
func (l *Log) sealLocked(last bool) error {
	w := &l.writer
	l.mu.RLock()
	err := l.failure
	table, next := 16+20*len(l.groups), l.next
	giveBack := last && next < l.ceiling
	l.mu.RUnlock()
	if err != nil || w.active == nil || (!w.unseal && !giveBack) {
		return err
	}
	full := last || int64(table)*2 < w.sinceTable
	if !full {
		table = 0
	}
	if err := l.beginLocked(table + frameHeaderSize); err != nil {
		return err
	}
	if full {
		start := w.openFrame()
		entries := l.table()
		w.buf = le.AppendUint32(w.buf, uint32(len(entries)))
		w.buf = appendTable(w.buf, entries)
		w.closeFrame(start, frameHeader{typ: frameTable})
		w.sinceTable = 0
	}
	if giveBack {
		w.ceiling = next
		w.addCeiling()
	}
	return l.writeLocked(flagSealBatch)
}

// table returns the frame counters of all groups.
func (l *Log) table() []tableEntry {
	l.mu.RLock()
	t := make([]tableEntry, 0, len(l.groups))
	for _, g := range l.groups {
		t = append(t, tableEntry{group: g.number, counter: g.counter, suspect: g.suspect != nil})
	}
	l.mu.RUnlock()
	sortTable(t)
	return t
}

// rollLocked starts a new segment with room for need bytes.
func (l *Log) rollLocked(need int64) error {
	w := &l.writer
	head := segmentHead{
		identity: l.identity, number: w.nextNumber, prevSeq: w.seq, prevChain: w.chain,
		prevEnd: uint64(w.lastEnd), table: l.table(),
	}
	if w.active != nil {
		head.prevEnd = uint64(w.active.end)
	}
	l.mu.RLock()
	head.ceiling = l.next + ceilingStep
	l.mu.RUnlock()
	size := max(l.opts.SegmentSize, need+int64(headFixed+len(head.table)*20+64))
	if size > maxSegmentSize {
		return fmt.Errorf("%w: a batch of %d bytes", ErrTooLarge, need)
	}
	s, err := l.newSegment(&head, size)
	if err != nil {
		var late *afterRenameError
		if errors.Is(err, vfs.ErrNoSpace) && !errors.As(err, &late) {
			l.mu.Lock()
			l.low = true
			l.mu.Unlock()
			return fmt.Errorf("%w: new segment of %d bytes: %w", ErrDiskFull, size, err)
		}
		return l.fail("new segment", err)
	}
	if w.active != nil {
		if err := vfs.EndDirectWrites(w.active.file); err != nil {
			l.logger.Warn("wal: descriptor of a full segment", "file", w.active.name, "error", err)
		}
	}
	w.active, w.chain, w.nextNumber, w.sinceTable = s, head.chain, head.number+1, 0
	l.count.segments.Add(1)
	l.mu.Lock()
	l.ceiling = head.ceiling
	l.segments[s.number] = s
	l.order = append(l.order, s)
	l.mu.Unlock()
	l.run.wakeReclaim()
	return nil
}
