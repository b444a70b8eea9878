package wal

import (
	"errors"
	"strings"
	"testing"

	"github.com/copycat-replication/copycat/internal/vfs"
)

func TestDamageOnRead(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.CacheBytes = 1 })
	g := r.group()
	r.must(Update{Group: g, Entries: entries(g, 1, 5, 1, 100), HardState: hard(1, 1, 5)})
	p := r.log.groups[g].places[2]
	r.flip(r.lastSegment(), int64(p.off)+50)
	_, err := r.log.Entries(g, 1, 6, 1<<20)
	var d *DamageError
	if !errors.As(err, &d) || d.Group != g || d.Index != 3 || d.File != r.lastSegment() || d.Offset != int64(p.off) {
		t.Fatalf("read: %v", err)
	}
	if got, err := r.log.Entries(g, 1, 3, 1<<20); err != nil || len(got) != 2 {
		t.Fatalf("neighbours: %v, %v", got, err)
	}
}

// TestDamagedEntryPinsNothing: entries that rot in a segment, committed ones and
// others, do not keep it and all behind it from being freed; whoever reads them hears
// of it as before, wherever their places are, and their segment's file is kept.
func TestDamagedEntryPinsNothing(t *testing.T) {
	t.Parallel()
	t.Run("moves to the newest segment", func(t *testing.T) { t.Parallel(); damagedEntryPinsNothing(t, 100, false) })
	t.Run("goes cold", func(t *testing.T) { t.Parallel(); damagedEntryPinsNothing(t, 300, true) })
}

func damagedEntryPinsNothing(t *testing.T, size int, cold bool) {
	r := newRig(t, func(o *Options) {
		o.CacheBytes, o.SegmentSize, o.HotBytes = 1, 16<<10, 32<<10
		if !cold {
			o.HotBytes = 1 << 20
		}
	})
	g, busy := r.group(), r.group()
	r.must(Update{Group: g, Entries: entries(g, 1, 7, 1, size), HardState: hard(1, 1, 5), Meta: []byte("meta")})
	first := r.lastSegment()
	for _, i := range []int{2, 5} { // the entries 3 and 6
		r.flip(first, int64(r.log.groups[g].places[i].off)+50)
	}
	last := uint64(0)
	move := func(rounds int) {
		for range rounds {
			last++
			r.must(Update{Group: busy, Entries: entries(busy, last, last, 1, 3000), HardState: hard(1, 1, last)})
			r.must(Update{Group: busy, Compact: &Mark{last, 1}})
			r.reclaimAll()
		}
	}
	check := func() {
		t.Helper()
		for i := uint64(1); i <= 7; i++ {
			got, err := r.log.Entries(g, i, i+1, 1<<20)
			var d *DamageError
			if lost := i == 3 || i == 6; lost != (errors.As(err, &d) && d.Group == g && d.Index == i) || (!lost && err != nil) {
				t.Fatalf("entry %d: %v, %v", i, got, err)
			}
			if term, err := r.log.Term(g, i); err != nil || term != 1 {
				t.Fatalf("term of entry %d: %d, %v", i, term, err)
			}
		}
		if s := r.log.Suspects(); len(s) > 0 {
			t.Fatalf("suspects %+v", s)
		}
		var d *DamageError
		if err := r.log.VerifyCold(g); cold && (!errors.As(err, &d) || d.Index != 3) || !cold && err != nil {
			t.Fatalf("verify: %v", err)
		}
	}
	move(100)
	if (r.cold.Len() > 0) != cold {
		t.Fatalf("%d cold records", r.cold.Len())
	}
	check()
	s := r.log.Stats()
	if s.Lost != 2 || s.SegmentBytes > 100<<10 {
		t.Fatalf("stats %+v", s)
	}
	for range 3 {
		r.crash(vfs.LoseAll)
		check()
		move(50)
		check()
	}
	names, err := r.fs.List(r.opts.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for _, n := range names {
		if strings.HasSuffix(n, ".damaged") {
			kept = append(kept, n)
		}
	}
	if len(kept) != 1 || kept[0] != first+".damaged" || r.log.Stats().Lost != 0 {
		t.Fatalf("kept %v, stats %+v", kept, r.log.Stats())
	}
	// Once the others have taken the group past it, nothing is left of it.
	r.must(Update{Group: g, HardState: hard(1, 1, 7), Compact: &Mark{7, 1}})
	r.must(Update{Group: g, Entries: entries(g, 8, 9, 1, size)})
	r.check(g, 8, 9, 1, size)
}

// TestUnreadableEntryIsTriedAgain: what the disk refuses it may give the next time.
func TestUnreadableEntryIsTriedAgain(t *testing.T) {
	t.Parallel()
	for _, refusals := range []int{maxRefusals, maxRefusals + 1} {
		r := newRig(t, func(o *Options) { o.CacheBytes = 1 })
		g := r.group()
		r.must(Update{Group: g, Entries: entries(g, 1, 5, 1, 500), HardState: hard(1, 1, 5)})
		name, at := r.lastSegment(), int64(r.log.groups[g].places[2].off)
		r.log.opts.HotBytes = 1
		if err := r.log.rollLocked(0); err != nil {
			t.Fatal(err)
		}
		r.refuse(name, at)
		for i := range maxRefusals {
			var d *DamageError
			if _, err := r.log.Reclaim(); !errors.As(err, &d) || d.Index != 3 || d.Err == nil {
				t.Fatalf("attempt %d: %v", i, err)
			}
		}
		if refusals == maxRefusals {
			r.fs.SetFault(nil)
		}
		r.reclaimAll()
		r.fs.SetFault(nil)
		if r.log.Stats().Segments != 1 {
			t.Fatalf("stats %+v", r.log.Stats())
		}
		var d *DamageError
		_, err := r.all(g, 1, 6)
		if lost := errors.As(err, &d) && d.Index == 3; lost != (refusals > maxRefusals) || (!lost && err != nil) {
			t.Fatalf("after %d refusals: %v", refusals, err)
		}
	}
}

func TestColdDamage(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.CacheBytes = 1 })
	g := r.group()
	r.must(Update{Group: g, Entries: entries(g, 1, 9, 1, 100), HardState: hard(1, 1, 9)})
	r.reopen()
	r.log.opts.HotBytes = 1
	r.reclaimAll()
	if r.cold.Len() != 9 || r.log.groups[g].first != 10 {
		t.Fatalf("%d cold records", r.cold.Len())
	}
	r.check(g, 1, 9, 1, 100)
	r.cold.Flip(ColdKey{g, 4}, 500)
	var d *DamageError
	if _, err := r.all(g, 1, 10); !errors.As(err, &d) || d.Group != g || d.Index != 4 {
		t.Fatalf("flipped: %v", err)
	}
	if err := r.log.VerifyCold(g); !errors.As(err, &d) || d.Index != 4 {
		t.Fatalf("verify: %v", err)
	}
	if err := r.cold.Delete(ColdKey{g, 4}, ColdKey{g, 5}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.all(g, 1, 10); !errors.As(err, &d) || d.Group != g || d.Index != 4 {
		t.Fatalf("missing: %v", err)
	}
	r.must(Update{Group: g, Compact: &Mark{9, 1}})
	if _, err := r.all(g, 1, 10); !errors.Is(err, ErrCompacted) {
		t.Fatalf("compacted: %v", err)
	}
	r.reclaimAll()
	if r.cold.Len() != 0 {
		t.Fatalf("%d cold records are left", r.cold.Len())
	}
}
