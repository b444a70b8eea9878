package wal

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/internal/vfs"
)

// spareFiles lists the spares in the directory.
func (r *rig) spareFiles() []string {
	r.t.Helper()
	names, err := r.fs.List(r.opts.Dir)
	if err != nil {
		r.t.Fatal(err)
	}
	return slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, spareSuffix) })
}

// rolling is a rig whose group writes entries of one size, so that what a used
// segment held stands exactly where the new batches come, and keeps the last few.
type rolling struct {
	*rig
	g, first, last uint64
}

const rollingSize = 1000

func newRolling(t *testing.T) *rolling {
	r := newRig(t, func(o *Options) { o.SegmentSize, o.HotBytes, o.CacheBytes = 16<<10, 96<<10, 1 })
	return &rolling{rig: r, g: r.group(), first: 1}
}

// next writes one entry more; after some, all but the newest two are compacted away.
func (r *rolling) next() error {
	i := r.last + 1
	if err := r.try(Update{Group: r.g, Entries: entries(r.g, i, i, 1, rollingSize), HardState: hard(1, 1, i)}); err != nil {
		return err
	}
	r.last = i
	if i%50 == 0 {
		r.must(Update{Group: r.g, Compact: &Mark{i - 2, 1}})
		r.first = i - 1
		r.reclaimAll()
	}
	return nil
}

// fill writes until segments have been used again.
func (r *rolling) fill(reused uint64) {
	r.t.Helper()
	for r.log.Stats().SegmentsReused < reused {
		if err := r.next(); err != nil {
			r.t.Fatal(err)
		}
		if r.last > 10_000 {
			r.t.Fatalf("segments are not used again: %+v", r.log.Stats())
		}
	}
}

// fillSpare writes until segments have been used again, and another one may be.
func (r *rolling) fillSpare() {
	r.t.Helper()
	r.fill(4)
	for len(r.spareFiles()) == 0 {
		if err := r.next(); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rolling) whole() {
	r.t.Helper()
	if d, s := r.log.Damages(), r.log.Suspects(); len(d)+len(s) > 0 {
		r.t.Fatalf("damages %v, suspects %+v", d, s)
	}
	r.check(r.g, r.first, r.last, 1, rollingSize)
}

func TestFreedSegmentsAreUsedAgain(t *testing.T) {
	t.Parallel()
	r := newRolling(t)
	r.fill(20)
	r.whole()
	names, err := r.fs.List(r.opts.Dir)
	if most := int(r.opts.HotBytes/r.opts.SegmentSize) + 3; err != nil || len(names) > most { // FORMAT, LOCK, the newest
		t.Fatalf("%d files, want %d at most: %v, %v", len(names), most, names, err)
	}
	if len(r.spareFiles()) == 0 {
		t.Fatal("no spares")
	}
	r.crash(vfs.LoseAll)
	r.whole()
	if s := r.spareFiles(); len(s) != 0 {
		t.Fatalf("spares of the life before: %v", s)
	}
	r.fill(5)
	r.reopen()
	if s := r.spareFiles(); len(s) != 0 {
		t.Fatalf("spares after Close: %v", s)
	}
	r.whole()
}

// What a segment held before never passes for something of the new one, wherever
// power is lost, and whichever pages of the batch under way are there then.
func TestNothingOldComesBackInAUsedSegment(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 0))
		r := newRolling(t)
		for range 3 {
			r.fill(r.log.Stats().SegmentsReused + 3)
			for range rng.IntN(20) {
				if err := r.next(); err != nil {
					t.Fatal(err)
				}
			}
			if rng.IntN(2) == 0 { // a batch is under way
				r.fs.SetFault(func(op vfs.Op, _ string, _, _ int64) error {
					if op == vfs.OpSync {
						return errors.New("injected")
					}
					return nil
				})
				if err := r.next(); !errors.Is(err, ErrFailed) {
					t.Fatal(err)
				}
				r.fs.SetFault(nil)
			}
			old := r.log
			r.fs, r.cold = r.fs.Crash(rng.Uint64()), r.cold.Crash()
			_ = old.Close()
			r.open()
			if last, err := r.log.LastIndex(r.g); err != nil || last < r.last || last > r.last+1 {
				t.Fatalf("seed %d: last index %d (%v), %d was durable", seed, last, err, r.last)
			} else if last > r.last {
				r.last = last // the batch under way is there as a whole
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
			r.whole()
		}
	}
}

