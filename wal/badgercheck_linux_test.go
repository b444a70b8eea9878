package wal

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestContained: Badger believes what its memory maps show, and panics, or meets a page
// that the disk does not give.
func TestContained(t *testing.T) {
	t.Parallel()
	var none []int
	if err := contained("read", func() error { none[len(none)] = 1; return nil }); err == nil {
		t.Fatal("no error of a panic")
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "cut"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 16); err != nil {
		t.Fatal(err)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, 1<<16, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(b)
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	sum := 0
	if err := contained("read", func() error { sum += int(b[1<<15]); return nil }); err == nil {
		t.Fatal("no error of a page that is not there", sum)
	}
	if err := contained("read", func() error { return nil }); err != nil {
		t.Fatal(err)
	}
}
