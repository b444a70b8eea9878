package vfs

import (
	"io"
	"io/fs"
	"math"
	"path"
	"slices"
	"strings"
	"sync"
)

// MkdirAll implements FS.
func (m *Mem) MkdirAll(name string) error {
	if err := m.check(OpMkdir, name, 0, 0); err != nil {
		return pathErr("mkdir", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	at, full := m.root, "/"
	for part := range strings.SplitSeq(strings.TrimPrefix(clean(name), "/"), "/") {
		if part == "" {
			continue
		}
		full = path.Join(full, part)
		next := at.entries[part]
		if next == nil {
			next = newDir()
			m.changeLocked(dirPart{dir: at, name: part, to: next, path: full})
		}
		if !next.isDir {
			return pathErr("mkdir", full, errNotDir)
		}
		at = next
	}
	return nil
}

// List implements FS.
func (m *Mem) List(dir string) ([]string, error) {
	if err := m.check(OpList, dir, 0, 0); err != nil {
		return nil, pathErr("list", dir, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.dirLocked(dir)
	if err != nil {
		return nil, pathErr("list", dir, err)
	}
	return sortedNames(n.entries), nil
}

func (m *Mem) dirLocked(name string) (*inode, error) {
	n, err := m.lookupLocked(clean(name))
	if err == nil && !n.isDir {
		err = errNotDir
	}
	return n, err
}

// Exists implements FS.
func (m *Mem) Exists(name string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, err := m.lookupLocked(clean(name))
	return err == nil, nil
}

// SyncDir implements FS.
func (m *Mem) SyncDir(dir string) error {
	if err := m.check(OpSyncDir, dir, 0, 0); err != nil {
		return pathErr("syncdir", dir, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	d, err := m.dirLocked(dir)
	if err != nil {
		return pathErr("syncdir", dir, err)
	}
	gone := map[*inode]bool{} // directories that nobody can sync or see any more
	for _, c := range m.pending {
		c.parts = slices.DeleteFunc(c.parts, func(p dirPart) bool {
			if p.dir != d {
				return false
			}
			if old := d.durable[p.name]; old != nil && old.isDir && old.links == 0 {
				gone[old] = true
			}
			if p.to == nil {
				delete(d.durable, p.name)
			} else {
				d.durable[p.name] = p.to
			}
			return true
		})
	}
	m.pending = slices.DeleteFunc(m.pending, func(c *dirChange) bool {
		c.parts = slices.DeleteFunc(c.parts, func(p dirPart) bool { return gone[p.dir] })
		return len(c.parts) == 0
	})
	return nil
}

// Lock implements FS.
func (m *Mem) Lock(name string) (io.Closer, error) {
	if err := m.check(OpLock, name, 0, 0); err != nil {
		return nil, pathErr("lock", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	full := clean(name)
	dir, base, err := m.parentLocked(full)
	if err != nil {
		return nil, pathErr("lock", name, err)
	}
	if m.locks[full] {
		return nil, pathErr("lock", name, ErrLocked)
	}
	if dir.entries[base] == nil {
		m.changeLocked(dirPart{dir: dir, name: base, to: newFile(), path: full})
	}
	m.locks[full] = true
	return &memLock{fs: m, name: full}, nil
}

type memLock struct {
	fs   *Mem
	name string
	once sync.Once
}

// Close gives the lock up.
func (l *memLock) Close() error {
	err := fs.ErrClosed
	l.once.Do(func() {
		l.fs.mu.Lock()
		defer l.fs.mu.Unlock()
		delete(l.fs.locks, l.name)
		err = nil
	})
	return err
}

// Free implements FS.
func (m *Mem) Free(dir string) (uint64, error) {
	if err := m.check(OpFree, dir, 0, 0); err != nil {
		return 0, pathErr("free", dir, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.dirLocked(dir); err != nil {
		return 0, pathErr("free", dir, err)
	}
	if m.capacity == 0 {
		return math.MaxInt64, nil
	}
	return uint64(max(m.capacity-m.used, 0)), nil
}