// A segment that somebody still reads is not written over.
func TestSpareIsNotUsedUnderItsReader(t *testing.T) {
	t.Parallel()
	r := newRolling(t)
	r.fill(2)
	oldest := r.log.order[0]
	oldest.acquire()
	before := make([]byte, oldest.size)
	if _, err := oldest.file.ReadAt(before, 0); err != nil {
		t.Fatal(err)
	}
	r.fill(r.log.Stats().SegmentsReused + 20)
	if r.log.order[0] == oldest {
		t.Fatal("the segment is still the oldest")
	}
	after := make([]byte, oldest.size)
	if _, err := oldest.file.ReadAt(after, 0); err != nil || !bytes.Equal(before, after) {
		t.Fatalf("what is being read has changed (%v)", err)
	}
	if err := oldest.release(); err != nil {
		t.Fatal(err)
	}
	r.whole()
}

// What spares hold is room: nothing is refused before it is given back.
func TestSparesAreGivenBackToAFullDisk(t *testing.T) {
	t.Parallel()
	r := newRolling(t)
	r.fillSpare()
	r.log.opts.ReserveBytes = 8 << 10
	r.fs.SetCapacity(r.fs.Used() + 4<<10)
	if err := r.next(); err != nil {
		t.Fatalf("with spares to give back: %v", err)
	}
	if s := r.spareFiles(); len(s) != 0 {
		t.Fatalf("spares on a full disk: %v", s)
	}
	r.fs.SetCapacity(r.fs.Used() + 4<<10)
	if err := r.try(Update{Group: r.g, Entries: entries(r.g, r.last+1, r.last+1, 1, rollingSize)}); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("without: %v", err)
	}
}

// Whoever asks for a number needs no flush to find the room of spares.
func TestSparesAreGivenBackWithoutAFlush(t *testing.T) {
	t.Parallel()
	r := newRolling(t)
	r.fillSpare()
	r.log.opts.ReserveBytes = 8 << 10
	r.fs.SetCapacity(r.fs.Used() + 4<<10)
	if !r.log.checkSpace() {
		t.Fatal("space is not low")
	}
	r.reclaimAll()
	if s := r.spareFiles(); len(s) != 0 {
		t.Fatalf("spares on a full disk: %v", s)
	}
	if err := r.log.Health(); err != nil {
		t.Fatal(err)
	}
}

// A log that has filled no segment for a while has no spares.
func TestSparesGoWithTheNeed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRolling(t)
		r.fillSpare()
		r.log.trimSpares()
		if len(r.spareFiles()) == 0 {
			t.Fatal("spares went though segments were made")
		}
		r.log.Start()
		time.Sleep(2 * spareTime)
		synctest.Wait()
		if s := r.spareFiles(); len(s) != 0 {
			t.Fatalf("spares after %s without a new segment: %v", 2*spareTime, s)
		}
		if err := r.log.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// No page of a used file is written in part where the disk would have to be read first.
func TestWritesToAUsedFileEndWithABlock(t *testing.T) {
	t.Parallel()
	r := newRolling(t)
	r.fill(1)
	writes := 0
	r.fs.SetFault(func(op vfs.Op, name string, off, n int64) error {
		a := r.log.writer.active
		if op != vfs.OpWrite || !strings.HasSuffix(name, spareSuffix) { // as it was opened
			return nil
		}
		writes++
		if end := off + n; end%vfs.DirectBlock != 0 && end != a.size {
			t.Errorf("%s: a write of %d bytes at %d ends within a block", name, n, off)
		}
		return nil
	})
	r.fill(r.log.Stats().SegmentsReused + 3)
	r.fs.SetFault(nil)
	if writes == 0 {
		t.Fatal("nothing was written to a used file")
	}
	r.whole()
}

// TestSpareIsNotUsedTooEarly: while the directory is synced behind the rename of a freed
// segment's file, the committer goes on, and needs segments. That file must not be one of
// them yet: after a crash it may have its old name, and be taken for damage.
func TestSpareIsNotUsedTooEarly(t *testing.T) {
	t.Parallel()
	r := newRolling(t)
	r.fill(5)
	var crashed *vfs.Mem
	var last uint64
	spares := len(r.spareFiles())
	busy := false
	r.fs.SetFault(func(op vfs.Op, _ string, _, _ int64) error {
		if op != vfs.OpSyncDir || busy || crashed != nil || len(r.spareFiles()) <= spares {
			return nil
		}
		busy = true
		for range 2 * (spares + 2) * int(r.opts.SegmentSize) / rollingSize {
			r.last++
			r.must(Update{Group: r.g, Entries: entries(r.g, r.last, r.last, 1, rollingSize)})
		}
		crashed, last = r.fs.CrashClone(vfs.LoseAll), r.last
		busy = false
		return nil
	})
	for i := 0; crashed == nil; i++ {
		if spares = len(r.spareFiles()); i > 1000 {
			t.Fatal("no segment was freed")
		}
		if err := r.next(); err != nil {
			t.Fatal(err)
		}
	}
	r.fs.SetFault(nil)
	after := &rolling{rig: &rig{t: t, fs: crashed, cold: NewMemCold(), opts: r.opts}, g: r.g, first: r.first, last: last}
	after.open()
	defer after.log.Close()
	after.whole()
}

