package wal

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/copycat-replication/copycat/internal/vfs"
)

// Log is the durable log store of a node: of all its groups. All methods are
// safe for concurrent use, except that Flush has one caller at a time: the
// committer once Start was called, and nobody after Close.
type Log struct {
	opts     Options
	fs       vfs.FS
	dir      string
	logger   *slog.Logger
	identity uint64
	lock     io.Closer

	queue queue

	// flushMu is held while a batch is made and written. Locks are taken in
	// the order reclaimMu, flushMu, mu, queue.mu.
	flushMu sync.Mutex
	writer  writer

	mu          sync.RWMutex
	groups      map[uint64]*group
	suspects    map[uint64]*group   // those of groups that are set aside: few, if any, and asked for often
	allocated   map[uint64]struct{} // given out, nothing durable yet
	next        uint64              // the next group number
	ceiling     uint64              // numbers below it are durably reserved
	refused     map[uint64]refusal  // groups whose updates wait for a refused one
	segments    map[uint64]*segment
	order       []*segment // by number; the last one is the active one, if there is any
	trash       []coldRange
	cacheBytes  int64
	cacheQueue  []cacheItem
	cacheHead   int
	cachePacked int   // items of the queue after it was last repacked
	failure     error // wraps ErrFailed; never cleared
	low         bool  // free space is below the reserve
	closed      bool

	damages []*DamageError // found at recovery

	reclaimMu sync.Mutex
	cold      coldTier
	run       runners
	count     counters
}

type counters struct {
	batches, frames, bytes, refused             atomic.Uint64
	cacheHits, diskReads, coldReads             atomic.Uint64
	coldMoved, carried, segments, reused, freed atomic.Uint64
	lost                                        atomic.Uint64
}

// NewGroup returns the next local group number, never given out before, not
// even by an earlier life of the directory, nor to a group that was removed.
// The group exists once an update of it is durable. Numbers are reserved on
// disk ahead of time: on a disk that has been full from the start there are
// none, and the error is ErrDiskFull. With room again it is ErrNoNumbers once
// more, and the flush that this call has asked for reserves some.
func (l *Log) NewGroup() (uint64, error) {
	n, err := l.nextNumber()
	switch {
	case !errors.Is(err, ErrNoNumbers):
	case l.checkSpace():
		err = fmt.Errorf("%w: %w", l.spaceError(), err)
	default:
		// Without a group there is nobody else who would have anything written.
		l.Submit(nil, func(error) {})
	}
	return n, err
}

func (l *Log) nextNumber() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usableLocked(); err != nil {
		return 0, err
	}
	if l.next >= l.ceiling {
		return 0, fmt.Errorf("%w: %d", ErrNoNumbers, l.next)
	}
	n := l.next
	l.next++
	l.allocated[n] = struct{}{}
	return n, nil
}

func (l *Log) usableLocked() error {
	if l.closed {
		return ErrClosed
	}
	return l.failure
}

// Submit queues updates and returns at once. The queue has no bound of its
// own: raft's limits on what is in flight are it, and Stats tells its bytes.
//
// done is called once, from Flush, when all the updates are durable and
// visible, or with an error. Of several updates those without a fault are
// durable all the same; a caller that must know which submits them one by
// one. After an error other than ErrFailed and ErrClosed the refused update
// has changed nothing and never will.
//
// When an update with entries or a hard state is refused with ErrDiskFull, so
// are all later ones of its group (except a Remove), until that very update
// is submitted again, with the same entries and hard state by pointer: what the group had
// under way behind it must not become durable before it. A group that starts
// over from State is free of this.
//
// Updates of one group are made durable in the order of submission, and done
// is called in that order for submissions that share a group; a submission of
// another group may be answered earlier when one group exceeds its quota.
//
// The updates and all they point to belong to the log until done is called. The
// entries, with their data, belong to it for good: it keeps the newest in memory
// as they are, and shares them with whoever reads, so that nobody may change
// them any more.
// done must not block for long (it holds up the committer) and may call any
// method but Flush and Close. After Close, done is called with ErrClosed before
// Submit returns.
func (l *Log) Submit(updates []Update, done func(error)) {
	if !l.queue.add(updates, done) {
		done(ErrClosed)
		return
	}
	l.run.wake()
}

// Groups returns the state of all groups except suspects, by number.
func (l *Log) Groups() []GroupState {
	l.mu.RLock()
	defer l.mu.RUnlock()
	states := make([]GroupState, 0, len(l.groups))
	for _, g := range l.groups {
		if g.suspect == nil {
			states = append(states, g.state())
		}
	}
	slices.SortFunc(states, func(a, b GroupState) int { return cmp.Compare(a.Group, b.Group) })
	return states
}

// State returns the state of one group: a number from NewGroup has a zero
// state until its first update is durable.
func (l *Log) State(number uint64) (GroupState, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.refused, number)
	g, err := l.groupLocked(number)
	if err != nil {
		return GroupState{}, err
	}
	return g.state(), nil
}

// groupLocked finds a group that may be used.
func (l *Log) groupLocked(number uint64) (*group, error) {
	g := l.groups[number]
	if g == nil {
		if _, ok := l.allocated[number]; ok {
			return newGroup(number), nil
		}
		return nil, groupError(ErrUnknownGroup, number, "not found")
	}
	if g.suspect != nil {
		return nil, groupError(ErrSuspect, number, "%s", g.suspect.Why)
	}
	return g, nil
}

// Suspects returns the groups that were set aside, by number, until they are
// removed.
func (l *Log) Suspects() []Suspect {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var list []Suspect
	for _, g := range l.suspects {
		s := *g.suspect
		s.Meta, s.HardState = g.meta, g.state().HardState
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b Suspect) int { return cmp.Compare(a.Group, b.Group) })
	return list
}

