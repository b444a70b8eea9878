package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"pgregory.net/rapid"
)

func openRW(t *testing.T, m *Mem, name string) File {
	t.Helper()
	f, err := m.OpenReadWrite(name)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func writeAt(t *testing.T, f File, data string, off int64) {
	t.Helper()
	if _, err := f.WriteAt([]byte(data), off); err != nil {
		t.Fatal(err)
	}
}

func wantExists(t *testing.T, m *Mem, name string, want bool) {
	t.Helper()
	if got, err := m.Exists(name); got != want || err != nil {
		t.Fatalf("%s exists: %v, %v, want %v", name, got, err, want)
	}
}

// A file whose name was not synced is gone, though its bytes were.
func TestCrashLosesUnsyncedNames(t *testing.T) {
	t.Parallel()
	m := NewMem()
	must(t, MkdirAllSync(m, "/d"))
	writeFile(t, m, "/d/a", "a")
	must(t, openRW(t, m, "/d/a").Sync())
	wantExists(t, m.CrashClone(LoseAll), "/d/a", false)
	wantFile(t, m.CrashClone(KeepAll), "/d/a", "a")
	must(t, m.SyncDir("/d"))
	wantFile(t, m.CrashClone(LoseAll), "/d/a", "a")

	must(t, m.Rename("/d/a", "/d/b"))
	wantFile(t, m.CrashClone(LoseAll), "/d/a", "a")
	c := m.CrashClone(KeepAll)
	wantExists(t, c, "/d/a", false)
	wantFile(t, c, "/d/b", "a")
	must(t, m.SyncDir("/d"))
	must(t, m.Remove("/d/b"))
	wantFile(t, m.CrashClone(LoseAll), "/d/b", "a")
	must(t, m.SyncDir("/d"))
	wantExists(t, m.CrashClone(LoseAll), "/d/b", false)
	wantExists(t, m, "/d/b", false)

	must(t, m.MkdirAll("/e")) // its own entry is in "/"
	must(t, m.SyncDir("/e"))
	wantExists(t, m.CrashClone(LoseAll), "/e", false)
}

// Any subset of the unsynced pages, in any size that the file had on the way.
func TestCrashPages(t *testing.T) {
	t.Parallel()
	m := NewMem()
	writeFile(t, m, "/f", "")
	f := openRW(t, m, "/f")
	must(t, f.Preallocate(3*PageSize))
	must(t, f.Sync())
	must(t, m.SyncDir("/"))
	for i := range 3 {
		writeAt(t, f, "new", int64(i)*PageSize)
	}
	for subset := range 8 {
		c := m.CrashClone(func(u Unsynced) Fate {
			if u.Kind != UnsyncedPage {
				t.Errorf("asked about %v", u)
			}
			if subset>>(u.Off/PageSize)&1 == 1 {
				return Landed
			}
			return Fate{}
		})
		data, err := ReadFile(c, "/f", 1<<20)
		must(t, err)
		for i := range 3 {
			want := "\x00\x00\x00"
			if subset>>i&1 == 1 {
				want = "new"
			}
			if got := string(data[i*PageSize:][:3]); got != want {
				t.Fatalf("subset %b, page %d: %q", subset, i, got)
			}
		}
	}
	must(t, f.SyncData())
	writeAt(t, f, "NEWER", 0)
	c := m.CrashClone(func(Unsynced) Fate { return Fate{From: 1, To: 3} })
	data, err := ReadFile(c, "/f", 1<<20)
	must(t, err)
	if string(data[:5]) != "nEW\x00\x00" {
		t.Fatalf("torn page: %q", data[:5])
	}
}

func TestCrashSize(t *testing.T) {
	t.Parallel()
	m := NewMem()
	writeFile(t, m, "/f", "0123456789")
	f := openRW(t, m, "/f")
	must(t, f.Sync())
	must(t, m.SyncDir("/"))
	writeAt(t, f, "abcdef", 10)
	wantFile(t, m.CrashClone(LoseAll), "/f", "0123456789")
	pageOnly := m.CrashClone(func(u Unsynced) Fate { return map[bool]Fate{true: Landed}[u.Kind == UnsyncedPage] })
	wantFile(t, pageOnly, "/f", "0123456789")
	// What hid beyond the end does not come back when the file grows again.
	g := openRW(t, pageOnly, "/f")
	must(t, g.Truncate(12))
	wantFile(t, pageOnly, "/f", "0123456789\x00\x00")
	wantFile(t, m.CrashClone(func(u Unsynced) Fate { return map[bool]Fate{true: {To: 2}}[u.Kind == UnsyncedSize] }), "/f", "0123456789\x00\x00")
	wantFile(t, m.CrashClone(KeepAll), "/f", "0123456789abcdef")
	must(t, f.Truncate(3))
	wantFile(t, m.CrashClone(LoseAll), "/f", "0123456789")
	wantFile(t, m.CrashClone(KeepAll), "/f", "012")
	must(t, f.SyncData())
	wantFile(t, m.CrashClone(LoseAll), "/f", "012")
}

// Linux marks pages clean when writing them back failed: the next fsync says
// that all is well, and the bytes are gone.
func TestFailedSyncIsForGood(t *testing.T) {
	t.Parallel()
	m := NewMem()
	writeFile(t, m, "/f", "old")
	f := openRW(t, m, "/f")
	must(t, f.Sync())
	must(t, m.SyncDir("/"))
	writeAt(t, f, "new", 0)
	boom := errors.New("I/O error")
	m.SetFault(func(op Op, name string, _, _ int64) error {
		if op == OpSync && name == "/f" {
			return boom
		}
		return nil
	})
	if err := f.SyncData(); !errors.Is(err, boom) {
		t.Fatalf("%v", err)
	}
	m.SetFault(nil)
	must(t, f.SyncData())
	wantFile(t, m.CrashClone(LoseAll), "/f", "old")
	writeAt(t, f, "w", 2)
	must(t, f.SyncData())
	wantFile(t, m.CrashClone(LoseAll), "/f", "new"[:2]+"w")
}

func TestCapacity(t *testing.T) {
	t.Parallel()
	m := NewMem()
	m.SetCapacity(4 * PageSize)
	writeFile(t, m, "/a", "x")
	writeFile(t, m, "/f", "")
	f := openRW(t, m, "/f")
	n, err := f.WriteAt(bytes.Repeat([]byte("y"), 5*PageSize), 0)
	if n != 3*PageSize || !errors.Is(err, ErrNoSpace) {
		t.Fatalf("wrote %d: %v", n, err)
	}
	if free, _ := m.Free("/"); free != 0 {
		t.Fatalf("%d bytes free", free)
	}
	writeAt(t, f, "over what is there", 0)
	if err := f.Preallocate(4 * PageSize); !errors.Is(err, ErrNoSpace) {
		t.Fatal(err)
	}
	must(t, m.Remove("/a"))
	must(t, f.Preallocate(4*PageSize))
	must(t, m.Remove("/f"))
	if m.Used() != 4*PageSize {
		t.Fatalf("%d used while the file is open", m.Used())
	}
	must(t, f.Close())
	if m.Used() != 0 {
		t.Fatalf("%d used", m.Used())
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	m := NewMem()
	must(t, m.MkdirAll("/d"))
	boom := errors.New("boom")
	for op := OpCreate; op <= OpFree; op++ {
		m.SetFault(nil)
		writeFile(t, m, "/d/f", "f")
		f := openRW(t, m, "/d/f")
		m.SetFault(func(got Op, _ string, _, _ int64) error {
			if got == op {
				return boom
			}
			return nil
		})
		_, errCreate := m.Create("/d/g")
		_, errOpen := m.Open("/d/none")
		_, errRead := f.ReadAt(make([]byte, 1), 0)
		_, errWrite := f.WriteAt(make([]byte, 1), 0)
		_, errList := m.List("/d")
		l, errLock := m.Lock("/d/lock")
		if errLock == nil {
			must(t, l.Close())
		}
		_, errFree := m.Free("/")
		errs := map[Op]error{
			OpCreate: errCreate, OpOpen: errOpen, OpRead: errRead, OpWrite: errWrite, OpTruncate: f.Truncate(1),
			OpPreallocate: f.Preallocate(1), OpSync: f.Sync(), OpSyncDir: m.SyncDir("/d"), OpRename: m.Rename("/d/f", "/d/h"),
			OpRemove: m.RemoveAll("/d/g"), OpMkdir: m.MkdirAll("/d"), OpList: errList, OpLock: errLock, OpFree: errFree,
		}
		for o, err := range errs {
			if errors.Is(err, boom) != (o == op) {
				t.Errorf("fault on %v: %v got %v", op, o, err)
			}
		}
	}
	m.SetFault(nil)
	writeFile(t, m, "/d/f", "0123456789")
	f := openRW(t, m, "/d/f")
	m.SetFault(func(Op, string, int64, int64) error { return &PartialWrite{N: 3, Err: boom} })
	n, err := f.WriteAt([]byte("abcdef"), 0)
	if n != 3 || !errors.Is(err, boom) {
		t.Fatalf("wrote %d, %v", n, err)
	}
	m.SetFault(nil)
	wantFile(t, m, "/d/f", "abc3456789")
}

func TestFlipBitAndOpenFiles(t *testing.T) {
	t.Parallel()
	m := NewMem()
	writeFile(t, m, "/f", "AAAA")
	f := openRW(t, m, "/f")
	must(t, f.Sync())
	must(t, m.SyncDir("/"))
	must(t, m.FlipBit("/f", 1, 1))
	wantFile(t, m, "/f", "ACAA")
	wantFile(t, m.CrashClone(LoseAll), "/f", "ACAA")
	writeAt(t, f, "D", 0)
	must(t, m.FlipBit("/f", 2, 1))
	wantFile(t, m, "/f", "DACA"[:1]+"CCA")
	wantFile(t, m.CrashClone(LoseAll), "/f", "ACCA")
	if err := m.FlipBit("/f", 4, 0); err == nil {
		t.Fatal("flipped beyond the end")
	}
	if open := fmt.Sprint(m.OpenFiles()); open != "[/f]" {
		t.Fatal(open)
	}
	l, err := m.Lock("/f2")
	must(t, err)
	if len(m.OpenFiles()) != 2 {
		t.Fatal("a lock is not counted")
	}
	c := m.CrashClone(KeepAll)
	l2, err := c.Lock("/f2")
	must(t, err)
	must(t, l2.Close())
	must(t, l.Close())
}

// TestCrashProperty: whatever is done, what was synced is there after any
// crash, what was never written is not, a clone does not share anything that
// changes with its origin, and the space is counted right.
func TestCrashProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		m := NewMem()
		writeFile(t, m, "/f", "")
		must(t, m.SyncDir("/"))
		f := openRW(t, m, "/f")
		defer f.Close()
		var live, synced []byte
		possible := map[int]map[byte]bool{} // values that each byte may have after a crash
		note := func() {
			for i, b := range live {
				if possible[i] == nil {
					possible[i] = map[byte]bool{0: true}
				}
				possible[i][b] = true
			}
		}
		reset := func() {
			synced = bytes.Clone(live)
			possible = map[int]map[byte]bool{}
			for i, b := range live {
				possible[i] = map[byte]bool{b: true}
			}
		}
		grow := func(n int) {
			if n > len(live) {
				live = append(live, make([]byte, n-len(live))...)
			}
		}
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			switch rapid.IntRange(0, 4).Draw(rt, "op") {
			case 0, 1:
				off, n := rapid.IntRange(0, 20000).Draw(rt, "off"), rapid.IntRange(0, 9000).Draw(rt, "n")
				data := bytes.Repeat([]byte{rapid.Byte().Draw(rt, "byte")}, n)
				if _, err := f.WriteAt(data, int64(off)); err != nil {
					rt.Fatal(err)
				}
				if n > 0 {
					grow(off + n)
					copy(live[off:], data)
				}
				note()
			case 2:
				n := rapid.IntRange(0, 20000).Draw(rt, "size")
				if err := f.Truncate(int64(n)); err != nil {
					rt.Fatal(err)
				}
				live = live[:min(n, len(live))]
				grow(n)
				note()
			case 3:
				n := rapid.IntRange(0, 20000).Draw(rt, "prealloc")
				if err := f.Preallocate(int64(n)); err != nil {
					rt.Fatal(err)
				}
				grow(n)
				note()
			case 4:
				if err := f.SyncData(); err != nil {
					rt.Fatal(err)
				}
				reset()
			}
			got := make([]byte, len(live)+10)
			n, err := f.ReadAt(got, 0)
			if err != io.EOF || !bytes.Equal(got[:n], live) {
				rt.Fatalf("live content differs (%d, %v)", n, err)
			}
			lost, err := ReadFile(m.CrashClone(LoseAll), "/f", 1<<20)
			if err != nil || !bytes.Equal(lost, synced) {
				rt.Fatalf("lost all: %d bytes, want %d (%v)", len(lost), len(synced), err)
			}
			kept, err := ReadFile(m.CrashClone(KeepAll), "/f", 1<<20)
			if err != nil || !bytes.Equal(kept, live) {
				rt.Fatalf("kept all: %d bytes, want %d (%v)", len(kept), len(live), err)
			}
			clone := m.Crash(rapid.Uint64().Draw(rt, "seed"))
			some, err := ReadFile(clone, "/f", 1<<20)
			if err != nil {
				rt.Fatal(err)
			}
			for i, b := range some {
				if b != 0 && !possible[i][b] {
					rt.Fatalf("byte %d is %d after a crash, which it never was", i, b)
				}
			}
			g, err := clone.OpenReadWrite("/f")
			if err != nil {
				rt.Fatal(err)
			}
			if _, err := g.WriteAt(bytes.Repeat([]byte{0xEE}, 30000), 0); err != nil {
				rt.Fatal(err)
			}
			if err := g.Close(); err != nil {
				rt.Fatal(err)
			}
		}
		if err := m.Remove("/f"); err != nil {
			rt.Fatal(err)
		}
		if err := f.Close(); err != nil || m.Used() != 0 {
			rt.Fatalf("%d bytes used by nothing (%v)", m.Used(), err)
		}
	})
}
