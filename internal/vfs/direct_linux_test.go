package vfs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// appended is what a log does with a file: each write begins where the one before it
// ended, or within its last block, and ends with a block.
type appended struct {
	t    *testing.T
	file File
	at   int64
	want []byte
}

func (a *appended) append(p []byte) {
	a.t.Helper()
	whole := append(p[:len(p):len(p)], make([]byte, -(a.at+int64(len(p)))&(DirectBlock-1))...)
	n, err := a.file.WriteAt(whole, a.at)
	if err != nil || n != len(whole) {
		a.t.Fatalf("%d of %d bytes at %d: %v", n, len(whole), a.at, err)
	}
	copy(a.want[a.at:], whole)
	a.at += int64(len(p))
}

// What is written past the page cache is what is read, through it and after the file was
// opened again: by a log, by whoever keeps to no rule, in new files and in used ones; and
// while others read what is there already.
func TestWriteDirectly(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		random := rand.New(rand.NewPCG(seed, 2))
		name := filepath.Join(t.TempDir(), "f")
		const size = 3 << 20
		f, err := OS{}.Create(name)
		must(t, err)
		must(t, f.Preallocate(size))
		a := &appended{t: t, file: f, want: make([]byte, size)}
		if seed%2 == 1 { // used before
			_, err = f.WriteAt(bytes.Repeat([]byte{0xee}, size), 0)
			must(t, err)
			copy(a.want, bytes.Repeat([]byte{0xee}, size))
			must(t, f.Sync())
			must(t, f.Close())
			f, err = OS{}.OpenReadWrite(name)
			must(t, err)
			a.file = f
		}
		WriteDirectly(f)
		if f.(*osFile).direct == nil {
			t.Skip("not on this system, or file system")
		}
		stop := make(chan struct{})
		var readers sync.WaitGroup
		readers.Go(func() {
			for buf := make([]byte, 64<<10); ; {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := f.ReadAt(buf, rand.Int64N(size-int64(len(buf)))); err != nil {
					t.Error(err)
					return
				}
			}
		})
		for a.at < size-1<<20 {
			n := random.IntN(2000) + 1
			switch random.IntN(20) {
			case 0:
				n = random.IntN(300 << 10)
			case 1:
				n = int(-a.at & (DirectBlock - 1)) // up to a block's end
			}
			p := make([]byte, n)
			for i := range p {
				p[i] = byte(random.Uint32())
			}
			a.append(p)
			if random.IntN(30) == 0 { // by no rule
				off := random.Int64N(size - 100)
				_, err := f.WriteAt(p[:min(n, 100)], off)
				must(t, err)
				copy(a.want[off:], p[:min(n, 100)])
			}
			if random.IntN(10) == 0 {
				must(t, f.SyncData())
			}
			got := make([]byte, n)
			if _, err := f.ReadAt(got, a.at-int64(n)); err != nil || !bytes.Equal(got, a.want[a.at-int64(n):a.at]) {
				t.Fatalf("seed %d: %d bytes before %d are not what was written: %v", seed, n, a.at, err)
			}
		}
		close(stop)
		readers.Wait()
		must(t, f.SyncData())
		must(t, f.Close())
		got, err := os.ReadFile(name)
		must(t, err)
		if !bytes.Equal(got, a.want) {
			t.Fatalf("seed %d: another content", seed)
		}
	}
}

// A system that refuses such writes is asked once, and gets them as before.
func TestWriteDirectlyRefused(t *testing.T) {
	t.Parallel()
	f, err := OS{}.Create(filepath.Join(t.TempDir(), "f"))
	must(t, err)
	must(t, f.Preallocate(1<<20))
	// A file of the kernel that takes numbers: anything else is EINVAL.
	refuses, err := os.OpenFile("/proc/self/oom_score_adj", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	o := f.(*osFile)
	o.direct = &direct{plain: plain{o.File, &o.written}, file: refuses, last: -1}
	a := &appended{t: t, file: f, want: make([]byte, 1<<20)}
	for _, n := range []int{100, 2 * besideBytes, 5000} {
		a.append(bytes.Repeat([]byte{'x'}, n))
		if !o.direct.off {
			t.Fatal("it was not refused")
		}
		must(t, f.SyncData())
	}
	got := make([]byte, len(a.want))
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, a.want) {
		t.Fatalf("another content: %v", err)
	}
	must(t, f.Close())
}

