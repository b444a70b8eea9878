package wal

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/internal/vfs"
)

// writer is the batch that is being made. Guarded by Log.flushMu.
type writer struct {
	active *segment // nil: none could be made yet
	seq    uint64   // of the last batch written
	chain  uint32
	unseal bool // the last batch is not a seal

	// What head and seals need to know.
	nextNumber uint64 // of the next segment
	lastEnd    int64  // of the segment before, if active is nil
	spares     []spare
	madeBefore uint64 // segments, when spares were trimmed last
	sinceTable int64  // bytes written since the last table

	// The free space is looked at when look is set, or so much was written.
	look      bool
	sinceLook uint64

	buf     []byte
	frames  uint32
	changes []change
	owners  []*group
	ranges  [][2]int // of places, for each change
	places  []place
	newborn map[uint64]*group
	taken   []queued
	settled []*submission
	ceiling uint64 // that the batch makes durable; 0: none

	// What the reclaimer was woken for last.
	trashSeen int
	staleSeen uint64
}

// Flush collects one batch from the queue, writes it, makes it durable, makes
// it visible and answers it. It returns how many updates it has answered, 0
// if none was waiting. The error is the log's, if nothing of the batch could
// be written: ErrFailed for good, ErrDiskFull if no segment could be made.
// Refusals of single updates are told to done alone.
func (l *Log) Flush() (n int, err error) { return l.flush(true) }

// flush is Flush. look says whether the free space is looked at in every case.
func (l *Log) flush(look bool) (n int, err error) {
	l.flushMu.Lock()
	w := &l.writer
	w.look = w.look || look
	n, err = l.flushLocked()
	settled := w.settled
	w.settled = nil
	l.flushMu.Unlock()
	slices.SortFunc(settled, func(a, b *submission) int { return cmp.Compare(a.seq, b.seq) })
	for _, s := range settled {
		s.done(s.err)
	}
	clear(settled)
	l.flushMu.Lock()
	if w.settled == nil {
		w.settled = settled[:0]
	}
	l.flushMu.Unlock()
	return n, err
}

func (l *Log) flushLocked() (int, error) {
	w := &l.writer
	w.taken, _ = l.queue.collect(w.taken[:0], int(l.opts.GroupQuota), l.opts.batchLimit())
	n := len(w.taken)
	if n == 0 {
		l.mu.RLock()
		defer l.mu.RUnlock()
		return 0, l.failure
	}
	l.mu.RLock()
	err := l.failure
	l.mu.RUnlock()
	if err == nil {
		err = l.flushTaken()
	}
	for i := range w.taken {
		w.settle(w.taken[i].sub, err)
	}
	if errors.Is(err, ErrFailed) {
		for {
			w.taken, _ = l.queue.collect(w.taken[:0], maxFramePayload, maxFramePayload)
			if len(w.taken) == 0 {
				break
			}
			n += len(w.taken)
			for i := range w.taken {
				w.settle(w.taken[i].sub, err)
			}
		}
	}
	clear(w.taken)
	return n, err
}

// settle notes that one update of a submission is answered.
func (w *writer) settle(s *submission, err error) {
	if err != nil && s.err == nil {
		s.err = err
	}
	if s.left--; s.left == 0 {
		w.settled = append(w.settled, s)
	}
}

// flushTaken writes what was taken from the queue as one batch. Faults of
// single updates go to their submissions.
func (l *Log) flushTaken() error {
	w := &l.writer
	size := 0
	for i := range w.taken {
		if w.taken[i].size <= maxFramePayload {
			size += w.taken[i].size
		}
	}
	low := l.spaceWithoutSpares(size)
	if err := l.beginLocked(size); err != nil {
		for i := range w.taken {
			if u := w.taken[i].update; u != nil && errors.Is(err, ErrDiskFull) {
				l.refuse(u)
			}
		}
		return err
	}
	for i := range w.taken {
		u := w.taken[i].update
		if u == nil {
			continue
		}
		if err := l.admit(u, w.taken[i].size, low); err != nil {
			w.taken[i].sub.err = cmp.Or(w.taken[i].sub.err, err)
		}
	}
	if w.frames == 0 && !l.shortOfNumbers() {
		return nil
	}
	return l.writeLocked(0)
}

// beginLocked starts a batch of at most size bytes of frames: in a new
// segment if the active one has no room.
func (l *Log) beginLocked(size int) error {
	w := &l.writer
	need := int64(batchHeaderSize + size + frameHeaderSize + 16 + batchAlign)
	if w.active == nil || w.active.end+need > w.active.size {
		if err := l.rollLocked(need); err != nil {
			return err
		}
	}
	w.buf = append(w.buf[:0], make([]byte, batchHeaderSize)...)
	w.frames, w.ceiling = 0, 0
	clear(w.changes)
	clear(w.owners)
	w.changes, w.owners, w.ranges, w.places = w.changes[:0], w.owners[:0], w.ranges[:0], w.places[:0]
	clear(w.newborn)
	return nil
}

func (w *writer) header(flags uint32) batchHeader {
	return batchHeader{
		seq: w.seq + 1, mark: uint64(w.active.end), length: uint32(len(w.buf) - batchHeaderSize),
		prev: w.chain, frames: w.frames, flags: flags,
	}
}

