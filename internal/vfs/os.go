package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
)

// Files and directories are for their owner, and for a group that takes
// backups. The umask may take more away.
const (
	filePerm = 0o640
	dirPerm  = 0o750
)

// OS is the file system of the operating system. Use it as OS{}.
//
// Linux has everything: fdatasync, fallocate, flock, fsync of directories.
// macOS and FreeBSD sync data and metadata alike and reserve blocks by writing
// zeros. Windows cannot sync a directory, so SyncDir does nothing there and
// names are as durable as NTFS makes them; an open file cannot be removed
// there either.
type OS struct{}

var _ FS = OS{}

// osFile is a File on an *os.File.
type osFile struct {
	*os.File
	written atomic.Int64 // counts bytes, and changes of the size, that take a sync to be durable
	synced  atomic.Int64 // what written was when the last SyncData began that succeeded
	ahead   ahead
	direct  *direct // nil: writes go through the page cache
}

// besideBytes is how much must have been written for a sync, or a write past the page
// cache, beside the goroutine. In fdatasync it keeps its P until the runtime's monitor takes that
// away, often after the sync only: where as many logs sync as there are Ps,
// nothing else of the process runs meanwhile. A sync beside it costs two changes
// of threads more. With three nodes in a process on two processors it made 4,096
// proposals under way 1.7 times as fast, and 64 structures 1.6 times; single
// proposals got a tenth slower, hence the threshold.
const besideBytes = 40 << 10

var _ File = (*osFile)(nil)

// wrapOS marks a full disk or an exhausted quota as ErrNoSpace and keeps the cause.
func wrapOS(err error) error {
	if err == nil {
		return nil
	}
	if isNoSpace(err) && !errors.Is(err, ErrNoSpace) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

func openOS(name string, flag int) (File, error) {
	f, err := os.OpenFile(filepath.FromSlash(name), flag, filePerm)
	if err != nil {
		return nil, wrapOS(err)
	}
	return &osFile{File: f}, nil
}

// Create implements FS.
func (OS) Create(name string) (File, error) {
	return openOS(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}

// Open implements FS.
func (OS) Open(name string) (File, error) { return openOS(name, os.O_RDONLY) }

// OpenReadWrite implements FS.
func (OS) OpenReadWrite(name string) (File, error) { return openOS(name, os.O_RDWR) }

// Remove implements FS.
func (OS) Remove(name string) error { return wrapOS(os.Remove(filepath.FromSlash(name))) }

// RemoveAll implements FS.
func (OS) RemoveAll(name string) error { return wrapOS(os.RemoveAll(filepath.FromSlash(name))) }

// Rename implements FS.
func (OS) Rename(oldname, newname string) error {
	return wrapOS(os.Rename(filepath.FromSlash(oldname), filepath.FromSlash(newname)))
}

// MkdirAll implements FS.
func (OS) MkdirAll(dir string) error { return wrapOS(os.MkdirAll(filepath.FromSlash(dir), dirPerm)) }

// List implements FS.
func (OS) List(dir string) ([]string, error) {
	f, err := os.Open(filepath.FromSlash(dir))
	if err != nil {
		return nil, err
	}
	names, err := f.Readdirnames(-1)
	err = errors.Join(err, f.Close())
	slices.Sort(names)
	return names, err
}

// Exists implements FS.
func (OS) Exists(name string) (bool, error) {
	_, err := os.Stat(filepath.FromSlash(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// SyncDir implements FS.
func (OS) SyncDir(dir string) error { return wrapOS(syncDir(filepath.FromSlash(dir))) }

// Lock implements FS.
func (OS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(filepath.FromSlash(name), os.O_RDWR|os.O_CREATE, filePerm)
	if err != nil {
		return nil, wrapOS(err)
	}
	if err := lockFile(f); err != nil {
		// The lock error is what matters; nothing was written.
		return nil, errors.Join(&fs.PathError{Op: "lock", Path: name, Err: err}, f.Close())
	}
	return heldLock{f}, nil
}

// heldLock gives a lock up by name before it closes the file: a process that this
// one is just starting has all its files for a moment, and the lock with them.
type heldLock struct{ f *os.File }

func (l heldLock) Close() error { return wrapOS(errors.Join(unlockFile(l.f), l.f.Close())) }

// Free implements FS.
func (OS) Free(dir string) (uint64, error) {
	n, err := freeBytes(filepath.FromSlash(dir))
	if err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return n, nil
}

// WriteAt implements io.WriterAt.
func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	var to target = plain{f.File, &f.written}
	if f.direct != nil {
		to = f.direct
	}
	n, err := f.ahead.write(to, p, off)
	return n, wrapOS(err)
}

// Preallocate implements File.
func (f *osFile) Preallocate(n int64) error {
	if n <= 0 {
		return nil
	}
	st, err := f.Stat()
	if err != nil {
		return wrapOS(err)
	}
	defer f.written.Add(1)
	unwritten, err := preallocate(f.File, n)
	if err != nil {
		return wrapOS(&fs.PathError{Op: "preallocate", Path: f.Name(), Err: err})
	}
	if unwritten && st.Size() == 0 {
		f.ahead.begin(n)
	}
	return nil
}

// Close implements io.Closer.
func (f *osFile) Close() error {
	err := f.File.Close()
	if f.direct != nil {
		err = errors.Join(err, f.direct.file.Close())
	}
	return err
}

// Truncate implements File.
func (f *osFile) Truncate(n int64) error {
	defer f.written.Add(1)
	return wrapOS(f.File.Truncate(n))
}

// Size implements File.
func (f *osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// Sync implements File.
func (f *osFile) Sync() error { return wrapOS(f.File.Sync()) }

// SyncData implements File.
func (f *osFile) SyncData() error {
	if err := f.sync(); err != nil {
		return wrapOS(&fs.PathError{Op: "fdatasync", Path: f.Name(), Err: err})
	}
	return nil
}

func (f *osFile) sync() (err error) {
	written, synced := f.written.Load(), f.synced.Load()
	if f.direct != nil {
		if failed := f.direct.zerosFailed.Load(); failed != nil {
			return *failed
		}
		if written <= synced {
			return nil
		}
	}
	done := false
	if written-synced >= besideBytes {
		done, err = syncBeside(f.File)
	}
	if !done {
		err = syncData(f.File)
	}
	if err != nil {
		return err // asked again, the system is asked again
	}
	for synced < written && !f.synced.CompareAndSwap(synced, written) {
		synced = f.synced.Load()
	}
	return nil
}

// preallocateZeros extends f to n bytes by writing zeros, which reserves the
// blocks where the system has no call for it. What the file already holds is
// left alone, holes included.
func preallocateZeros(f *os.File, n int64) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	zeros := make([]byte, 256<<10)
	for at := st.Size(); at < n; {
		w, err := f.WriteAt(zeros[:min(int64(len(zeros)), n-at)], at)
		at += int64(w)
		if err != nil {
			return err
		}
	}
	return nil
}

// ignoringEINTR repeats a system call that a signal interrupted.
func ignoringEINTR(call func() error) error {
	for {
		if err := call(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