// A file that cannot be opened past the page cache is written through it.
func TestWriteDirectlyElsewhere(t *testing.T) {
	t.Parallel()
	f, err := OS{}.OpenReadWrite(os.DevNull)
	must(t, err)
	WriteDirectly(f)
	if f.(*osFile).direct != nil {
		t.Error("past which page cache?")
	}
	must(t, f.Close())
	mem := NewMem()
	m, err := mem.Create("f")
	must(t, err)
	WriteDirectly(m)
	_, err = m.WriteAt([]byte("x"), 0)
	must(t, err)
}

// Of two syncs at a time of a file that is written past the page cache, none is over
// before what was written is durable: on a file of which nothing ever is, all fail.
func TestSyncsOfAFileWrittenDirectly(t *testing.T) {
	t.Parallel()
	f, err := OS{}.OpenReadWrite(os.DevNull)
	must(t, err)
	o := f.(*osFile)
	other, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	must(t, err)
	o.direct = &direct{plain: plain{o.File, &o.written}, file: other, last: -1}
	must(t, f.SyncData()) // of nothing
	_, err = f.WriteAt(make([]byte, DirectBlock), 0)
	must(t, err)
	var syncs sync.WaitGroup
	for range 4 {
		syncs.Go(func() {
			for range 20_000 {
				if f.SyncData() == nil {
					t.Error("a sync did nothing")
					return
				}
			}
		})
	}
	syncs.Wait()
	must(t, f.Close())
}

// A size that has changed is synced too.
func TestSyncOfASizeAfterDirectWrites(t *testing.T) {
	t.Parallel()
	changes := map[string]func(f File) error{
		"truncate":    func(f File) error { return f.Truncate(1 << 20) },
		"preallocate": func(f File) error { return f.Preallocate(2 << 20) },
	}
	for what, change := range changes {
		f, err := OS{}.Create(filepath.Join(t.TempDir(), "f"))
		must(t, err)
		WriteDirectly(f)
		o := f.(*osFile)
		if o.direct == nil {
			t.Skip("not on this system, or file system")
		}
		must(t, change(f))
		must(t, o.File.Close()) // a sync that asks the system fails
		if f.SyncData() == nil {
			t.Errorf("%s: the sync did nothing", what)
		}
		must(t, o.direct.file.Close())
	}
}

// That zeros written ahead have failed is told by the sync, of this disk too; but not
// that there was no room for them.
func TestZerosThatFailDirectly(t *testing.T) {
	t.Parallel()
	for path, told := range map[string]bool{"": true, "/dev/full": false} {
		name := filepath.Join(t.TempDir(), "f")
		f, err := OS{}.Create(name)
		must(t, err)
		must(t, f.Preallocate(1<<20))
		o := f.(*osFile)
		o.ahead.begin(1 << 20)
		how := os.O_WRONLY
		if path == "" {
			path, how = name, os.O_RDONLY
		}
		refuses, err := os.OpenFile(path, how, 0)
		if err != nil {
			t.Skip(err)
		}
		o.direct = &direct{plain: plain{o.File, &o.written}, file: refuses, last: -1}
		// Through the page cache, since it begins within an unknown block; zeros are due behind it.
		_, err = f.WriteAt(make([]byte, DirectBlock-100), 100)
		must(t, err)
		if o.ahead.limit != 0 {
			t.Fatalf("%s: zeros were written", path)
		}
		for range 2 {
			if err := f.SyncData(); (err != nil) != told {
				t.Errorf("%s: %v", path, err)
			}
		}
		must(t, f.Close())
	}
}

// BenchmarkAppend writes and syncs as a log does, with and without the page cache.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{400, 16 << 10, 512 << 10} {
		for _, directly := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d/direct=%t", size, directly), func(b *testing.B) {
				f, err := OS{}.Create(filepath.Join(b.TempDir(), "f"))
				if err != nil {
					b.Fatal(err)
				}
				defer f.Close()
				const most = 256 << 20
				if err := f.Preallocate(most); err != nil {
					b.Fatal(err)
				}
				if directly {
					WriteDirectly(f)
				}
				b.SetBytes(int64(size))
				at, block := 0, make([]byte, size+DirectBlock)
				for b.Loop() {
					if at+len(block) > most {
						at = 0
					}
					if _, err := f.WriteAt(block[:size+-(at+size)&(DirectBlock-1)], int64(at)); err != nil {
						b.Fatal(err)
					}
					if err := f.SyncData(); err != nil {
						b.Fatal(err)
					}
					at += size
				}
			})
		}
	}
}