// TestSparesBesideTheCommitter has segments freed, and used again, by the two goroutines
// that do it.
func TestSparesBesideTheCommitter(t *testing.T) {
	t.Parallel()
	r := newRolling(t)
	r.log.Start()
	answers := make(chan error, 1)
	for i := uint64(1); i <= 2000 || r.log.Stats().SegmentsReused == 0; i++ {
		u := Update{Group: r.g, Entries: entries(r.g, i, i, 1, rollingSize), HardState: hard(1, 1, i)}
		if i > 40 && i%20 == 0 {
			u.Compact = &Mark{i - 10, 1}
			r.first = i - 9
		}
		r.log.Submit([]Update{u}, func(err error) { answers <- err })
		if err := <-answers; err != nil {
			t.Fatal(err)
		}
		r.last = i
		if i > 100_000 {
			t.Fatal("no segment was used again")
		}
	}
	r.whole()
}

// A disk that fails under a used file fails the log, as under any other; a file that has
// gone is only not used.
func TestSpareThatFails(t *testing.T) {
	t.Parallel()
	spare := func() *rolling {
		r := newRolling(t)
		r.fillSpare()
		return r
	}
	next := func(r *rolling) error { // until a segment is made
		for made := r.log.Stats().SegmentsMade; r.log.Stats().SegmentsMade == made; {
			if err := r.next(); err != nil {
				return err
			}
		}
		return nil
	}
	gone := spare()
	for _, name := range gone.spareFiles() {
		if err := gone.fs.Remove(path.Join(gone.opts.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := next(gone); err != nil {
		t.Fatalf("without the file: %v", err)
	}
	gone.whole()

	failing := spare()
	kept := failing.spareFiles()
	failing.fs.SetFault(func(op vfs.Op, name string, _, _ int64) error {
		if op == vfs.OpSync && slices.Contains(kept, path.Base(name)) {
			return errors.New("injected")
		}
		return nil
	})
	if err := next(failing); !errors.Is(err, ErrFailed) {
		t.Fatalf("with a disk that fails: %v", err)
	}
}

// The few entries that quiet groups need do not pin the segments of a busy one: they
// move on with the log, stay in the hot tier, and survive a loss of power at any moment.
// Many of them do not move for that: they wait until the segments hold too much.
func TestLittleThatIsNeededPinsNothing(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		size     int // of each of three entries of a quiet group; a segment's sixteenth is 1 KiB
		segments int // at most, in the end
		reused   bool
	}{{"little", 200, 5, true}, {"much", 1000, 40, false}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(o *Options) { o.SegmentSize, o.HotBytes, o.CacheBytes = 16<<10, 32*16<<10, 1 })
			quiet, voted, busy := r.group(), r.group(), r.group()
			r.must(Update{Group: quiet, Entries: entries(quiet, 1, 3, 1, test.size), HardState: hard(1, 1, 2), Meta: []byte("quiet")})
			r.must(Update{Group: voted, HardState: hard(7, 2, 0)}) // no entries, but a vote
			write := func(from, to uint64) {
				for i := from; i <= to; i++ {
					r.must(Update{Group: busy, Entries: entries(busy, i, i, 1, 1000), HardState: hard(1, 1, i)})
					if i%20 == 0 {
						r.must(Update{Group: busy, Compact: &Mark{i - 2, 1}})
					}
					r.reclaimAll()
				}
			}
			check := func() {
				t.Helper()
				r.check(quiet, 1, 3, 1, test.size)
				if st, err := r.log.State(voted); err != nil || st.HardState.GetTerm() != 7 || st.HardState.GetVote() != 2 {
					t.Fatalf("vote: %+v, %v", st, err)
				}
			}
			write(1, 400)
			check()
			if s := r.log.Stats(); r.cold.Len() > 0 || s.Segments > test.segments || (s.SegmentsReused > 0) != test.reused || !test.reused && s.Segments < 20 {
				t.Errorf("%+v", s)
			}
			for to := uint64(500); to <= 800; to += 100 {
				r.crash(vfs.LoseAll)
				check()
				write(to-99, to-50)
				r.reopen()
				check()
				write(to-49, to)
			}
			check()
			if n := r.cold.Len(); (n > 0) == test.reused {
				t.Errorf("%d records went cold", n)
			}
		})
	}
}
