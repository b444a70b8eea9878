package vfs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Writing back changes nothing of a file, in the system's and in memory.
func TestWriteBack(t *testing.T) {
	t.Parallel()
	mem := NewMem()
	must(t, mem.MkdirAll("d"))
	for _, c := range []struct {
		fs   FS
		name string
	}{{OS{}, filepath.ToSlash(filepath.Join(t.TempDir(), "f"))}, {mem, "d/f"}} {
		f, err := c.fs.Create(c.name)
		must(t, err)
		want := bytes.Repeat([]byte("copycat "), 64<<10)
		_, err = f.WriteAt(want, 0)
		must(t, err)
		must(t, StartWriteBack(f, 0, int64(len(want))))
		must(t, AwaitWriteBack(f, 0, int64(len(want))))
		must(t, f.Sync())
		got := make([]byte, len(want))
		if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v", c.name, err)
		}
		must(t, f.Close())
		if err := AwaitWriteBack(f, 0, 1); err == nil {
			t.Errorf("%s: a closed file is written back", c.name)
		}
	}
}

// Where there is no writing back, the file is synced, and a failure is told.
func TestAwaitWriteBackSyncs(t *testing.T) {
	t.Parallel()
	mem, boom := NewMem(), errors.New("EIO")
	f, err := mem.Create("f")
	must(t, err)
	mem.SetFault(func(op Op, _ string, _, _ int64) error {
		if op == OpSync {
			return boom
		}
		return nil
	})
	must(t, StartWriteBack(f, 0, 1))
	if err := AwaitWriteBack(f, 0, 1); !errors.Is(err, boom) {
		t.Error(err)
	}
	if _, err := os.Stat("/dev/null"); err != nil {
		return
	}
	null, err := OS{}.OpenReadWrite("/dev/null")
	must(t, err)
	if err := AwaitWriteBack(null, 0, 1); err == nil {
		t.Error("what cannot be synced is")
	}
	must(t, null.Close())
}