func (w *writer) add(c change, g *group, places [2]int) {
	w.changes = append(w.changes, c)
	w.owners = append(w.owners, g)
	w.ranges = append(w.ranges, places)
}

func (w *writer) position() position {
	return position{seg: uint32(w.active.number), base: w.active.end}
}

func (w *writer) openFrame() int {
	start := len(w.buf)
	var header [frameHeaderSize]byte
	w.buf = append(w.buf, header[:]...)
	return start
}

// closeFrame fills in all of the header but the checksums, which need the
// batch header's, which needs the whole length: see sum.
func (w *writer) closeFrame(start int, h frameHeader) {
	b := w.buf[start:]
	le.PutUint32(b[8:], uint32(len(b)-frameHeaderSize))
	b[12] = h.typ
	le.PutUint16(b[14:], h.flags)
	le.PutUint64(b[16:], h.group)
	le.PutUint64(b[24:], h.counter)
	w.frames++
}

// sum writes the batch header, chains the frames to it, and returns the chain
// behind the last one.
func (w *writer) sum(flags uint32) uint32 {
	h := w.header(flags)
	h.put(w.buf, w.active.seed, w.active.end)
	chain := h.crc
	for off := batchHeaderSize; off < len(w.buf); {
		n := frameHeaderSize + int(le.Uint32(w.buf[off+8:]))
		chain = sealFrame(w.buf[off:off+n], w.active.seed, chain)
		off += n
	}
	return chain
}

// writeLocked writes the batch that was made, syncs it, and makes it visible.
func (l *Log) writeLocked(flags uint32) error {
	w := &l.writer
	l.raiseCeiling()
	if w.active.end+int64(len(w.buf)) > w.active.size {
		return l.fail("write", fmt.Errorf("batch of %d bytes does not fit into %s", len(w.buf), w.active.name))
	}
	chain := w.sum(flags)
	for len(w.buf)%batchAlign != 0 {
		w.buf = append(w.buf, 0)
	}
	if _, err := w.active.file.WriteAt(w.padded(), w.active.end); err != nil {
		return l.fail("write "+w.active.name, err)
	}
	if err := w.active.file.SyncData(); err != nil {
		return l.fail("sync "+w.active.name, err)
	}
	for i := range w.changes {
		if c := &w.changes[i]; c.typ == frameUpdate {
			c.places = w.places[w.ranges[i][0]:w.ranges[i][1]]
			if !l.cacheable(c.entries) {
				c.entries = nil
			}
		}
	}
	w.seq++
	w.chain = chain
	w.unseal = flags&flagSealBatch == 0
	w.sinceTable += int64(len(w.buf))
	l.count.batches.Add(1)
	l.count.frames.Add(uint64(w.frames))
	l.count.bytes.Add(uint64(len(w.buf)))
	err := l.publish()
	if cap(w.buf) > 4*maxBatchBytes {
		w.buf = nil
	}
	return err
}

// padded is the batch with zeros up to the next block, since only whole blocks are
// written past the page cache; and through it, a page of which the end is kept is
// read from the disk before it is written to. The next batch takes the place of the
// zeros.
func (w *writer) padded() []byte {
	s, end := w.active, w.active.end+int64(len(w.buf))
	over := end % vfs.DirectBlock
	if over == 0 {
		return w.buf
	}
	n := len(w.buf)
	w.buf = append(w.buf, zeros[:min(vfs.DirectBlock-over, s.size-end)]...)
	whole := w.buf
	w.buf = w.buf[:n]
	return whole
}

var zeros [vfs.DirectBlock]byte

// publish makes a durable batch visible.
func (l *Log) publish() error {
	w := &l.writer
	var broken error
	l.mu.Lock()
	w.active.end += int64(len(w.buf))
	for i := range w.changes {
		g, c := w.owners[i], &w.changes[i]
		if c.counter == 1 && c.typ == frameUpdate {
			delete(l.allocated, g.number)
			l.groups[g.number] = g
		}
		if err := l.applyLocked(g, c, w.active); err != nil && broken == nil {
			broken = groupError(err, g.number, "frame %d", c.counter)
		}
	}
	if w.ceiling != 0 {
		l.ceiling = w.ceiling
	}
	// The reclaimer looks at every group: wake it for news only.
	stale := len(l.trash) > w.trashSeen
	w.trashSeen = len(l.trash)
	if oldest := l.order[0]; oldest != w.active && oldest.littleLive() && oldest.number != w.staleSeen {
		stale, w.staleSeen = true, oldest.number
	}
	l.mu.Unlock()
	if broken != nil {
		// judge let pass what apply cannot do: memory and disk differ.
		return l.fail("apply", broken)
	}
	if stale {
		l.run.wakeReclaim()
	}
	return nil
}

// cacheable reports whether an update's entries are worth keeping.
func (l *Log) cacheable(entries []*raftpb.Entry) bool {
	total := 0
	for _, e := range entries {
		total += entrySize(e)
	}
	return len(entries) > 0 && int64(total) <= l.opts.CacheBytes/2
}
