package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"sync"
)

// Overlay shows another file system, and keeps what is written to itself, in
// memory: nothing reaches the other one, not even a lock. So code that repairs
// as it reads can look at a directory that must not be touched. It promises
// nothing about crashes. Of directories only those are listed that exist below,
// or in which something was made.
type Overlay struct {
	base FS

	mu   sync.Mutex
	over map[string]*overlayFile // by clean path; nil: removed
}

const overlayPage = 4096

// overlayFile is a file that was made or written to: pages in memory over what
// is below. The lock is the overlay's, held over reads below too: an overlay is
// for looking, not for speed.
type overlayFile struct {
	o     *Overlay
	below File  // nil: nothing is
	cut   int64 // only that much of it counts
	size  int64
	pages map[int64][]byte
}

// NewOverlay shows base.
func NewOverlay(base FS) *Overlay { return &Overlay{base: base, over: make(map[string]*overlayFile)} }

func notExist(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist} }

// Create implements FS.
func (o *Overlay) Create(name string) (File, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f := &overlayFile{o: o, pages: make(map[int64][]byte)}
	o.over[path.Clean(name)] = f
	return f, nil
}

// Open implements FS.
func (o *Overlay) Open(name string) (File, error) {
	o.mu.Lock()
	f, touched := o.over[path.Clean(name)]
	o.mu.Unlock()
	switch {
	case f != nil:
		return f, nil
	case touched:
		return nil, notExist("open", name)
	}
	return o.base.Open(name)
}

// OpenReadWrite implements FS.
func (o *Overlay) OpenReadWrite(name string) (File, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f, touched := o.over[path.Clean(name)]
	switch {
	case f != nil:
		return f, nil
	case touched:
		return nil, notExist("open", name)
	}
	below, err := o.base.Open(name)
	if err != nil {
		return nil, err
	}
	size, err := below.Size()
	if err != nil {
		return nil, errors.Join(err, below.Close())
	}
	f = &overlayFile{o: o, below: below, cut: size, size: size, pages: make(map[int64][]byte)}
	o.over[path.Clean(name)] = f
	return f, nil
}

// Remove implements FS.
func (o *Overlay) Remove(name string) error {
	there, err := o.Exists(name)
	if err != nil {
		return err
	}
	if !there {
		return notExist("remove", name)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over[path.Clean(name)] = nil
	return nil
}

// RemoveAll implements FS.
func (o *Overlay) RemoveAll(name string) error {
	names, err := o.List(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, n := range names {
		if err := o.Remove(path.Join(name, n)); err != nil {
			return err
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over[path.Clean(name)] = nil
	return nil
}

// Rename implements FS.
func (o *Overlay) Rename(oldname, newname string) error {
	if _, err := o.OpenReadWrite(oldname); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over[path.Clean(newname)], o.over[path.Clean(oldname)] = o.over[path.Clean(oldname)], nil
	return nil
}

// MkdirAll implements FS; a directory appears with its first file.
func (o *Overlay) MkdirAll(string) error { return nil }

// List implements FS.
func (o *Overlay) List(dir string) ([]string, error) {
	names, err := o.base.List(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	dir = path.Clean(dir)
	o.mu.Lock()
	defer o.mu.Unlock()
	for name, f := range o.over {
		if path.Dir(name) == dir && f != nil && !slices.Contains(names, path.Base(name)) {
			names, err = append(names, path.Base(name)), nil
		}
	}
	names = slices.DeleteFunc(names, func(n string) bool { f, touched := o.over[path.Join(dir, n)]; return touched && f == nil })
	slices.Sort(names)
	return names, err
}

// Exists implements FS.
func (o *Overlay) Exists(name string) (bool, error) {
	o.mu.Lock()
	f, touched := o.over[path.Clean(name)]
	o.mu.Unlock()
	if touched {
		return f != nil, nil
	}
	return o.base.Exists(name)
}

// SyncDir implements FS.
func (o *Overlay) SyncDir(string) error { return nil }

// Lock implements FS: it locks nothing.
func (o *Overlay) Lock(string) (io.Closer, error) { return noLock{}, nil }

type noLock struct{}

func (noLock) Close() error { return nil }

// Free implements FS.
func (o *Overlay) Free(string) (uint64, error) { return 1 << 62, nil }

// Close closes the files below that were opened for writing.
func (o *Overlay) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	for name, f := range o.over {
		if f != nil && f.below != nil {
			errs = append(errs, f.below.Close())
		}
		delete(o.over, name)
	}
	return errors.Join(errs...)
}

// ReadAt implements File.
func (f *overlayFile) ReadAt(p []byte, off int64) (int, error) {
	f.o.mu.Lock()
	defer f.o.mu.Unlock()
	if off < 0 {
		return 0, fmt.Errorf("read at %d", off)
	}
	n := 0
	for n < len(p) && off+int64(n) < f.size {
		at := off + int64(n)
		page, err := f.page(at / overlayPage)
		if err != nil {
			return n, err
		}
		some := page[at%overlayPage:]
		n += copy(p[n:], some[:min(int64(len(some)), f.size-at)])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// page returns one page as it is now.
func (f *overlayFile) page(number int64) ([]byte, error) {
	if page := f.pages[number]; page != nil {
		return page, nil
	}
	page := make([]byte, overlayPage)
	if start := number * overlayPage; f.below != nil && start < f.cut {
		want := page[:min(overlayPage, f.cut-start)]
		if n, err := f.below.ReadAt(want, start); err != nil && (err != io.EOF || n < len(want)) {
			return nil, err
		}
	}
	return page, nil
}

// WriteAt implements File.
func (f *overlayFile) WriteAt(p []byte, off int64) (int, error) {
	f.o.mu.Lock()
	defer f.o.mu.Unlock()
	for n := 0; n < len(p); {
		at := off + int64(n)
		page, err := f.page(at / overlayPage)
		if err != nil {
			return n, err
		}
		n += copy(page[at%overlayPage:], p[n:])
		f.pages[at/overlayPage] = page
		f.size = max(f.size, off+int64(n))
	}
	return len(p), nil
}

// Preallocate implements File.
func (f *overlayFile) Preallocate(n int64) error {
	f.o.mu.Lock()
	defer f.o.mu.Unlock()
	f.size = max(f.size, n)
	return nil
}

// Truncate implements File.
func (f *overlayFile) Truncate(n int64) error {
	f.o.mu.Lock()
	defer f.o.mu.Unlock()
	last := n / overlayPage
	if page := f.pages[last]; page != nil {
		clear(page[n%overlayPage:])
	}
	for number := range f.pages {
		if number > last {
			delete(f.pages, number)
		}
	}
	f.cut, f.size = min(f.cut, n), n
	return nil
}

// Size implements File.
func (f *overlayFile) Size() (int64, error) {
	f.o.mu.Lock()
	defer f.o.mu.Unlock()
	return f.size, nil
}

// Sync implements File.
func (f *overlayFile) Sync() error { return nil }

// SyncData implements File.
func (f *overlayFile) SyncData() error { return nil }

// Close implements File; the overlay keeps what was written.
func (f *overlayFile) Close() error { return nil }
