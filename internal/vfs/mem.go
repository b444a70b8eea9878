package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
)

// Mem is a file system in memory that keeps strict account of what a crash
// may take. Names are cleaned and hang below one root, so "a/b" and "/a/b" are
// the same file. It is safe for concurrent use.
//
// A file knows its content as programs see it and as the disk holds it, by
// pages of PageSize; a directory knows its entries in the same two ways. Sync
// and SyncDir carry the first over to the second. CrashClone makes the file
// system that a machine would find after losing its power, and leaves this one
// untouched. After a failed sync the pages that were to be written are as a
// Linux disk leaves them: no later sync makes them durable, unless they are
// written again.
type Mem struct {
	mu       sync.Mutex
	root     *inode
	pending  []*dirChange // changes of entries that are not durable, oldest first
	locks    map[string]bool
	open     map[*memFile]struct{}
	capacity int64 // in bytes; 0: no limit
	used     int64 // pages in use
	fault    FaultFunc
}

var _ FS = (*Mem)(nil)

// NewMem returns an empty file system: only its root directory exists.
func NewMem() *Mem {
	return &Mem{root: newDir(), locks: map[string]bool{}, open: map[*memFile]struct{}{}}
}

// dirChange is one change of a directory that a crash may take: a create, a
// remove, or a rename, whose two halves land together.
type dirChange struct{ parts []dirPart }

// dirPart sets one name: to an inode, or to nothing.
type dirPart struct {
	dir  *inode
	name string
	to   *inode
	path string
}

// inode is a file or a directory. Guarded by Mem.mu.
type inode struct {
	links   int // names that programs see
	openers int

	// Of a directory.
	isDir   bool
	entries map[string]*inode // as programs see them
	durable map[string]*inode // as the disk holds them

	// Of a file; see mempages.go.
	content memContent
}

func newDir() *inode {
	return &inode{isDir: true, entries: map[string]*inode{}, durable: map[string]*inode{}}
}

func newFile() *inode { return &inode{content: newContent()} }

func clean(name string) string { return path.Clean("/" + name) }

func pathErr(op, name string, err error) error { return &fs.PathError{Op: op, Path: name, Err: err} }

// lookupLocked finds the inode of a clean name.
func (m *Mem) lookupLocked(name string) (*inode, error) {
	at := m.root
	for part := range strings.SplitSeq(strings.TrimPrefix(name, "/"), "/") {
		if part == "" {
			continue
		}
		if !at.isDir {
			return nil, fs.ErrNotExist
		}
		next := at.entries[part]
		if next == nil {
			return nil, fs.ErrNotExist
		}
		at = next
	}
	return at, nil
}

// parentLocked finds the directory that holds a clean name, and the base name.
func (m *Mem) parentLocked(name string) (*inode, string, error) {
	if name == "/" {
		return nil, "", fs.ErrInvalid
	}
	d, err := m.lookupLocked(path.Dir(name))
	if err != nil {
		return nil, "", err
	}
	if !d.isDir {
		return nil, "", errNotDir
	}
	return d, path.Base(name), nil
}

var (
	errNotDir   = errors.New("not a directory")
	errIsDir    = errors.New("is a directory")
	errNotEmpty = errors.New("directory not empty")
)

// changeLocked does one change of entries, live now and durable after SyncDir.
func (m *Mem) changeLocked(parts ...dirPart) {
	for _, p := range parts {
		if old := p.dir.entries[p.name]; old != nil {
			old.links--
			m.releaseLocked(old)
		}
		if p.to == nil {
			delete(p.dir.entries, p.name)
		} else {
			p.dir.entries[p.name] = p.to
			p.to.links++
		}
	}
	m.pending = append(m.pending, &dirChange{parts: parts})
}

// releaseLocked gives back the space of a file that has neither name nor user.
func (m *Mem) releaseLocked(n *inode) {
	if n.links == 0 && n.openers == 0 && !n.isDir {
		m.used -= n.content.pagesInUse() * PageSize
	}
}

// roomLocked reports whether n more pages fit.
func (m *Mem) roomLocked(n int64) bool {
	return m.capacity == 0 || m.used+n*PageSize <= m.capacity
}

