package wal

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/copycat-replication/copycat/internal/vfs"
)

// openDescriptors returns the names of the segments that this process has open, once
// for each descriptor.
func openDescriptors(t *testing.T, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	for _, e := range list {
		to, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name()))
		if err == nil && strings.HasPrefix(to, dir+"/") && strings.Contains(to, segmentSuffix) {
			names = append(names, filepath.Base(to))
		}
	}
	slices.Sort(names)
	return names
}

// TestOnDisk writes batches of all sizes to segments of odd ones, on the system's own
// disk, has segments freed and used again, and reads meanwhile what is not cached. Only
// the newest segment takes two descriptors.
func TestOnDisk(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{64 << 10, 100_000, 1<<20 + 8} {
		dir := filepath.Join(t.TempDir(), "wal")
		r := &rig{t: t, cold: NewMemCold(), opts: Options{
			FS: vfs.OS{}, Dir: dir, Cold: NewMemCold(), SegmentSize: size, HotBytes: 6 * size, CacheBytes: 1, ReserveBytes: 1,
		}}
		l, err := Open(r.opts)
		if err != nil {
			t.Fatal(err)
		}
		r.log = l
		g := r.group()
		l.Start()
		var mu sync.Mutex
		first, last := uint64(1), uint64(0)
		stop := make(chan struct{})
		var readers sync.WaitGroup
		readers.Go(func() {
			for seed := uint64(0); ; seed++ {
				select {
				case <-stop:
					return
				default:
				}
				mu.Lock()
				lo, hi := first, last
				mu.Unlock()
				if hi < lo+8 {
					continue
				}
				at := lo + 5 + seed%(hi-lo-5)
				got, err := l.Entries(g, at, at+1, 1<<30)
				if err != nil {
					mu.Lock()
					gone := at < first
					mu.Unlock()
					if !gone {
						t.Errorf("entry %d: %v", at, err)
						return
					}
				} else if want := onDiskSize(at); len(got[0].Data) != want {
					t.Errorf("entry %d has %d bytes, want %d", at, len(got[0].Data), want)
					return
				}
			}
		})
		answers := make(chan error, 1)
		for i := uint64(1); l.Stats().SegmentsReused < 6 && i < 20_000; i++ {
			u := Update{Group: g, Entries: entries(g, i, i, 1, onDiskSize(i)), HardState: hard(1, 1, i)}
			if i%30 == 0 {
				u.Compact = &Mark{i - 20, 1}
				mu.Lock()
				first = i - 19
				mu.Unlock()
			}
			l.Submit([]Update{u}, func(err error) { answers <- err })
			if err := <-answers; err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			last = i
			mu.Unlock()
			if t.Failed() {
				break
			}
		}
		close(stop)
		readers.Wait()
		if l.Stats().SegmentsReused < 6 {
			t.Fatalf("segments of %d bytes are not used again: %+v", size, l.Stats())
		}
		l.reclaimMu.Lock()
		l.flushMu.Lock()
		files, open := len(l.order)+len(l.writer.spares), openDescriptors(t, dir)
		l.flushMu.Unlock()
		l.reclaimMu.Unlock()
		if len(open) > files+1 {
			t.Errorf("%d descriptors for %d files: %v", len(open), files, open)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if open := openDescriptors(t, dir); len(open) > 0 {
			t.Errorf("open after Close: %v", open)
		}
		if r.log, err = Open(r.opts); err != nil {
			t.Fatal(err)
		}
		if d, s := r.log.Damages(), r.log.Suspects(); len(d)+len(s) > 0 {
			t.Fatalf("damages %v, suspects %+v", d, s)
		}
		for i := first; i <= last; i++ {
			got, err := r.log.Entries(g, i, i+1, 1<<30)
			if want := entry(g, i, 1, onDiskSize(i)); err != nil || !bytes.Equal(got[0].Data, want.Data) {
				t.Fatalf("segments of %d bytes: entry %d: %v", size, i, err)
			}
		}
		if err := r.log.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// onDiskSize is the size of an entry: most are small, some take pages, and some more
// than what is written beside the goroutine.
func onDiskSize(index uint64) int {
	switch index % 10 {
	case 3:
		return 9000
	case 7:
		return 48 << 10
	default:
		return 100 + int(index*977%3000)
	}
}
