package wal

import (
	"errors"
	"path"
	"strings"
	"testing"

	"github.com/copycat-replication/copycat/internal/vfs"
)

// TestTailOfADeadProcess: a batch whose sync failed is still in the page
// cache when the next process opens the log. If that one accepts it, it must
// survive a power cut, though the cache calls its pages clean.
func TestTailOfADeadProcess(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g := r.group()
	r.must(Update{Group: g, Entries: entries(g, 1, 2, 1, 10)})
	r.fs.SetFault(func(op vfs.Op, _ string, _, _ int64) error {
		if op == vfs.OpSync {
			return errors.New("injected")
		}
		return nil
	})
	if err := r.try(Update{Group: g, Entries: entries(g, 3, 4, 1, 9000)}); !errors.Is(err, ErrFailed) {
		t.Fatal(err)
	}
	r.fs.SetFault(nil)
	_ = r.log.Close()
	r.open()
	r.check(g, 3, 4, 1, 9000)
	r.crash(vfs.LoseAll)
	if d, s := r.log.Damages(), r.log.Suspects(); len(d)+len(s) > 0 {
		t.Fatalf("damages %v, suspects %+v", d, s)
	}
	r.check(g, 3, 4, 1, 9000)
}

// TestUncommittedTailMoves: entries that are not committed are carried to a
// newer segment, however often, and never go cold.
func TestUncommittedTailMoves(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.SegmentSize, o.HotBytes = 16<<10, 32<<10 })
	stuck, busy := r.group(), r.group()
	r.must(Update{Group: stuck, Entries: entries(stuck, 1, 5, 1, 400), HardState: hard(1, 1, 2), Meta: []byte("stuck")})
	for i := uint64(1); i <= 300; i++ {
		r.must(Update{Group: busy, Entries: entries(busy, i, i, 1, 1000), HardState: hard(1, 1, i)})
		if i%5 == 0 {
			r.must(Update{Group: busy, Compact: &Mark{i - 1, 1}})
		}
		if i == 150 {
			r.must(Update{Group: stuck, Entries: entries(stuck, 4, 6, 2, 400)})
		}
		r.reclaimAll()
		if i%40 == 0 {
			r.crash(vfs.LoseAll)
		}
	}
	if r.log.order[0].number < 8 || r.cold.Len() != 2 {
		t.Fatalf("oldest segment %d, %d cold records", r.log.order[0].number, r.cold.Len())
	}
	r.crash(vfs.LoseAll)
	r.check(stuck, 4, 6, 2, 400)
	if got, err := r.all(stuck, 1, 4); err != nil || len(got) != 3 || got[2].GetTerm() != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	// Committed at last, they go cold behind the first two, as one range.
	r.must(Update{Group: stuck, HardState: hard(2, 1, 6)})
	r.log.opts.HotBytes = -1 << 20
	for r.log.groups[stuck].first < 7 {
		if _, err := r.log.Reclaim(); err != nil {
			t.Fatal(err)
		}
		if r.log.order[0] == r.log.writer.active {
			if err := r.log.rollLocked(0); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.crash(vfs.LoseAll)
	r.check(stuck, 4, 6, 2, 400)
	if err := r.log.VerifyCold(stuck); err != nil {
		t.Fatal(err)
	}
}

func TestHalfMadeSegmentIsRemoved(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.SegmentSize = 16 << 10 })
	g := r.group()
	r.must(Update{Group: g, Entries: entries(g, 1, 2, 1, 10)})
	r.fs.SetFault(func(op vfs.Op, name string, _, _ int64) error {
		if op == vfs.OpRename || op == vfs.OpRemove {
			return errors.New("injected")
		}
		return nil
	})
	if err := r.try(Update{Group: g, Entries: entries(g, 3, 3, 1, 16<<10)}); !errors.Is(err, ErrFailed) {
		t.Fatal(err)
	}
	r.crash(vfs.KeepAll)
	names, err := r.fs.List(r.opts.Dir)
	if err != nil || strings.Contains(path.Join(names...), temporarySuffix) {
		t.Fatalf("%v, %v", names, err)
	}
	r.check(g, 1, 2, 1, 10)
}

// TestEntryLargerThanASegment makes a segment of its own size.
func TestEntryLargerThanASegment(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.SegmentSize, o.CacheBytes = 16<<10, 1 })
	g := r.group()
	r.must(Update{Group: g, Entries: entries(g, 1, 3, 1, 1<<20), HardState: hard(1, 1, 3)})
	r.must(Update{Group: g, Entries: entries(g, 4, 4, 1, 10)})
	for range 2 {
		if got, err := r.all(g, 1, 4); err != nil || len(got[2].Data) != 1<<20 {
			t.Fatal(err)
		}
		r.crash(vfs.LoseAll)
	}
	r.check(g, 4, 4, 1, 10)
}
