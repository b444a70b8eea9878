//go:build linux && (amd64 || arm64 || loong64 || ppc64le || riscv64)

package vfs

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// What is large is synced beside the goroutine, and what that takes is used again.
func TestSyncBeside(t *testing.T) {
	t.Parallel()
	f, err := OS{}.Create(filepath.Join(t.TempDir(), "f"))
	must(t, err)
	for range 3 {
		_, err = f.WriteAt(make([]byte, besideBytes), 0)
		must(t, err)
		done, err := syncBeside(f.(*osFile).File)
		must(t, err)
		if !done {
			t.Skip("this system does not do it")
		}
		must(t, f.SyncData())
	}
	all := &kernelIOs
	all.mu.Lock()
	made := all.made
	all.mu.Unlock()
	if made == 0 || made > maxKernelIO {
		t.Fatalf("%d made", made)
	}
	must(t, f.Close())
	if f.SyncData() == nil {
		t.Fatal("a closed file is synced")
	}
}

// Nobody syncs what was written beside the goroutine: the request itself has to, and to
// say so where the kernel looks for it.
func TestWriteBesideIsDurable(t *testing.T) {
	t.Parallel()
	f, err := OS{}.Create(filepath.Join(t.TempDir(), "f"))
	must(t, err)
	defer f.Close()
	p := *takeBlocks(DirectBlock)
	request := durableWrite(p[:DirectBlock], 0)
	if request.how != unix.RWF_DSYNC {
		t.Fatalf("the write is made with %#x, without a sync", request.how)
	}
	done, n, err := beside(f.(*osFile).File, request, p)
	must(t, err)
	if !done {
		t.Skip("this system does not do it")
	}
	if n != DirectBlock {
		t.Fatalf("%d bytes written", n)
	}
	request.how |= 1 << 30 // means nothing, so that the kernel refuses it, if it looks there
	if done, _, _ := beside(f.(*osFile).File, request, p); done {
		t.Fatal("the kernel does not see how a write is to be made")
	}
}

// Several goroutines may sync one file.
func TestSyncBesideConcurrently(t *testing.T) {
	t.Parallel()
	f, err := OS{}.Create(filepath.Join(t.TempDir(), "f"))
	must(t, err)
	var wg sync.WaitGroup
	for i := range 2 * maxKernelIO {
		wg.Go(func() {
			for range 5 {
				if _, err := f.WriteAt(make([]byte, besideBytes), int64(i)*besideBytes); err != nil {
					t.Error(err)
				}
				if err := f.SyncData(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	must(t, f.Close())
}

// A file that cannot be synced beside the goroutine is synced in it, whose
// error is the answer.
func TestSyncBesideRefused(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/dev/null"); err != nil {
		t.Skip("no /dev/null here")
	}
	f, err := OS{}.OpenReadWrite("/dev/null")
	must(t, err)
	_, err = f.WriteAt(make([]byte, besideBytes), 0)
	must(t, err)
	if err := f.SyncData(); !errors.Is(err, syscall.EINVAL) {
		t.Fatalf("%v", err)
	}
	must(t, f.Close())
}

// What the kernel says of a sync that failed is its error.
func TestSyncBesideOutcome(t *testing.T) {
	t.Parallel()
	if err := (ioResult{}).err(); err != nil {
		t.Fatal(err)
	}
	if err := (ioResult{value: -int64(syscall.EIO)}).err(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	full := ioResult{value: -int64(syscall.ENOSPC)}
	if err := wrapOS(full.err()); !errors.Is(err, ErrNoSpace) {
		t.Fatal(err)
	}
}

// BenchmarkSyncData writes and syncs, beside the goroutine and in it.
func BenchmarkSyncData(b *testing.B) {
	for _, size := range []int{besideBytes - 512, besideBytes, 64 << 10} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			f, err := OS{}.Create(filepath.Join(b.TempDir(), "f"))
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			if err := f.Preallocate(64 << 20); err != nil {
				b.Fatal(err)
			}
			block := make([]byte, size)
			for i := 0; b.Loop(); i++ {
				if _, err := f.WriteAt(block, int64(i%1024)*int64(len(block))); err != nil {
					b.Fatal(err)
				}
				if err := f.SyncData(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
