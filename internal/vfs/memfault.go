package vfs

import (
	"fmt"
	"io/fs"
	"slices"
)

// Op is a kind of operation, as a FaultFunc sees it.
type Op int

// The operations that a FaultFunc is asked about. OpSync stands for Sync and
// SyncData, OpRemove for Remove and RemoveAll, OpOpen for both kinds of open.
const (
	OpCreate Op = iota + 1
	OpOpen
	OpRead
	OpWrite
	OpTruncate
	OpPreallocate
	OpSync
	OpSyncDir
	OpRename
	OpRemove
	OpMkdir
	OpList
	OpLock
	OpFree
)

var opNames = [...]string{
	OpCreate: "create", OpOpen: "open", OpRead: "read", OpWrite: "write", OpTruncate: "truncate",
	OpPreallocate: "preallocate", OpSync: "sync", OpSyncDir: "syncdir", OpRename: "rename",
	OpRemove: "remove", OpMkdir: "mkdir", OpList: "list", OpLock: "lock", OpFree: "free",
}

// String returns the name of the operation in lower case.
func (o Op) String() string {
	if o <= 0 || int(o) >= len(opNames) {
		return fmt.Sprintf("op(%d)", int(o))
	}
	return opNames[o]
}

// FaultFunc is asked before an operation; an error makes the operation fail
// with it. name is as the program gave it (of an open file: when it was
// opened; of a rename: the old one), off and n are the range of reads and
// writes, n the size for OpTruncate and OpPreallocate. It is called without any
// lock held, from whatever goroutine works on the file system, and may use the
// file system itself, CrashClone included: that is how a test crashes between
// two steps.
type FaultFunc func(op Op, name string, off, n int64) error

// PartialWrite is an error that a FaultFunc returns for OpWrite: the first N
// bytes are written, then the write fails with Err.
type PartialWrite struct {
	N   int
	Err error
}

// Error implements error.
func (e *PartialWrite) Error() string { return fmt.Sprintf("after %d bytes: %v", e.N, e.Err) }

// Unwrap returns the cause.
func (e *PartialWrite) Unwrap() error { return e.Err }

// SetFault installs the hook; nil removes it.
func (m *Mem) SetFault(f FaultFunc) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = f
}

// check asks the fault hook.
func (m *Mem) check(op Op, name string, off, n int64) error {
	m.mu.Lock()
	f := m.fault
	m.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(op, name, off, n)
}

// SetCapacity limits the disk to n bytes, in whole pages of file data; names
// and directories cost nothing. 0 takes the limit away. What is there already
// stays, though it may be more than n.
func (m *Mem) SetCapacity(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = n
}

// Used returns the bytes in use, in whole pages. A removed file counts until
// its last user closes it.
func (m *Mem) Used() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}

// OpenFiles returns the names of the open files and of the locks that are
// held, sorted, for tests that look for leaks.
func (m *Mem) OpenFiles() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for f := range m.open {
		names = append(names, f.name)
	}
	for name := range m.locks {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// FlipBit inverts one bit (0 to 7) of the byte at off, as the program sees it
// and as the disk holds it.
func (m *Mem) FlipBit(name string, off int64, bit uint) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.lookupLocked(clean(name))
	if err == nil && n.isDir {
		err = errIsDir
	}
	if err != nil {
		return pathErr("flip", name, err)
	}
	c := &n.content
	if off < 0 || off >= c.size || bit > 7 {
		return pathErr("flip", name, fs.ErrInvalid)
	}
	i, in, mask := off/PageSize, off%PageSize, byte(1)<<bit
	flip := func(p *page) *page {
		q := new(page)
		if p != nil {
			*q = *p
		}
		q[in] ^= mask
		return q
	}
	if c.grows(i) {
		m.used += PageSize
	}
	shared := c.live[i] == c.durable[i]
	c.live[i] = flip(c.live[i])
	switch {
	case shared:
		c.durable[i] = c.live[i]
	case off < c.durableSize:
		c.durable[i] = flip(c.durable[i])
	}
	return nil
}
