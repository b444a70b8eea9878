package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/copycat-replication/copycat/internal/vfs"
)

// segmentFiles returns the names of the segments with what is in them.
func (r *rig) segmentFiles() (names []string, content map[string][]byte) {
	r.t.Helper()
	list, err := r.fs.List(r.opts.Dir)
	if err != nil {
		r.t.Fatal(err)
	}
	content = map[string][]byte{}
	for _, name := range list {
		if _, ok := parseSegmentName(name); ok {
			names = append(names, name)
			content[name] = r.content(name)
		}
	}
	return names, content
}

func (r *rig) content(name string) []byte {
	r.t.Helper()
	f, err := r.fs.Open(path.Join(r.opts.Dir, name))
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	size, _ := f.Size()
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		r.t.Fatal(err)
	}
	return b
}

// branch is a rig on a copy of the disk, as a crash leaves it.
func (r *rig) branch(fate func(vfs.Unsynced) vfs.Fate) *rig {
	return &rig{t: r.t, fs: r.fs.CrashClone(fate), cold: r.cold.Crash(), opts: r.opts}
}

func (r *rig) overwrite(name string, off int64, b []byte) {
	r.t.Helper()
	f, err := r.fs.OpenReadWrite(path.Join(r.opts.Dir, name))
	if err == nil {
		_, err = f.WriteAt(b, off)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) flip(name string, off int64) {
	r.t.Helper()
	if err := r.fs.FlipBit(path.Join(r.opts.Dir, name), off, uint(off)%8); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) lastSegment() string {
	names, _ := r.segmentFiles()
	return names[len(names)-1]
}

// describe prints all that a group holds.
func (r *rig) describe(group uint64) string {
	st, err := r.log.State(group)
	if err != nil {
		return err.Error()
	}
	got, err := r.all(group, st.Compacted.Index+1, st.LastIndex+1)
	s := fmt.Sprintf("%v %d %q %v:", st.Compacted, st.LastIndex, st.Meta, err)
	s += fmt.Sprintf(" %d/%d/%d", st.HardState.GetTerm(), st.HardState.GetVote(), st.HardState.GetCommit())
	for _, e := range got {
		s += fmt.Sprintf(" %d.%d.%d", e.GetIndex(), e.GetTerm(), len(e.Data))
	}
	return s
}

func TestTornTailAtEveryByte(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g := r.group()
	r.must(Update{Group: g, Entries: entries(g, 1, 3, 1, 20), HardState: hard(1, 2, 3)})
	seg := r.lastSegment()
	from := r.log.writer.active.end
	before := r.describe(g)
	r.must(Update{Group: g, Entries: entries(g, 4, 6, 2, 20), HardState: hard(2, 3, 5), Meta: []byte("new")})
	to := r.log.writer.active.end
	after := r.describe(g)
	for cut := from; cut < to; cut++ {
		b := r.branch(vfs.LoseAll)
		b.overwrite(seg, cut, make([]byte, to-cut))
		b.open()
		got := b.describe(g)
		if got != before && (got != after || cut < to-batchAlign) {
			t.Fatalf("cut at %d of %d..%d: %s", cut, from, to, got)
		}
		if len(b.log.Suspects()) > 0 || len(b.log.Damages()) > 0 {
			t.Fatalf("cut at %d: a tear passes for damage: %v", cut, b.log.Damages())
		}
		// The next life must not take the dropped bytes for damage either.
		b.reopen()
		if again := b.describe(g); again != got || len(b.log.Damages()) > 0 {
			t.Fatalf("cut at %d: %s, then %s, %v", cut, got, again, b.log.Damages())
		}
		if err := b.log.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOnlyTheThirdPageLanded(t *testing.T) {
	t.Parallel()
	for only := range 6 {
		r := newRig(t)
		g := r.group()
		r.must(Update{Group: g, Entries: entries(g, 1, 3, 1, 20)})
		before := r.describe(g)
		start := r.log.writer.active.end
		r.fs.SetFault(func(op vfs.Op, _ string, _, _ int64) error {
			if op == vfs.OpSync {
				return errors.New("injected")
			}
			return nil
		})
		if err := r.try(Update{Group: g, Entries: entries(g, 4, 8, 1, 4096)}); !errors.Is(err, ErrFailed) {
			t.Fatalf("submit: %v", err)
		}
		b := r.branch(func(u vfs.Unsynced) vfs.Fate {
			if u.Kind == vfs.UnsyncedPage && u.Off/vfs.PageSize == start/vfs.PageSize+int64(only) {
				return vfs.Landed
			}
			return vfs.Fate{}
		})
		b.open()
		if got := b.describe(g); got != before || len(b.log.Damages()) > 0 {
			t.Fatalf("page %d alone: %s, want %s; %v", only, got, before, b.log.Damages())
		}
		b.must(Update{Group: g, Entries: entries(g, 4, 4, 2, 10)})
		if err := b.log.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// everyKind fills a log with every kind of record, over several segments, and
// closes it. It returns what each group holds.
func everyKind(t *testing.T, r *rig) map[uint64]string {
	t.Helper()
	quiet, removed, coldOne := r.group(), r.group(), r.group()
	r.must(Update{Group: quiet, HardState: hard(3, 7, 0), Meta: []byte("quiet")})
	r.must(Update{Group: removed, Entries: entries(removed, 1, 2, 1, 10), Meta: []byte("removed")})
	r.must(Update{Group: coldOne, Entries: entries(coldOne, 1, 6, 1, 40), HardState: hard(1, 1, 4)})
	r.reopen()
	compacted, busy, installed := r.group(), r.group(), r.group()
	r.must(Update{Group: compacted, Entries: entries(compacted, 1, 6, 2, 15), HardState: hard(2, 1, 5), Meta: []byte("c")})
	r.must(Update{Group: busy, Entries: entries(busy, 1, 3, 1, 30), HardState: hard(1, 1, 1)},
		Update{Group: installed, Compact: &Mark{100, 9}, HardState: hard(9, 0, 100), Meta: []byte("snapshot")})
	// The first segment goes: its votes are carried, its entries turn cold.
	r.log.opts.HotBytes = -1 << 20
	for r.log.order[0].number == 1 {
		if _, err := r.log.Reclaim(); err != nil {
			t.Fatal(err)
		}
	}
	r.log.opts.HotBytes = 1 << 20
	r.must(Update{Group: removed, Remove: true})
	r.reopen()
	r.must(Update{Group: compacted, Compact: &Mark{3, 2}})
	r.must(Update{Group: busy, Entries: entries(busy, 2, 4, 2, 12), HardState: hard(2, 2, 2)})
	r.must(Update{Group: installed, Entries: entries(installed, 101, 102, 9, 8)})
	if s := r.log.Stats(); s.ColdEntries != 4 || r.log.order[0].number == 1 {
		t.Fatalf("the test does not reach the cold store: %+v", s)
	}
	want := map[uint64]string{}
	for _, st := range r.log.Groups() {
		want[st.Group] = r.describe(st.Group)
	}
	if err := r.log.Close(); err != nil {
		t.Fatal(err)
	}
	r.log = nil
	return want
}

// TestFlipEveryByte flips one bit in every byte that was ever written. What
// is below the durable mark must never be dropped as a tear, and whoever is
// not set aside must be exactly what was acknowledged.
func TestFlipEveryByte(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.SegmentSize = 8 << 10 })
	want := everyKind(t, r)
	names, content := r.segmentFiles()
	flips, damaged, aside, whole := 0, 0, 0, 0
	for _, name := range names {
		end := len(bytes.TrimRight(content[name], "\x00")) + 1
		for off := range min(end, len(content[name])) {
			b := r.branch(vfs.LoseAll)
			b.flip(name, int64(off))
			b.open()
			flips++
			suspects := b.log.Suspects()
			if len(b.log.Damages()) > 0 {
				damaged++
			} else if len(suspects) > 0 {
				t.Fatalf("%s byte %d: suspects without damage: %+v", name, off, suspects)
			}
			if len(suspects) == len(want) {
				whole++
			}
			aside += len(suspects)
			for g, s := range want {
				if slices.ContainsFunc(suspects, func(s Suspect) bool { return s.Group == g }) {
					if _, err := b.log.State(g); !errors.Is(err, ErrSuspect) {
						t.Fatalf("state of a suspect: %v", err)
					}
					continue
				}
				if got := b.describe(g); got != s {
					t.Fatalf("%s byte %d: group %d is %s, want %s; %v", name, off, g, got, s, b.log.Damages())
				}
			}
			for _, st := range b.log.Groups() {
				if want[st.Group] == "" {
					t.Fatalf("%s byte %d: group %d is back", name, off, st.Group)
				}
			}
			if n := b.group(); n <= 6 {
				t.Fatalf("%s byte %d: group number %d again", name, off, n)
			}
			// Nothing is deleted, and the verdict stays.
			damages := len(b.log.Damages())
			b.reopen()
			if again := b.log.Suspects(); len(again) != len(suspects) || len(b.log.Damages()) < min(damages, 1) {
				t.Fatalf("%s byte %d: suspects %+v, then %+v", name, off, suspects, again)
			}
			if err := b.log.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d flips, %d damages, %.2f groups set aside on average, all of them %d times", flips, damaged, float64(aside)/float64(flips), whole)
}

// TestFlipBelowTheMark flips bits in a segment that was not sealed with a
// table: who has no later frame cannot be proven current when frames of
// unknown groups are gone.
func TestFlipBelowTheMark(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b, c := r.group(), r.group(), r.group()
	for i := uint64(1); i <= 3; i++ {
		for _, g := range []uint64{a, b} {
			r.log.Submit([]Update{{Group: g, Entries: entries(g, i, i, 1, 10), HardState: hard(i, 1, i)}}, func(error) {})
		}
		r.must(Update{Group: a, Meta: []byte{byte(i)}})
	}
	for i := uint64(1); i <= 2; i++ { // only c goes on
		r.must(Update{Group: c, Entries: entries(c, i, i, 1, 10)})
	}
	seg, mark := r.lastSegment(), r.log.writer.active.end
	r.must(Update{Group: a, Meta: []byte("last")})
	want := map[uint64]string{a: r.describe(a), b: r.describe(b), c: r.describe(c)}
	unproven := 0
	head, _, _ := decodeHead(r.content(seg), seg)
	for off := int64(align(head.size)); off < mark; off++ {
		d := r.branch(vfs.LoseAll)
		d.flip(seg, off)
		d.open()
		suspects := map[uint64]bool{}
		for _, s := range d.log.Suspects() {
			suspects[s.Group] = true
			if strings.HasPrefix(s.Why, "frames may be lost") {
				unproven++
			}
		}
		for g, s := range want {
			if got := d.describe(g); !suspects[g] && got != s {
				t.Fatalf("byte %d: group %d is %s, want %s; %v", off, g, got, s, d.log.Damages())
			}
		}
		if err := d.log.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if unproven == 0 {
		t.Fatal("nobody was set aside for want of a proof")
	}
}

// TestDamageInOneFrame sets aside only the group whose frame it is, keeps
// what is known of it, and frees its segment only after it was removed.
func TestDamageInOneFrame(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b, c := r.group(), r.group(), r.group()
	r.must(Update{Group: a, Meta: []byte("who a is"), HardState: hard(4, 2, 0)})
	r.must(Update{Group: b, Entries: entries(b, 1, 3, 1, 50), HardState: hard(1, 1, 3)})
	at := r.log.writer.active.end
	r.must(Update{Group: a, Entries: entries(a, 1, 3, 1, 50)})
	r.must(Update{Group: c, Entries: entries(c, 1, 3, 1, 50), HardState: hard(1, 1, 2)})
	seg := r.lastSegment()
	if err := r.log.Close(); err != nil {
		t.Fatal(err)
	}
	r.flip(seg, at+batchHeaderSize+frameHeaderSize+20)
	size := len(r.content(seg))
	r.open()
	s := r.log.Suspects()
	if len(s) != 1 || s[0].Group != a || string(s[0].Meta) != "who a is" || s[0].HardState.GetVote() != 2 || s[0].File != seg || s[0].Offset < at {
		t.Fatalf("suspects %+v", s)
	}
	if d := r.log.Damages(); len(d) != 1 || d[0].Group != a || d[0].File != seg || !errors.Is(d[0], ErrDamage) {
		t.Fatalf("damages %v", d)
	}
	if got := len(r.content(seg)); got != size {
		t.Fatalf("the damaged segment was cut from %d to %d bytes", size, got)
	}
	r.check(b, 1, 3, 1, 50)
	r.check(c, 1, 3, 1, 50)
	for _, u := range []Update{{Group: a, Entries: entries(a, 4, 4, 1, 1)}, {Group: a, HardState: hard(9, 9, 0)}} {
		if err := r.try(u); !errors.Is(err, ErrSuspect) {
			t.Fatalf("update of a suspect: %v", err)
		}
	}
	r.log.opts.HotBytes = -1 << 20
	for r.log.order[0].name == seg {
		if _, err := r.log.Reclaim(); err != nil {
			t.Fatal(err)
		}
	}
	if s := r.log.Suspects(); len(s) != 1 || string(s[0].Meta) != "who a is" {
		t.Fatalf("suspects after reclaim %+v", s)
	}
	if names, _ := r.fs.List(r.opts.Dir); !slices.Contains(names, seg+".damaged") {
		t.Fatalf("the damaged segment is gone: %v", names)
	}
	r.reopen()
	if s := r.log.Suspects(); len(s) != 1 || string(s[0].Meta) != "who a is" || !strings.Contains(s[0].Why, "damaged") {
		t.Fatalf("suspects after reclaim and reopen %+v", s)
	}
	r.must(Update{Group: a, Remove: true})
	r.reopen()
	if s := r.log.Suspects(); len(s) != 0 {
		t.Fatalf("suspects after remove %+v", s)
	}
	r.check(b, 1, 3, 1, 50)
}

func (r *rig) reclaimAll() {
	r.t.Helper()
	for i := 0; ; i++ {
		more, err := r.log.Reclaim()
		if err != nil {
			r.t.Fatalf("reclaim: %v", err)
		}
		if !more {
			return
		}
		if i > 10000 {
			r.t.Fatal("reclaim does not end")
		}
	}
}

func TestMissingSegment(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b := r.group(), r.group()
	r.must(Update{Group: a, Meta: []byte("a")}, Update{Group: b, Meta: []byte("b")})
	r.reopen()
	r.must(Update{Group: a, HardState: hard(5, 1, 0)})
	middle := r.lastSegment()
	r.reopen()
	r.reopen()
	if err := r.log.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.fs.Remove(path.Join(r.opts.Dir, middle)); err != nil {
		t.Fatal(err)
	}
	r.open()
	if s := r.log.Suspects(); len(s) != 1 || s[0].Group != a {
		t.Fatalf("suspects %+v", s)
	}
	if got := r.describe(b); !strings.Contains(got, `"b"`) {
		t.Fatalf("group b: %s", got)
	}
}
