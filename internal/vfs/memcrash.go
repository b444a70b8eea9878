package vfs

import (
	"fmt"
	"math/rand/v2"
	"path"
)

// UnsyncedKind says what a crash may take.
type UnsyncedKind int

// What a crash may take.
const (
	// UnsyncedEntry is a create, rename or remove in a directory that was not synced.
	UnsyncedEntry UnsyncedKind = iota + 1
	// UnsyncedSize is a change of a file's size.
	UnsyncedSize
	// UnsyncedPage is a page that was written, or cut off.
	UnsyncedPage
)

// Unsynced is one thing that a crash may take.
type Unsynced struct {
	Kind UnsyncedKind
	// Name is the file; of a rename it is the new name.
	Name string
	// Off is where a page begins, or the durable size.
	Off int64
	// Len is PageSize for a page, the difference for a size, and 0 for an entry.
	Len int64
}

// String describes it for failure messages.
func (u Unsynced) String() string {
	switch u.Kind {
	case UnsyncedEntry:
		return "entry " + u.Name
	case UnsyncedSize:
		return fmt.Sprintf("size of %s, from %d by %d", u.Name, u.Off, u.Len)
	default:
		return fmt.Sprintf("page of %s at %d", u.Name, u.Off)
	}
}

// Fate says how much of one unsynced thing is there after the crash: the bytes
// [From, To) of a page are new and the rest old; an entry and a size that
// shrank are there if To > 0; a size that grew, grew by To at most. The zero
// value is: lost.
type Fate struct{ From, To int }

// Landed is the fate of what is there as if it had been synced.
var Landed = Fate{To: everything}

// LoseAll is for CrashClone: everything that was not synced is lost.
func LoseAll(Unsynced) Fate { return Fate{} }

// KeepAll is for CrashClone: everything is there, as when only the process died.
func KeepAll(Unsynced) Fate { return Landed }

// Crash is CrashClone with fates drawn from seed: nothing landed, everything,
// each with the same chance, or some proportion; pages are torn now and then.
func (m *Mem) Crash(seed uint64) *Mem {
	r := rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))
	chance := []float64{0, 1, 0.5, r.Float64()}[r.IntN(4)]
	torn := chance > 0 && r.IntN(2) == 0
	return m.CrashClone(func(u Unsynced) Fate {
		switch {
		case r.Float64() >= chance:
			return Fate{}
		case !torn || u.Kind == UnsyncedEntry || r.IntN(4) != 0:
			return Landed
		case u.Kind == UnsyncedSize:
			return Fate{To: 1 + int(r.Int64N(u.Len))}
		default:
			from := 0
			if r.IntN(2) == 0 {
				from = r.IntN(PageSize)
			}
			return Fate{From: from, To: from + 1 + r.IntN(PageSize-from)}
		}
	})
}

// CrashClone returns the file system that a machine would find after losing
// its power now. fate is asked about everything that was not synced, in an
// order that is the same for the same history; each fate is independent, as a
// disk may write in any order. The two names of a rename land together, unless
// the two directories differ and only one of them was synced. Locks are free
// in the clone, no file is open, and there is no fault hook; the capacity is
// the same. m itself goes on unharmed. fate must not use m.
func (m *Mem) CrashClone(fate func(Unsynced) Fate) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	entries := map[*inode]map[string]*inode{}
	entriesOf := func(d *inode) map[string]*inode {
		if entries[d] == nil {
			entries[d] = map[string]*inode{}
			for name, n := range d.durable {
				entries[d][name] = n
			}
		}
		return entries[d]
	}
	for _, c := range m.pending {
		if fate(Unsynced{Kind: UnsyncedEntry, Name: c.parts[0].path}).To <= 0 {
			continue
		}
		for _, p := range c.parts {
			if p.to == nil {
				delete(entriesOf(p.dir), p.name)
			} else {
				entriesOf(p.dir)[p.name] = p.to
			}
		}
	}
	out := NewMem()
	out.capacity = m.capacity
	clones := map[*inode]*inode{m.root: out.root}
	out.cloneTree(m.root, "/", entriesOf, clones, fate)
	return out
}

// cloneTree fills the clone of directory d. A file with two names, which half
// of a rename leaves behind, is one file in the clone too.
func (m *Mem) cloneTree(d *inode, full string, entriesOf func(*inode) map[string]*inode, clones map[*inode]*inode, fate func(Unsynced) Fate) {
	to := clones[d]
	for _, name := range sortedNames(entriesOf(d)) {
		n := entriesOf(d)[name]
		c := clones[n]
		if c == nil {
			at := path.Join(full, name)
			if n.isDir {
				c = newDir()
				clones[n] = c
				m.cloneTree(n, at, entriesOf, clones, fate)
			} else {
				c = &inode{content: n.content.crashed(at, fate)}
				clones[n] = c
				m.used += c.content.pagesInUse() * PageSize
			}
		}
		c.links++
		to.entries[name], to.durable[name] = c, c
	}
}
