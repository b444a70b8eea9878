package wal

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/copycat-replication/copycat/internal/vfs"
	"go.etcd.io/raft/v3/raftpb"
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
	sinceTable int64  // bytes written since the last table

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
}

// Flush collects one batch from the queue, writes it, makes it durable, makes
// it visible and answers it. It returns how many updates it has answered, 0
// if none was waiting. The error is the log's, if nothing of the batch could
// be written: ErrFailed for good, ErrDiskFull if no segment could be made.
// Refusals of single updates are told to done alone.
func (l *Log) Flush() (n int, err error) {
	l.flushMu.Lock()
	w := &l.writer
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
		size += w.taken[i].size
	}
	low := l.checkSpace()
	if err := l.beginLocked(size); err != nil {
		l.count.refused.Add(uint64(len(w.taken)))
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
	if w.frames == 0 {
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

// admit judges one update and adds its frame to the batch.
func (l *Log) admit(u *Update, size int, low bool) error {
	w := &l.writer
	if size > maxFramePayload {
		return groupError(ErrTooLarge, u.Group, "%d bytes", size)
	}
	if low && len(u.Entries) > 0 && !u.Remove {
		l.count.refused.Add(1)
		return groupError(ErrDiskFull, u.Group, "%d entries refused", len(u.Entries))
	}
	g, err := l.target(u)
	if err != nil {
		return err
	}
	c := change{typ: frameUpdate, group: u.Group}
	if err := g.judge(u, &c, w.seq+1); err != nil {
		return err
	}
	g.pend.counter++
	c.counter = g.pend.counter
	c.entries = u.Entries
	from := len(w.places)
	start := w.openFrame()
	w.buf, w.places = appendUpdate(w.buf, u, &c, w.position(), w.places)
	w.closeFrame(start, frameHeader{typ: c.typ, flags: c.flags, group: c.group, counter: c.counter})
	w.add(c, g, [2]int{from, len(w.places)})
	return nil
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

// target finds the group that an update is for.
func (l *Log) target(u *Update) (*group, error) {
	w := &l.writer
	if g := w.newborn[u.Group]; g != nil {
		return g, nil
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if u.Remove {
		if g := l.groups[u.Group]; g != nil {
			return g, nil
		}
	}
	g, err := l.groupLocked(u.Group)
	if err != nil {
		return nil, err
	}
	if l.groups[u.Group] == nil {
		if w.newborn == nil {
			w.newborn = make(map[uint64]*group)
		}
		w.newborn[u.Group] = g
	}
	return g, nil
}

// judge says whether the update fits the group as it will be when the batch
// so far is durable, and fills in what its frame says.
func (g *group) judge(u *Update, c *change, batch uint64) error {
	if g.pend.batch != batch {
		g.pend = pendingState{batch: batch, counter: g.counter, last: g.last(), term: g.hs.term, commit: g.committed(), stored: g.hs.commit}
	}
	if u.Remove {
		c.flags = flagRemove
		return nil
	}
	p := g.pend
	if m := u.Compact; m != nil && m.Index > g.mark.Index {
		c.flags, c.mark = flagCompact, *m
		if term, ok := g.term(m.Index); !ok || term != m.Term {
			if m.Index <= p.commit {
				return groupError(ErrInvalid, g.number, "compaction at %d says term %d, the committed entry has %d", m.Index, m.Term, term)
			}
			c.flags |= flagRestart
			p.last = m.Index
		}
		p.commit = max(p.commit, m.Index)
	}
	if n := len(u.Entries); n > 0 {
		c.flags |= flagEntries
		c.first = u.Entries[0].GetIndex()
		if c.first <= p.commit {
			return groupError(ErrInvalid, g.number, "entries from index %d, committed is %d", c.first, p.commit)
		}
		if c.first > p.last+1 {
			return groupError(ErrInvalid, g.number, "entries from index %d, the last is %d", c.first, p.last)
		}
		for i, e := range u.Entries {
			if e.GetIndex() != c.first+uint64(i) {
				return groupError(ErrInvalid, g.number, "entry %d follows %d", e.GetIndex(), c.first+uint64(i)-1)
			}
		}
		p.last = c.first + uint64(n) - 1
	}
	if hs := u.HardState; hs != nil {
		c.flags |= flagHardState
		c.hs = hardState{set: true, term: hs.GetTerm(), vote: hs.GetVote(), commit: hs.GetCommit()}
		if c.hs.term < p.term || c.hs.commit > p.last || c.hs.commit < p.stored {
			return groupError(ErrInvalid, g.number, "hard state with term %d after %d, commit %d after %d, last index %d",
				c.hs.term, p.term, c.hs.commit, p.stored, p.last)
		}
		p.term, p.stored, p.commit = c.hs.term, c.hs.commit, max(p.commit, c.hs.commit)
	}
	if u.Meta != nil {
		c.flags |= flagMeta
		c.meta = u.Meta
	}
	g.pend = p
	return nil
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
	if _, err := w.active.file.WriteAt(w.buf, w.active.end); err != nil {
		return l.fail("write "+w.active.name, err)
	}
	if err := w.active.file.SyncData(); err != nil {
		return l.fail("sync "+w.active.name, err)
	}
	for i := range w.changes {
		if c := &w.changes[i]; c.typ == frameUpdate {
			c.places = w.places[w.ranges[i][0]:w.ranges[i][1]]
			if l.cacheable(c.entries) {
				c.entries = cloneEntries(make([]*raftpb.Entry, 0, len(c.entries)), c.entries)
			} else {
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
	stale := len(l.order) > 1 && l.order[0].live == 0
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

// raiseCeiling adds a frame that reserves more group numbers when half of
// them are gone.
func (l *Log) raiseCeiling() {
	w := &l.writer
	l.mu.RLock()
	next, ceiling := l.next, l.ceiling
	l.mu.RUnlock()
	if w.ceiling != 0 || ceiling-next > ceilingStep/2 {
		return
	}
	w.ceiling = next + ceilingStep
	w.addCeiling()
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
	s, err := createSegment(l.fs, l.dir, &head, size)
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