// Damages returns what recovery found unreadable below the durable mark, with
// the place. If a whole batch or segment is lost, groups that were created
// and never written to again may be missing without being suspects: a node
// that sees a damage of an unknown group must not start replicas that it
// does not find here as if they were new.
func (l *Log) Damages() []*DamageError { return slices.Clone(l.damages) }

// Stats returns the counters.
func (l *Log) Stats() Stats {
	s := Stats{
		Batches: l.count.batches.Load(), Frames: l.count.frames.Load(), BytesWritten: l.count.bytes.Load(),
		Refused: l.count.refused.Load(), CacheHits: l.count.cacheHits.Load(), DiskReads: l.count.diskReads.Load(),
		ColdReads: l.count.coldReads.Load(), ColdMoved: l.count.coldMoved.Load(), Carried: l.count.carried.Load(),
		SegmentsMade: l.count.segments.Load(), SegmentsReused: l.count.reused.Load(), SegmentsFreed: l.count.freed.Load(), Lost: l.count.lost.Load(),
	}
	s.QueuedUpdates, s.QueuedBytes = l.queue.load()
	s.ColdFailed = l.cold.hasFailed()
	l.mu.RLock()
	defer l.mu.RUnlock()
	s.Groups, s.Segments, s.CacheBytes = len(l.groups), len(l.order), l.cacheBytes
	for _, seg := range l.order {
		s.SegmentBytes += seg.end
	}
	for _, g := range l.groups {
		if g.suspect != nil {
			s.Suspects++
		}
		for i := range g.chunks {
			s.ColdEntries += g.chunks[i].last - g.chunks[i].first + 1
			s.ColdBytes += g.chunks[i].bytes
		}
	}
	return s
}

// Health returns nil, or an error that is ErrDiskFull (soft: checked again by
// this call), ErrFailed (for good) or ErrClosed.
func (l *Log) Health() error {
	l.mu.RLock()
	err, low := l.usableLocked(), l.low
	l.mu.RUnlock()
	if err == nil && low && l.checkSpace() {
		err = l.spaceError()
	}
	return err
}

// spaceError is ErrDiskFull with how much must be free, and where.
func (l *Log) spaceError() error {
	return fmt.Errorf("%w: less than %d bytes are free in %s", ErrDiskFull, l.opts.ReserveBytes, l.dir)
}

// Reserve returns Options.ReserveBytes: what others who write to the same disk
// should leave free.
func (l *Log) Reserve() uint64 { return l.opts.ReserveBytes }

// spaceShare is the part of the reserve that may be written between two looks
// at the free space: what this log writes cannot use the reserve up unseen.
const spaceShare = 16

// spaceIsLow reports whether the space is low, for a batch of size bytes. A look
// costs a system call, so there is not one for each batch.
func (l *Log) spaceIsLow(size int) bool {
	w := &l.writer
	w.sinceLook += uint64(size)
	l.mu.RLock()
	low := l.low
	l.mu.RUnlock()
	if !w.look && !low && w.sinceLook < l.opts.ReserveBytes/spaceShare {
		return false
	}
	w.look, w.sinceLook = false, 0
	return l.checkSpace()
}

// checkSpace looks at the free space and reports whether it is low. It takes
// an eighth more than the reserve to get out of it, so that it does not flap.
func (l *Log) checkSpace() bool {
	free, err := l.fs.Free(l.dir)
	l.mu.RLock()
	was := l.low
	l.mu.RUnlock()
	low := was
	if err == nil {
		bound := l.opts.ReserveBytes
		if was {
			bound += bound / 8
		}
		low = free < bound
	}
	if low != was {
		l.mu.Lock()
		l.low = low
		l.mu.Unlock()
		l.run.wakeReclaim() // it frees more when space is low, spares too, and may write cold again when it is not
	}
	if err != nil {
		l.logger.Warn("wal: cannot tell the free space", "dir", l.dir, "error", err)
	} else if low != was {
		l.logger.Warn("wal: free space", "dir", l.dir, "free", free, "reserve", l.opts.ReserveBytes, "full", low)
	}
	return low
}

// fail stops all writing for good.
func (l *Log) fail(op string, err error) error {
	l.mu.Lock()
	first := l.failure == nil
	if first {
		l.failure = fmt.Errorf("%w: %s: %w", ErrFailed, op, err)
	}
	failure := l.failure
	l.mu.Unlock()
	if first {
		l.logger.Error("wal: log has failed", "dir", l.dir, "op", op, "error", err)
	}
	return failure
}

// Close stops and waits for what Start started, writes what is queued, seals,
// and gives the directory up. It returns the first error; the log is closed
// in every case. Reads that are under way finish. A second Close does nothing.
func (l *Log) Close() error {
	if !l.queue.close() {
		return nil
	}
	l.run.stop()
	var errs []error
	for {
		n, err := l.Flush()
		if err != nil && !errors.Is(err, ErrDiskFull) {
			errs = append(errs, err)
		}
		if n == 0 {
			break
		}
	}
	l.reclaimMu.Lock()
	defer l.reclaimMu.Unlock()
	l.flushMu.Lock()
	defer l.flushMu.Unlock()
	if err := l.sealLocked(true); err != nil && len(errs) == 0 && !errors.Is(err, ErrDiskFull) {
		errs = append(errs, err)
	}
	l.mu.Lock()
	l.closed = true
	order := l.order
	l.order, l.segments = nil, nil
	l.mu.Unlock()
	for _, s := range order {
		errs = append(errs, s.release())
	}
	l.dropSpares(0)
	errs = append(errs, l.cold.close(), l.lock.Close())
	return errors.Join(errs...)
}
