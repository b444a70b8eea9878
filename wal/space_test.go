package wal

import (
	"bytes"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/internal/vfs"
)

// lookedAt counts how often somebody asks for the free space.
type lookedAt struct {
	*vfs.Mem
	looks atomic.Int64
}

func (f *lookedAt) Free(dir string) (uint64, error) {
	f.looks.Add(1)
	return f.Mem.Free(dir)
}

// The committer looks at the free space now and then, and when much was
// written, but not with every batch; and a disk that others fill is found full
// before it is.
func TestSpaceIsLookedAtNowAndThen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const reserve = 1 << 20
		fs := &lookedAt{Mem: vfs.NewMem()}
		l, err := Open(Options{FS: fs, Dir: "/data/wal", SegmentSize: 256 << 10, ReserveBytes: reserve, Entropy: bytes.NewReader([]byte("identity"))})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		l.Start()
		g, err := l.NewGroup()
		if err != nil {
			t.Fatal(err)
		}
		next := uint64(1)
		write := func(size int) error {
			answer := make(chan error, 1)
			l.Submit([]Update{{Group: g, Entries: entries(g, next, next, 1, size)}}, func(err error) { answer <- err })
			err := <-answer
			if err == nil {
				next++
			}
			return err
		}
		looks := func(size, times int) int64 {
			before := fs.looks.Load()
			for range times {
				if err := write(size); err != nil {
					t.Fatal(err)
				}
			}
			return fs.looks.Load() - before
		}
		if n := looks(10, 1); n != 1 {
			t.Fatalf("%d looks for the first batch", n)
		}
		if n := looks(10, 100); n != 0 {
			t.Fatalf("%d looks for 100 batches within %s", n, spaceEvery)
		}
		if n := looks(reserve/spaceShare/4, 8); n < 2 {
			t.Fatalf("%d looks while %d bytes are written", n, 2*reserve/spaceShare)
		}
		time.Sleep(spaceEvery)
		if n := looks(10, 10); n != 1 {
			t.Fatalf("%d looks for 10 batches after %s", n, spaceEvery)
		}
		fs.SetCapacity(fs.Used() + reserve/2) // others have filled it
		time.Sleep(spaceEvery)
		if err := write(10); !errors.Is(err, ErrDiskFull) {
			t.Fatalf("below the reserve: %v", err)
		}
	})
}
