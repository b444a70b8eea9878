package vfs

import (
	"errors"
	"io"
	"io/fs"
)

// memFile is an open file of a Mem.
type memFile struct {
	fs       *Mem
	inode    *inode
	name     string
	writable bool
	closed   bool // under fs.mu
}

var _ File = (*memFile)(nil)

var errReadOnly = errors.New("opened read-only")

// begin asks the fault hook, then locks the file system. The caller unlocks
// when there is no error.
func (f *memFile) begin(op Op, off, n int64) error {
	if err := f.fs.check(op, f.name, off, n); err != nil {
		return pathErr(op.String(), f.name, err)
	}
	return f.lock(op)
}

func (f *memFile) lock(op Op) error {
	f.fs.mu.Lock()
	err := error(nil)
	switch {
	case f.closed:
		err = fs.ErrClosed
	case !f.writable && (op == OpWrite || op == OpTruncate || op == OpPreallocate):
		err = errReadOnly
	}
	if err != nil {
		f.fs.mu.Unlock()
		return pathErr(op.String(), f.name, err)
	}
	return nil
}

// ReadAt implements io.ReaderAt.
func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, pathErr("read", f.name, fs.ErrInvalid)
	}
	if err := f.begin(OpRead, off, int64(len(p))); err != nil {
		return 0, err
	}
	defer f.fs.mu.Unlock()
	n := f.inode.content.readAt(p, off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements io.WriterAt. On a full disk it writes the pages that fit.
func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, pathErr("write", f.name, fs.ErrInvalid)
	}
	faultErr := f.fs.check(OpWrite, f.name, off, int64(len(p)))
	if faultErr != nil {
		var partial *PartialWrite
		if !errors.As(faultErr, &partial) {
			return 0, pathErr("write", f.name, faultErr)
		}
		p = p[:max(0, min(partial.N, len(p)))]
	}
	if err := f.lock(OpWrite); err != nil {
		return 0, err
	}
	defer f.fs.mu.Unlock()
	n, err := f.writeLocked(p, off)
	if err == nil && faultErr != nil {
		err = faultErr
	}
	if err != nil {
		return n, pathErr("write", f.name, err)
	}
	return n, nil
}

func (f *memFile) writeLocked(p []byte, off int64) (int, error) {
	c := &f.inode.content
	done := 0
	for done < len(p) {
		at := off + int64(done)
		i, in := at/PageSize, at%PageSize
		if c.grows(i) {
			if !f.fs.roomLocked(1) {
				return done, ErrNoSpace
			}
			f.fs.used += PageSize
		}
		done += copy(c.writablePage(i)[in:], p[done:])
		c.size = max(c.size, off+int64(done))
	}
	return done, nil
}

// Preallocate implements File. On a full disk it changes nothing.
func (f *memFile) Preallocate(n int64) error {
	if err := f.begin(OpPreallocate, 0, n); err != nil {
		return err
	}
	defer f.fs.mu.Unlock()
	c := &f.inode.content
	before, reserved := c.pagesInUse(), c.reserved
	c.reserved = max(reserved, pagesFor(n))
	more := c.pagesInUse() - before
	if more > 0 && !f.fs.roomLocked(more) {
		c.reserved = reserved
		return pathErr("preallocate", f.name, ErrNoSpace)
	}
	f.fs.used += more * PageSize
	c.size = max(c.size, n)
	return nil
}

// Truncate implements File.
func (f *memFile) Truncate(n int64) error {
	if n < 0 {
		return pathErr("truncate", f.name, fs.ErrInvalid)
	}
	if err := f.begin(OpTruncate, 0, n); err != nil {
		return err
	}
	defer f.fs.mu.Unlock()
	f.fs.used -= f.inode.content.truncate(n) * PageSize
	return nil
}

// Size implements File.
func (f *memFile) Size() (int64, error) {
	if err := f.lock(OpRead); err != nil {
		return 0, err
	}
	defer f.fs.mu.Unlock()
	return f.inode.content.size, nil
}

// Sync implements File.
func (f *memFile) Sync() error {
	faultErr := f.fs.check(OpSync, f.name, 0, 0)
	if err := f.lock(OpSync); err != nil {
		return err
	}
	defer f.fs.mu.Unlock()
	if faultErr != nil {
		f.inode.content.failSync()
		return pathErr("sync", f.name, faultErr)
	}
	f.inode.content.sync()
	return nil
}

// SyncData implements File. Mem has no metadata that it could leave out.
func (f *memFile) SyncData() error { return f.Sync() }

// Close implements io.Closer.
func (f *memFile) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.closed {
		return pathErr("close", f.name, fs.ErrClosed)
	}
	f.closed = true
	delete(f.fs.open, f)
	f.inode.openers--
	f.fs.releaseLocked(f.inode)
	return nil
}
