package wal

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"
	"testing"

	"github.com/copycat-replication/copycat/internal/vfs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}

func TestTwoOpensOfOneDirectory(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if _, err := r.tryOpen(); !errors.Is(err, ErrLocked) {
		t.Fatalf("second open: %v", err)
	}
	r.reopen()
}

func TestNewerFormatIsRefused(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"FORMAT", "segment"} {
		r := newRig(t)
		r.must(Update{Group: r.group(), Meta: []byte("m")})
		if err := r.log.Close(); err != nil {
			t.Fatal(err)
		}
		r.log = nil
		file := name
		if name == "segment" {
			file = r.lastSegment()
		}
		b := r.content(file)
		if name == "segment" {
			n := le.Uint32(b[12:])
			le.PutUint16(b[8:], formatMajor+1)
			le.PutUint32(b[n-4:], checksum(b[:n-4]))
		} else {
			le.PutUint32(b[8:], formatMajor+1)
			le.PutUint32(b[24:], checksum(b[:24]))
		}
		r.overwrite(file, 0, b)
		if _, err := r.tryOpen(); !errors.Is(err, ErrNewerFormat) {
			t.Fatalf("%s: %v", name, err)
		}
		if got := r.content(file); !slices.Equal(got, b) {
			t.Fatalf("%s was changed", name)
		}
		if open := r.fs.OpenFiles(); len(open) > 0 {
			t.Fatalf("open files: %v", open)
		}
	}
}

func TestFailedSyncStopsForGood(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g := r.group()
	r.must(Update{Group: g, Entries: entries(g, 1, 2, 1, 10)})
	cause := errors.New("injected")
	r.fs.SetFault(func(op vfs.Op, _ string, _, _ int64) error {
		if op == vfs.OpSync {
			return cause
		}
		return nil
	})
	var first, second error
	r.log.Submit([]Update{{Group: g, Entries: entries(g, 3, 4, 1, 10)}}, func(err error) { first = err })
	r.log.Submit([]Update{{Group: g, Meta: []byte("x")}}, func(err error) { second = err })
	if n, err := r.log.Flush(); n != 2 || !errors.Is(err, ErrFailed) {
		t.Fatalf("flush: %d, %v", n, err)
	}
	r.fs.SetFault(nil)
	for i, err := range []error{first, second, r.try(Update{Group: g, Meta: []byte("y")}), r.log.Health(), r.log.Seal()} {
		if !errors.Is(err, ErrFailed) || !errors.Is(err, cause) {
			t.Fatalf("error %d: %v", i, err)
		}
	}
	if _, err := r.log.NewGroup(); !errors.Is(err, ErrFailed) {
		t.Fatalf("new group: %v", err)
	}
	if _, err := r.log.Reclaim(); !errors.Is(err, ErrFailed) {
		t.Fatalf("reclaim: %v", err)
	}
	r.check(g, 1, 2, 1, 10)
}

// TestQuietVoteSurvives removes many segments under a group that voted once.
func TestQuietVoteSurvives(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.SegmentSize, o.HotBytes = 16<<10, 32<<10 })
	quiet, busy := r.group(), r.group()
	r.must(Update{Group: quiet, HardState: hard(5, 3, 0), Meta: []byte("replica 9")})
	for i := uint64(1); i <= 200; i++ {
		r.must(Update{Group: busy, Entries: entries(busy, i, i, 1, 1000), HardState: hard(1, 1, i)})
		if i%10 == 0 {
			r.must(Update{Group: busy, Compact: &Mark{i - 1, 1}})
		}
		r.reclaimAll()
	}
	if r.log.order[0].number < 5 {
		t.Fatalf("oldest segment is %d", r.log.order[0].number)
	}
	r.crash(vfs.LoseAll)
	st, err := r.log.State(quiet)
	if err != nil || st.HardState.GetVote() != 3 || st.HardState.GetTerm() != 5 || string(st.Meta) != "replica 9" {
		t.Fatalf("state %+v, %v", st, err)
	}
	if s := r.log.Stats(); s.SegmentBytes > 4*r.opts.HotBytes {
		t.Fatalf("disk use does not follow what is live: %+v", s)
	}
}

