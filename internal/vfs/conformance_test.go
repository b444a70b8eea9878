package vfs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

// TestConformance runs one suite on every implementation.
func TestConformance(t *testing.T) {
	t.Parallel()
	systems := map[string]func(t *testing.T) (FS, string){
		"OS": func(t *testing.T) (FS, string) { return OS{}, filepath.ToSlash(t.TempDir()) },
		"Mem": func(t *testing.T) (FS, string) {
			m := NewMem()
			t.Cleanup(func() {
				if open := m.OpenFiles(); len(open) > 0 {
					t.Errorf("left open: %q", open)
				}
			})
			must(t, m.MkdirAll("/data"))
			return m, "/data"
		},
		"MemAfterCrash": func(t *testing.T) (FS, string) {
			m := NewMem()
			must(t, m.MkdirAll("/data"))
			return m.CrashClone(KeepAll), "/data"
		},
	}
	cases := map[string]func(t *testing.T, fsys FS, dir string){
		"ReadWrite": conformReadWrite, "Names": conformNames, "Rename": conformRename,
		"Missing": conformMissing, "Dirs": conformDirs, "Preallocate": conformPreallocate,
		"Truncate": conformTruncate, "Lock": conformLock, "OpenSurvivesRemove": conformOpenSurvivesRemove,
		"Concurrent": conformConcurrent, "Closed": conformClosed, "Helpers": conformHelpers,
	}
	for sysName, makeFS := range systems {
		for name, run := range cases {
			t.Run(sysName+"/"+name, func(t *testing.T) {
				t.Parallel()
				fsys, dir := makeFS(t)
				run(t, fsys, dir)
			})
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func writeFile(t *testing.T, fsys FS, name, data string) {
	t.Helper()
	f, err := fsys.Create(name)
	must(t, err)
	n, err := f.WriteAt([]byte(data), 0)
	if n != len(data) {
		t.Fatalf("wrote %d of %d bytes", n, len(data))
	}
	must(t, err)
	must(t, f.Close())
}

func wantFile(t *testing.T, fsys FS, name, want string) {
	t.Helper()
	got, err := ReadFile(fsys, name, 1<<20)
	must(t, err)
	if string(got) != want {
		t.Fatalf("%s holds %q, want %q", name, got, want)
	}
}

func conformReadWrite(t *testing.T, fsys FS, dir string) {
	f, err := fsys.Create(dir + "/f")
	must(t, err)
	big := bytes.Repeat([]byte("0123456789"), 1000) // crosses pages
	_, err = f.WriteAt(big, 5000)
	must(t, err)
	size, err := f.Size()
	must(t, err)
	if size != 15000 {
		t.Fatalf("size %d", size)
	}
	buf := make([]byte, 20000)
	n, err := f.ReadAt(buf, 0)
	if n != 15000 || err != io.EOF {
		t.Fatalf("read %d, %v", n, err)
	}
	if !bytes.Equal(buf[:5000], make([]byte, 5000)) || !bytes.Equal(buf[5000:15000], big) {
		t.Fatal("wrong bytes")
	}
	if n, err = f.ReadAt(buf, 15000); n != 0 || err != io.EOF {
		t.Fatalf("read at the end: %d, %v", n, err)
	}
	if n, err = f.ReadAt(buf[:3], 14997); n != 3 || (err != nil && err != io.EOF) {
		t.Fatalf("read up to the end: %d, %v", n, err)
	}
	if _, err = f.ReadAt(buf, -1); err == nil {
		t.Fatal("read at -1 worked")
	}
	if _, err = f.WriteAt(buf, -1); err == nil {
		t.Fatal("write at -1 worked")
	}
	must(t, f.Sync())
	must(t, f.SyncData())
	must(t, f.Close())
	ro, err := fsys.Open(dir + "/f")
	must(t, err)
	if _, err := ro.WriteAt([]byte("x"), 0); err == nil {
		t.Fatal("wrote to a file that was opened read-only")
	}
	must(t, ro.Close())
	rw, err := fsys.OpenReadWrite(dir + "/f")
	must(t, err)
	_, err = rw.WriteAt([]byte("x"), 0)
	must(t, err)
	must(t, rw.Close())
	writeFile(t, fsys, dir+"/f", "new")
	wantFile(t, fsys, dir+"/f", "new")
}

func conformNames(t *testing.T, fsys FS, dir string) {
	for _, name := range []string{"c", "a", "b"} {
		writeFile(t, fsys, dir+"/"+name, name)
	}
	names, err := fsys.List(dir)
	must(t, err)
	if !slices.Equal(names, []string{"a", "b", "c"}) {
		t.Fatalf("listed %q", names)
	}
	must(t, fsys.Remove(dir+"/b"))
	ok, err := fsys.Exists(dir + "/b")
	if ok || err != nil {
		t.Fatalf("exists after removal: %v, %v", ok, err)
	}
	if ok, err = fsys.Exists(dir + "/a"); !ok || err != nil {
		t.Fatalf("does not exist: %v, %v", ok, err)
	}
	must(t, fsys.SyncDir(dir))
}

func conformRename(t *testing.T, fsys FS, dir string) {
	writeFile(t, fsys, dir+"/a", "A")
	writeFile(t, fsys, dir+"/b", "B")
	must(t, fsys.Rename(dir+"/a", dir+"/b"))
	wantFile(t, fsys, dir+"/b", "A")
	if ok, _ := fsys.Exists(dir + "/a"); ok {
		t.Fatal("the old name is still there")
	}
	must(t, fsys.MkdirAll(dir+"/sub"))
	must(t, fsys.Rename(dir+"/b", dir+"/sub/c"))
	must(t, fsys.Rename(dir+"/sub", dir+"/sub2"))
	wantFile(t, fsys, dir+"/sub2/c", "A")
	if err := fsys.Rename(dir+"/none", dir+"/x"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("rename of nothing: %v", err)
	}
	must(t, fsys.Rename(dir+"/sub2/c", dir+"/sub2/c"))
	wantFile(t, fsys, dir+"/sub2/c", "A")
}

func conformMissing(t *testing.T, fsys FS, dir string) {
	_, errOpen := fsys.Open(dir + "/none")
	_, errRW := fsys.OpenReadWrite(dir + "/none")
	_, errCreate := fsys.Create(dir + "/none/f")
	_, errList := fsys.List(dir + "/none")
	_, errLock := fsys.Lock(dir + "/none/lock")
	_, errFree := fsys.Free(dir + "/none")
	errs := []error{errOpen, errRW, errCreate, errList, errLock, errFree, fsys.Remove(dir + "/none"), fsys.SyncDir(dir + "/none")}
	for i, err := range errs {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%d: %v, want fs.ErrNotExist", i, err)
		}
	}
	must(t, fsys.RemoveAll(dir+"/none"))
	must(t, fsys.RemoveAll(dir+"/none/below"))
}

func conformDirs(t *testing.T, fsys FS, dir string) {
	must(t, fsys.MkdirAll(dir+"/x/y/z"))
	must(t, fsys.MkdirAll(dir+"/x/y/z"))
	writeFile(t, fsys, dir+"/x/y/f", "f")
	if err := fsys.Remove(dir + "/x/y"); err == nil {
		t.Fatal("removed a directory that holds something")
	}
	if _, err := fsys.Create(dir + "/x"); err == nil {
		t.Fatal("created a file over a directory")
	}
	if err := fsys.MkdirAll(dir + "/x/y/f/g"); err == nil {
		t.Fatal("made a directory below a file")
	}
	must(t, fsys.Remove(dir+"/x/y/z"))
	must(t, fsys.RemoveAll(dir+"/x"))
	names, err := fsys.List(dir)
	must(t, err)
	if len(names) != 0 {
		t.Fatalf("left %q", names)
	}
}

func conformPreallocate(t *testing.T, fsys FS, dir string) {
	f, err := fsys.Create(dir + "/f")
	must(t, err)
	_, err = f.WriteAt([]byte("head"), 0)
	must(t, err)
	must(t, f.Preallocate(10000))
	size, err := f.Size()
	must(t, err)
	if size != 10000 {
		t.Fatalf("size %d after Preallocate(10000)", size)
	}
	must(t, f.Preallocate(50))
	if size, err = f.Size(); size != 10000 || err != nil {
		t.Fatalf("size %d after a smaller Preallocate (%v)", size, err)
	}
	buf := make([]byte, 10000)
	_, err = f.ReadAt(buf, 0)
	if err != nil && err != io.EOF {
		t.Fatal(err)
	}
	if string(buf[:4]) != "head" || !bytes.Equal(buf[4:], make([]byte, 9996)) {
		t.Fatal("not zeros after what was there")
	}
	must(t, f.Close())
}

func conformTruncate(t *testing.T, fsys FS, dir string) {
	f, err := fsys.Create(dir + "/f")
	must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte("x"), 9000), 0)
	must(t, err)
	must(t, f.Truncate(10))
	must(t, f.Truncate(9000))
	buf := make([]byte, 9000)
	_, err = f.ReadAt(buf, 0)
	if err != nil && err != io.EOF {
		t.Fatal(err)
	}
	if string(buf[:10]) != "xxxxxxxxxx" || !bytes.Equal(buf[10:], make([]byte, 8990)) {
		t.Fatal("what was cut off came back")
	}
	must(t, f.Close())
}

