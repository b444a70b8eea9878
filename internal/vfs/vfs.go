// Package vfs is the small file system that the log store and the snapshot
// files are written through. OS is the real one. Mem keeps everything in
// memory, loses on a crash what was not synced, and fails, fills, cuts and
// flips on demand, so that tests reach what a disk does once a year.
package vfs

import (
	"errors"
	"io"
)

// Errors of every implementation, wrapped with operation and path.
var (
	// ErrLocked says that another process, or this one already, holds the lock.
	ErrLocked = errors.New("locked already, by another process or this one")
	// ErrNoSpace says that the file system is full (ENOSPC, EDQUOT).
	ErrNoSpace = errors.New("no space left on device")
)

// FS is a file system. Names are slash-separated paths. Implementations are
// safe for concurrent use. A missing file is an error that satisfies
// errors.Is(err, fs.ErrNotExist); a full disk one that satisfies
// errors.Is(err, ErrNoSpace).
//
// Durability: Create, Rename and Remove survive a crash only after SyncDir of
// the directory that holds the name; bytes only after Sync or SyncData of the
// file. SyncData also makes a changed size durable (as fdatasync does).
type FS interface {
	// Create makes an empty file for reading and writing; an existing one is truncated.
	Create(name string) (File, error)
	// Open opens an existing file read-only.
	Open(name string) (File, error)
	// OpenReadWrite opens an existing file for reading and writing.
	OpenReadWrite(name string) (File, error)
	Remove(name string) error
	RemoveAll(name string) error
	Rename(oldname, newname string) error
	MkdirAll(dir string) error
	// List returns the base names in dir, sorted.
	List(dir string) ([]string, error)
	// Exists reports whether a file or directory of that name exists.
	Exists(name string) (bool, error)
	SyncDir(dir string) error
	// Lock takes an exclusive lock on the named file, which it creates if
	// needed, without waiting: ErrLocked if someone else holds it. Closing
	// the result gives the lock up; so does the end of the process.
	Lock(name string) (io.Closer, error)
	// Free returns the bytes that can still be written below dir.
	Free(dir string) (uint64, error)
}

// File is an open file. ReadAt and WriteAt follow io.ReaderAt and io.WriterAt;
// concurrent calls on disjoint ranges are fine.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Preallocate reserves blocks for the first n bytes and extends the file
	// to n bytes of zeros if it is shorter, so that later writes below n
	// change no metadata.
	Preallocate(n int64) error
	Truncate(n int64) error
	Size() (int64, error)
	// Sync makes data and metadata durable.
	Sync() error
	// SyncData makes data durable, and the size if it changed (fdatasync).
	SyncData() error
}