func TestThousandGroupsInOneBatch(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.SegmentSize = 4 << 20 })
	const n = 1000
	var groups []uint64
	answered := 0
	for range n {
		g := r.group()
		groups = append(groups, g)
		r.log.Submit([]Update{{Group: g, Entries: entries(g, 1, 1, 1, 128), HardState: hard(1, 1, 1)}}, func(err error) {
			if err != nil {
				t.Error(err)
			}
			answered++
		})
	}
	before := r.log.Stats().Batches
	if got, err := r.log.Flush(); got != n || err != nil || answered != n {
		t.Fatalf("flush: %d, %v, %d answered", got, err, answered)
	}
	if b := r.log.Stats().Batches - before; b != 1 {
		t.Fatalf("%d batches", b)
	}
	r.reopen()
	for _, g := range groups {
		r.check(g, 1, 1, 1, 128)
	}
}

// TestQuota: a group with much to write does not keep another one waiting,
// and is answered in order all the same.
func TestQuota(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.GroupQuota = 1100 })
	big, small := r.group(), r.group()
	var order []string
	for i := uint64(1); i <= 10; i++ {
		r.log.Submit([]Update{{Group: big, Entries: entries(big, i, i, 1, 400)}}, func(err error) {
			order = append(order, fmt.Sprintf("big %d %v", i, err))
		})
	}
	r.log.Submit([]Update{{Group: small, Entries: entries(small, 1, 1, 1, 10)}}, func(err error) { order = append(order, "small") })
	if n, err := r.log.Flush(); n != 3 || err != nil {
		t.Fatalf("flush: %d, %v", n, err)
	}
	if len(order) != 3 || order[2] != "small" {
		t.Fatalf("answered %v", order)
	}
	if s := r.log.Stats(); s.QueuedUpdates != 8 || s.QueuedBytes < 8*400 {
		t.Fatalf("stats %+v", s)
	}
	for {
		if n, _ := r.log.Flush(); n == 0 {
			break
		}
	}
	for i := range 8 {
		if want := fmt.Sprintf("big %d <nil>", i+3); order[i+3] != want {
			t.Fatalf("answered %v, want %s at %d", order, want, i+3)
		}
	}
}

func TestInstallAndCompact(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g := r.group()
	r.must(Update{Group: g, Entries: entries(g, 1, 10, 1, 10), HardState: hard(1, 1, 6)})
	r.must(Update{Group: g, Compact: &Mark{4, 1}})
	r.must(Update{Group: g, Compact: &Mark{2, 1}}) // stale: nothing changes
	if err := r.try(Update{Group: g, Compact: &Mark{5, 2}}); !errors.Is(err, ErrInvalid) {
		t.Fatalf("compaction with a wrong term: %v", err)
	}
	for range 2 {
		if _, err := r.log.Entries(g, 4, 6, 100); !errors.Is(err, ErrCompacted) {
			t.Fatalf("compacted: %v", err)
		}
		if term, err := r.log.Term(g, 4); term != 1 || err != nil {
			t.Fatalf("term at the mark: %d, %v", term, err)
		}
		if first, err := r.log.FirstIndex(g); first != 5 || err != nil {
			t.Fatalf("first: %d, %v", first, err)
		}
		r.check(g, 5, 10, 1, 10)
		r.reopen()
	}
	// A conflicting, uncommitted tail goes when a snapshot is installed into it.
	r.must(Update{Group: g, Compact: &Mark{8, 3}, HardState: hard(3, 0, 8), Entries: entries(g, 9, 9, 3, 10)})
	for range 2 {
		r.check(g, 9, 9, 3, 10)
		r.reopen()
	}
	r.must(Update{Group: g, Compact: &Mark{100, 4}, HardState: hard(4, 0, 100)})
	for range 2 {
		if st, err := r.log.State(g); err != nil || st.LastIndex != 100 || st.Compacted != (Mark{100, 4}) {
			t.Fatalf("state %+v, %v", st, err)
		}
		r.reopen()
	}
	r.must(Update{Group: g, Entries: entries(g, 101, 103, 4, 10)})
	r.check(g, 101, 103, 4, 10)
}

func TestRemovedNumberIsNotUsedAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	last := uint64(0)
	for range 5 {
		for range 3 {
			n := r.group()
			if n <= last {
				t.Fatalf("number %d after %d", n, last)
			}
			last = n
		}
		r.must(Update{Group: last, Meta: []byte("m")})
		r.must(Update{Group: last, Remove: true})
		if err := r.try(Update{Group: last, Meta: []byte("m")}); !errors.Is(err, ErrUnknownGroup) {
			t.Fatalf("update of a removed group: %v", err)
		}
		if _, err := r.log.State(last); !errors.Is(err, ErrUnknownGroup) {
			t.Fatalf("state of a removed group: %v", err)
		}
		r.reopen()
		r.crash(vfs.KeepAll)
	}
}

func TestGroupNumbersAreReservedAhead(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var err error
	n := 0
	for ; err == nil; n++ {
		_, err = r.log.NewGroup()
	}
	if !errors.Is(err, ErrNoNumbers) || n < ceilingStep {
		t.Fatalf("after %d: %v", n, err)
	}
	// That one has asked for more, although nobody has anything to write.
	if _, err := r.log.Flush(); err != nil {
		t.Fatal(err)
	}
	if g := r.group(); g != uint64(n) {
		t.Fatalf("number %d after %d", g, n-1)
	}
	r.crash(vfs.LoseAll)
	if g := r.group(); g <= uint64(n) {
		t.Fatalf("number %d again", g)
	}
}

func TestEntriesLimits(t *testing.T) {
	t.Parallel()
	for _, cache := range []int64{1, 1 << 20, 700} {
		r := newRig(t, func(o *Options) { o.CacheBytes = cache })
		g := r.group()
		for i := uint64(1); i <= 20; i++ {
			r.must(Update{Group: g, Entries: entries(g, i, i, 1, 100)})
		}
		for limit, want := range map[uint64]int{0: 1, 1: 1, 148: 1, 295: 1, 296: 2, 1480: 10, 1 << 30: 20} {
			got, err := r.log.Entries(g, 1, 21, limit)
			if err != nil || len(got) != want {
				t.Fatalf("cache %d, limit %d: %d entries (%v), want %d", cache, limit, len(got), err, want)
			}
		}
		if s := r.log.Stats(); s.CacheBytes > cache {
			t.Fatalf("cache holds %d of %d bytes", s.CacheBytes, cache)
		}
		if cache == 700 {
			if s := r.log.Stats(); s.CacheHits == 0 || s.DiskReads == 0 {
				t.Fatalf("stats %+v", s)
			}
		}
	}
}

// TestCommitter runs the goroutines: many submitters, readers beside them,
// reclaim under way, and an orderly end.
func TestCommitter(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.SegmentSize, o.HotBytes, o.CacheBytes = 32<<10, 64<<10, 8<<10 })
	r.log.Start()
	r.log.Start()
	const groups, count = 8, 100
	var wg sync.WaitGroup
	numbers := make([]uint64, groups)
	for i := range groups {
		g := r.group()
		numbers[i] = g
		wg.Go(func() {
			for n := uint64(1); n <= count; n++ {
				done := make(chan error, 1)
				u := Update{Group: g, Entries: entries(g, n, n, 1, 300), HardState: hard(1, 1, n)}
				if g%2 == 0 && n%20 == 0 {
					u.Compact = &Mark{n - 5, 1}
				}
				r.log.Submit([]Update{u}, func(err error) { done <- err })
				if err := <-done; err != nil {
					t.Errorf("group %d entry %d: %v", g, n, err)
					return
				}
				first, _ := r.log.FirstIndex(g)
				if got, err := r.log.Entries(g, first, n+1, 4000); err != nil || got[0].GetIndex() != first {
					t.Errorf("group %d read %d: %v", g, first, err)
					return
				}
			}
		})
	}
	wg.Wait()
	r.reopen()
	for _, g := range numbers {
		from := uint64(1)
		if g%2 == 0 {
			from = count - 4
		}
		r.check(g, from, count, 1, 300)
	}
	if r.log.Stats().Suspects > 0 || len(r.log.Damages()) > 0 {
		t.Fatalf("%v", r.log.Damages())
	}
}

