package wal

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/copycat-replication/copycat/internal/vfs"
)

// testColdStore is what every ColdStore must do. reopen returns the same
// store as a later life finds it.
func testColdStore(t *testing.T, s ColdStore, reopen func(ColdStore) ColdStore) {
	record := func(group, index uint64, size int) ColdRecord {
		b := bytes.Repeat([]byte(fmt.Sprintf("%d/%d.", group, index)), size/4+1)[:size]
		return ColdRecord{Key: ColdKey{group, index}, Bytes: b}
	}
	check := func(group, lo, hi, maxBytes uint64, size, want int) {
		t.Helper()
		got, err := s.Get(group, lo, hi, maxBytes)
		if err != nil || len(got) != want {
			t.Fatalf("get %d [%d, %d): %d records (%v), want %d", group, lo, hi, len(got), err, want)
		}
		for i, b := range got {
			if !bytes.Equal(b, record(group, lo+uint64(i), size).Bytes) {
				t.Fatalf("group %d index %d: other bytes", group, lo+uint64(i))
			}
		}
	}
	const big = 3*coldPiece + 17
	var batch []ColdRecord
	for i := uint64(1); i <= 300; i++ {
		batch = append(batch, record(1, i, 100), record(256, i, 100))
	}
	for i := uint64(5); i <= 9; i++ {
		batch = append(batch, record(2, i, big))
	}
	batch = append(batch, record(3, 1, coldPiece), record(3, 2, coldPiece), record(3, 3, coldPiece))
	if err := s.Put(batch); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(nil); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		check(1, 1, 301, math.MaxUint64, 100, 300)
		check(256, 10, 20, math.MaxUint64, 100, 10)
		check(1, 290, 400, math.MaxUint64, 100, 11) // stops where there is no more
		check(1, 1, 301, 1000, 100, 10)             // stops at maxBytes
		check(1, 1, 301, 1, 100, 1)                 // but not before the first
		check(2, 5, 10, math.MaxUint64, big, 5)
		check(2, 6, 10, 2*big, big, 2)
		check(3, 1, 4, math.MaxUint64, coldPiece, 3)
		check(2, 4, 10, math.MaxUint64, big, 0) // a gap at lo is nothing
		check(4, 1, 10, math.MaxUint64, 100, 0)
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
		s = reopen(s)
	}
	if err := s.Delete(ColdKey{1, 250}, ColdKey{2, 7}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		check(1, 240, 300, math.MaxUint64, 100, 10)
		check(2, 5, 10, math.MaxUint64, big, 0)
		check(2, 7, 10, math.MaxUint64, big, 3)
		check(256, 1, 301, math.MaxUint64, 100, 300)
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
		s = reopen(s)
	}
	if err := s.Put([]ColdRecord{record(2, 5, big), record(2, 6, big)}); err != nil {
		t.Fatal(err)
	}
	check(2, 5, 10, math.MaxUint64, big, 5)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestMemCold(t *testing.T) {
	t.Parallel()
	testColdStore(t, NewMemCold(), func(s ColdStore) ColdStore { return s.(*MemCold).Crash() })
}