func conformLock(t *testing.T, fsys FS, dir string) {
	l, err := fsys.Lock(dir + "/LOCK")
	must(t, err)
	if _, err := fsys.Lock(dir + "/LOCK"); !errors.Is(err, ErrLocked) {
		t.Fatalf("second lock: %v, want ErrLocked", err)
	}
	if ok, err := fsys.Exists(dir + "/LOCK"); !ok || err != nil {
		t.Fatalf("lock file: %v, %v", ok, err)
	}
	must(t, l.Close())
	l, err = fsys.Lock(dir + "/LOCK")
	must(t, err)
	must(t, l.Close())
	free, err := fsys.Free(dir)
	must(t, err)
	if free == 0 {
		t.Fatal("no space at all?")
	}
}

func conformOpenSurvivesRemove(t *testing.T, fsys FS, dir string) {
	writeFile(t, fsys, dir+"/f", "still here")
	f, err := fsys.Open(dir + "/f")
	must(t, err)
	must(t, fsys.Remove(dir+"/f"))
	writeFile(t, fsys, dir+"/f", "another")
	buf := make([]byte, 10)
	if _, err := f.ReadAt(buf, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	if string(buf) != "still here" {
		t.Fatalf("read %q", buf)
	}
	must(t, f.Close())
	wantFile(t, fsys, dir+"/f", "another")
}

func conformConcurrent(t *testing.T, fsys FS, dir string) {
	f, err := fsys.Create(dir + "/f")
	must(t, err)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			chunk := bytes.Repeat([]byte{byte('a' + i)}, 3000)
			if _, err := f.WriteAt(chunk, int64(i)*3000); err != nil {
				t.Error(err)
			}
			if err := f.SyncData(); err != nil {
				t.Error(err)
			}
			got := make([]byte, 3000)
			if _, err := f.ReadAt(got, int64(i)*3000); err != nil && err != io.EOF {
				t.Error(err)
			}
			if !bytes.Equal(got, chunk) {
				t.Errorf("range %d holds something else", i)
			}
		})
	}
	wg.Wait()
	must(t, f.Close())
}

func conformClosed(t *testing.T, fsys FS, dir string) {
	f, err := fsys.Create(dir + "/f")
	must(t, err)
	must(t, f.Close())
	_, errRead := f.ReadAt(make([]byte, 1), 0)
	_, errWrite := f.WriteAt(make([]byte, 1), 0)
	_, errSize := f.Size()
	for i, err := range []error{errRead, errWrite, errSize, f.Sync(), f.SyncData(), f.Truncate(1), f.Preallocate(1), f.Close()} {
		if err == nil {
			t.Errorf("%d: no error on a closed file", i)
		}
	}
}

func conformHelpers(t *testing.T, fsys FS, dir string) {
	must(t, MkdirAllSync(fsys, dir+"/p/q/r"))
	must(t, MkdirAllSync(fsys, dir+"/p/q/r"))
	writeFile(t, fsys, dir+"/p/q/r/f", "12345")
	if _, err := ReadFile(fsys, dir+"/p/q/r/f", 4); err == nil {
		t.Fatal("read more than the limit")
	}
	wantFile(t, fsys, dir+"/p/q/r/f", "12345")
}