func TestCloseAnswersAndLeavesNothingOpen(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.log.Start()
	g := r.group()
	answers := make(chan error, 2)
	r.log.Submit([]Update{{Group: g, Meta: []byte("m")}}, func(err error) { answers <- err })
	if err := r.log.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-answers; err != nil {
		t.Fatalf("queued before close: %v", err)
	}
	r.log.Submit([]Update{{Group: g, Meta: []byte("m")}}, func(err error) { answers <- err })
	if err := <-answers; !errors.Is(err, ErrClosed) {
		t.Fatalf("submitted after close: %v", err)
	}
	if _, err := r.log.Entries(g, 1, 2, 1); !errors.Is(err, ErrClosed) {
		t.Fatalf("read after close: %v", err)
	}
	if open := r.fs.OpenFiles(); len(open) > 0 {
		t.Fatalf("open files: %v", open)
	}
	if err := r.log.Close(); err != nil {
		t.Fatalf("second close: %v", err)
	}
}

func TestFormatFileLost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g := r.group()
	r.must(Update{Group: g, Entries: entries(g, 1, 2, 1, 10)})
	if err := r.log.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.fs.Remove(path.Join(r.opts.Dir, formatName)); err != nil {
		t.Fatal(err)
	}
	r.open()
	r.check(g, 1, 2, 1, 10)
	if d := r.log.Damages(); len(d) != 1 || d[0].File != formatName {
		t.Fatalf("damages %v", d)
	}
	r.reopen()
	if d := r.log.Damages(); len(d) != 0 {
		t.Fatalf("damages %v", d)
	}
}

// TestNothingFollowsARemoval: what is submitted behind a removal and comes into the
// same batch is refused, like what comes later: a frame of a group that is gone would
// be taken for one whose others are lost.
func TestNothingFollowsARemoval(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g, fresh, other := r.group(), r.group(), r.group()
	r.must(Update{Group: g, Entries: entries(g, 1, 3, 1, 10)}, Update{Group: other, Meta: []byte("other")})
	results := map[string]error{}
	submit := func(what string, u Update) {
		results[what] = errors.New("not answered")
		r.log.Submit([]Update{u}, func(err error) { results[what] = err })
	}
	submit("removal", Update{Group: g, Remove: true})
	submit("entry", Update{Group: g, Entries: entries(g, 4, 4, 1, 10)})
	submit("second removal", Update{Group: g, Remove: true})
	submit("first update", Update{Group: fresh, Meta: []byte("fresh")})
	submit("its removal", Update{Group: fresh, Remove: true})
	submit("what follows", Update{Group: fresh, Meta: []byte("again")})
	for {
		if n, err := r.log.Flush(); err != nil {
			t.Fatal(err)
		} else if n == 0 {
			break
		}
	}
	for what, err := range results {
		switch what {
		case "removal", "first update", "its removal":
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		default:
			if !errors.Is(err, ErrUnknownGroup) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	live := 0
	for _, s := range r.log.Segments() {
		live += s.Live
	}
	if live != 0 {
		t.Errorf("%d entries keep their segments", live)
	}
	r.crash(vfs.LoseAll)
	if s, d, n := r.log.Suspects(), r.log.Damages(), len(r.log.Groups()); len(s)+len(d) > 0 || n != 1 {
		t.Fatalf("suspects %+v, damages %v, %d groups", s, d, n)
	}
}