func TestBadgerCold(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := func() ColdStore {
		s, err := OpenBadger(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	testColdStore(t, open(), func(s ColdStore) ColdStore {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return open()
	})
}

// TestBadgerUnderLog runs the whole path on the real disk, Badger opened by
// the log itself.
func TestBadgerUnderLog(t *testing.T) {
	t.Parallel()
	o := Options{FS: vfs.OS{}, Dir: t.TempDir() + "/wal", SegmentSize: 64 << 10, HotBytes: 128 << 10, CacheBytes: 1, ReserveBytes: 1}
	r := &rig{t: t}
	open := func() {
		l, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		r.log = l
	}
	open()
	lagging, busy := r.group(), r.group()
	r.must(Update{Group: lagging, Entries: entries(lagging, 1, 50, 1, 500), HardState: hard(1, 1, 40)})
	for i := uint64(1); i <= 300; i++ {
		r.must(Update{Group: busy, Entries: entries(busy, i, i, 1, 2000), HardState: hard(1, 1, i), Compact: &Mark{max(i, 5) - 5, 1}})
		r.reclaimAll()
	}
	s := r.log.Stats()
	if s.ColdEntries != 40 || s.SegmentBytes > 1<<20 {
		t.Fatalf("stats %+v", s)
	}
	for range 2 {
		r.check(lagging, 1, 50, 1, 500)
		if err := r.log.VerifyCold(lagging); err != nil {
			t.Fatal(err)
		}
		if err := r.log.Close(); err != nil {
			t.Fatal(err)
		}
		open()
	}
	r.must(Update{Group: lagging, Remove: true})
	r.reclaimAll()
	if s := r.log.Stats(); s.ColdEntries != 0 {
		t.Fatalf("stats %+v", s)
	}
	store, release, err := r.log.coldStore()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := store.Get(lagging, 1, 41, math.MaxUint64); err != nil || len(got) != 0 {
		t.Fatalf("%d records are left (%v)", len(got), err)
	}
	release()
	if err := r.log.Close(); err != nil {
		t.Fatal(err)
	}
}

// badgerLog is a log on the real disk, most of whose first group is in Badger, closed.
func badgerLog(t *testing.T) (r *rig, lagging uint64, open func() *rig) {
	o := Options{FS: vfs.OS{}, Dir: t.TempDir() + "/wal", SegmentSize: 64 << 10, HotBytes: 128 << 10, CacheBytes: 1, ReserveBytes: 1}
	r = &rig{t: t, opts: o}
	open = func() *rig {
		l, err := Open(r.opts)
		if err != nil {
			t.Fatal(err)
		}
		r.log = l
		t.Cleanup(func() { _ = l.Close() })
		return r
	}
	open()
	lagging = r.group()
	r.must(Update{Group: lagging, Entries: entries(lagging, 1, 50, 1, 500), HardState: hard(1, 1, 40)})
	r.goCold(lagging)
	if err := r.log.Close(); err != nil {
		t.Fatal(err)
	}
	return r, lagging, open
}

// goCold has others write until the committed entries of a group are cold.
func (r *rig) goCold(group uint64) {
	r.t.Helper()
	busy := r.group()
	for i := uint64(1); r.log.groups[group].first <= r.log.groups[group].committed(); i++ {
		r.must(Update{Group: busy, Entries: entries(busy, i, i, 1, 2000), HardState: hard(1, 1, i), Compact: &Mark{max(i, 5) - 5, 1}})
		r.reclaimAll()
		if i > 1000 {
			r.t.Fatal("nothing goes cold")
		}
	}
	r.must(Update{Group: busy, Remove: true})
}

// TestBadgerThatDoesNotOpen: a database that is damaged so that Badger fails to open it,
// or would take the process with it, is set aside. What was in it is damage, the log
// goes on, and what comes goes cold again.
func TestBadgerThatDoesNotOpen(t *testing.T) {
	t.Parallel()
	change := func(pattern string, f func([]byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			names, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil || len(names) == 0 {
				t.Fatalf("no %s: %v", pattern, err)
			}
			b, err := os.ReadFile(names[0])
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(names[0], f(b), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, damage := range map[string]func(*testing.T, string){
		"table cut off":         change("*.sst", func(b []byte) []byte { return b[:len(b)/2] }),
		"table of few bytes":    change("*.sst", func(b []byte) []byte { return b[len(b)-6:] }),
		"empty table":           change("*.sst", func(b []byte) []byte { return nil }),
		"checksum's length":     change("*.sst", func(b []byte) []byte { b[len(b)-4] ^= 1; return b }),
		"checksum":              change("*.sst", func(b []byte) []byte { b[len(b)-5] ^= 64; return b }),
		"index":                 change("*.sst", func(b []byte) []byte { b[len(b)-40] ^= 1; return b }),
		"manifest":              change("MANIFEST", func(b []byte) []byte { b[len(b)-3] ^= 1; return b }),
		"manifest of few bytes": change("MANIFEST", func(b []byte) []byte { return b[:3] }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, g, open := badgerLog(t)
			dir := filepath.Join(r.opts.Dir, coldDirectoryName)
			damage(t, dir)
			open()
			var d *DamageError
			if got, err := r.log.Entries(g, 1, 51, math.MaxUint64); !errors.As(err, &d) || d.Group != g || d.Index != 1 {
				t.Fatalf("%d entries, %v", len(got), err)
			}
			if _, err := os.Stat(dir + ".damaged.1"); err != nil {
				t.Error(err)
			}
			r.check(g, 41, 50, 1, 500)
			other := r.group()
			r.must(Update{Group: other, Entries: entries(other, 1, 50, 1, 500), HardState: hard(1, 1, 50)})
			r.goCold(other)
			for range 2 {
				r.check(other, 1, 50, 1, 500)
				if err := r.log.Close(); err != nil {
					t.Fatal(err)
				}
				open()
			}
		})
	}
}

// roomyFS says how much is free as it is told.
type roomyFS struct {
	vfs.OS
	free atomic.Uint64
}

func (f *roomyFS) Free(string) (uint64, error) { return f.free.Load(), nil }

// TestBadgerIsNotOpenedOnAFullDisk: Badger writes as it opens, and a full disk under
// its memory maps kills the process. What is in it is not readable until there is room.
func TestBadgerIsNotOpenedOnAFullDisk(t *testing.T) {
	t.Parallel()
	r, g, open := badgerLog(t)
	full := &roomyFS{}
	r.opts.FS = full
	open()
	for range 2 * maxColdOpens {
		var d *DamageError
		if _, err := r.log.Entries(g, 1, 41, math.MaxUint64); !errors.As(err, &d) || d.Index != 1 || !errors.Is(err, ErrDiskFull) {
			t.Fatal(err)
		}
	}
	if err := r.log.VerifyCold(g); !errors.Is(err, ErrDiskFull) {
		t.Fatal(err)
	}
	full.free.Store(1 << 40)
	r.check(g, 1, 50, 1, 500)
}

// failingCold fails every write from some moment on.
type failingCold struct {
	*MemCold
	fail error
}

func (f *failingCold) Put(r []ColdRecord) error {
	if f.fail != nil {
		_ = f.MemCold.Put(r[:len(r)/2])
		return f.fail
	}
	return f.MemCold.Put(r)
}

func TestColdFailureFreesNothing(t *testing.T) {
	t.Parallel()
	cold := &failingCold{MemCold: NewMemCold(), fail: errors.New("injected")}
	r := newRig(t)
	if err := r.log.Close(); err != nil {
		t.Fatal(err)
	}
	o := r.opts
	o.FS, o.Cold, o.HotBytes = r.fs, cold, 1
	var err error
	if r.log, err = Open(o); err != nil {
		t.Fatal(err)
	}
	g := r.group()
	r.must(Update{Group: g, Entries: entries(g, 1, 10, 1, 500), HardState: hard(1, 1, 10)})
	if err := r.log.rollLocked(0); err != nil {
		t.Fatal(err)
	}
	if more, err := r.log.Reclaim(); !more || err != nil { // the empty first segment
		t.Fatalf("reclaim: %v, %v", more, err)
	}
	names, _ := r.segmentFiles()
	for range 2 {
		// Working again is no reason to trust it again: what it holds is unknown.
		if _, err := r.log.Reclaim(); err == nil || errors.Is(err, ErrFailed) {
			t.Fatalf("reclaim: %v", err)
		}
		cold.fail = nil
	}
	now, _ := r.segmentFiles()
	if len(now) < len(names) {
		t.Fatalf("segments %v, then %v", names, now)
	}
	r.check(g, 1, 10, 1, 500)
	r.must(Update{Group: g, Entries: entries(g, 11, 12, 1, 500)})
}

// TestColdOrphansAreSwept: what a crash left in the store before its manifest
// was written is deleted by a later life, and never taken for an entry.
func TestColdOrphansAreSwept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g := r.group()
	r.must(Update{Group: g, Entries: entries(g, 1, 10, 1, 500), HardState: hard(1, 1, 10)})
	r.reopen()
	stray := ColdRecord{Key: ColdKey{g, 50}, Bytes: []byte("stray")}
	other := ColdRecord{Key: ColdKey{g + 77, 1}, Bytes: []byte("stray")}
	if err := r.cold.Put([]ColdRecord{stray, other}); err != nil {
		t.Fatal(err)
	}
	r.log.opts.HotBytes = 1
	r.reclaimAll()
	if r.cold.Len() != 10 {
		t.Fatalf("%d records", r.cold.Len())
	}
	r.check(g, 1, 10, 1, 500)
}

func TestNoColdWriteWhenSpaceIsLow(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.ReserveBytes = 100 << 10 })
	g := r.group()
	r.must(Update{Group: g, Entries: entries(g, 1, 10, 1, 500), HardState: hard(1, 1, 10)})
	r.reopen()
	r.log.opts.HotBytes = 1
	r.fs.SetCapacity(r.fs.Used() + 50<<10)
	if _, err := r.log.Reclaim(); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("reclaim: %v", err)
	}
	if r.cold.Len() != 0 {
		t.Fatal("something was written")
	}
	r.fs.SetCapacity(0)
	r.reclaimAll()
	if r.cold.Len() != 10 {
		t.Fatalf("%d records", r.cold.Len())
	}
}