// Create implements FS.
func (m *Mem) Create(name string) (File, error) {
	if err := m.check(OpCreate, name, 0, 0); err != nil {
		return nil, pathErr("create", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parentLocked(clean(name))
	if err != nil {
		return nil, pathErr("create", name, err)
	}
	n := dir.entries[base]
	switch {
	case n == nil:
		n = newFile()
		m.changeLocked(dirPart{dir: dir, name: base, to: n, path: clean(name)})
	case n.isDir:
		return nil, pathErr("create", name, errIsDir)
	default:
		m.used -= n.content.truncate(0) * PageSize
	}
	return m.openLocked(n, name, true), nil
}

func (m *Mem) openLocked(n *inode, name string, writable bool) File {
	f := &memFile{fs: m, inode: n, name: name, writable: writable}
	n.openers++
	m.open[f] = struct{}{}
	return f
}

// Open implements FS.
func (m *Mem) Open(name string) (File, error) { return m.openExisting(name, false) }

// OpenReadWrite implements FS.
func (m *Mem) OpenReadWrite(name string) (File, error) { return m.openExisting(name, true) }

func (m *Mem) openExisting(name string, writable bool) (File, error) {
	if err := m.check(OpOpen, name, 0, 0); err != nil {
		return nil, pathErr("open", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.lookupLocked(clean(name))
	if err == nil && n.isDir {
		err = errIsDir
	}
	if err != nil {
		return nil, pathErr("open", name, err)
	}
	return m.openLocked(n, name, writable), nil
}

// Remove implements FS.
func (m *Mem) Remove(name string) error {
	if err := m.check(OpRemove, name, 0, 0); err != nil {
		return pathErr("remove", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parentLocked(clean(name))
	if err != nil {
		return pathErr("remove", name, err)
	}
	n := dir.entries[base]
	if n == nil {
		return pathErr("remove", name, fs.ErrNotExist)
	}
	if len(n.entries) > 0 {
		return pathErr("remove", name, errNotEmpty)
	}
	m.changeLocked(dirPart{dir: dir, name: base, path: clean(name)})
	return nil
}

// RemoveAll implements FS.
func (m *Mem) RemoveAll(name string) error {
	if err := m.check(OpRemove, name, 0, 0); err != nil {
		return pathErr("removeall", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parentLocked(clean(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return pathErr("removeall", name, err)
	}
	if n := dir.entries[base]; n != nil {
		m.removeTreeLocked(dir, base, clean(name))
	}
	return nil
}

func (m *Mem) removeTreeLocked(dir *inode, base, full string) {
	n := dir.entries[base]
	for _, child := range sortedNames(n.entries) {
		m.removeTreeLocked(n, child, path.Join(full, child))
	}
	m.changeLocked(dirPart{dir: dir, name: base, path: full})
}

// Rename implements FS.
func (m *Mem) Rename(oldname, newname string) error {
	if err := m.check(OpRename, oldname, 0, 0); err != nil {
		return pathErr("rename", oldname, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	from, to := clean(oldname), clean(newname)
	fromDir, fromBase, err := m.parentLocked(from)
	if err != nil {
		return pathErr("rename", oldname, err)
	}
	toDir, toBase, err := m.parentLocked(to)
	if err != nil {
		return pathErr("rename", newname, err)
	}
	n, target := fromDir.entries[fromBase], toDir.entries[toBase]
	switch {
	case n == nil:
		return pathErr("rename", oldname, fs.ErrNotExist)
	case n == target:
		return nil
	case n.isDir && strings.HasPrefix(to, from+"/"):
		return pathErr("rename", newname, fs.ErrInvalid)
	case target != nil && target.isDir && (!n.isDir || len(target.entries) > 0):
		return pathErr("rename", newname, fs.ErrExist)
	case target != nil && !target.isDir && n.isDir:
		return pathErr("rename", newname, errNotDir)
	}
	// The new name first, so that the inode never is without a name.
	m.changeLocked(
		dirPart{dir: toDir, name: toBase, to: n, path: to},
		dirPart{dir: fromDir, name: fromBase, path: from},
	)
	return nil
}

func sortedNames(entries map[string]*inode) []string {
	names := make([]string, 0, len(entries))
	for name := range entries {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// String describes what is in use, for failure messages.
func (m *Mem) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return fmt.Sprintf("vfs.Mem: %d bytes used of %d, %d files open, %d unsynced name changes", m.used, m.capacity, len(m.open), len(m.pending))
}
