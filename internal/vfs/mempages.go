package vfs

import (
	"maps"
	"math"
	"slices"
)

// PageSize is the unit in which Mem loses unsynced data, and in which a disk
// of limited capacity fills.
const PageSize = 4096

// page is never written once it is in the durable map of a content: a write
// copies it first. So pages are shared freely between live, durable and clones.
type page [PageSize]byte

// memContent is the bytes of a file: as programs see them (live) and as the
// disk holds them (durable). A page that is missing is all zeros.
type memContent struct {
	live    map[int64]*page
	durable map[int64]*page
	// dirty holds the pages that were written since the last sync. The value
	// is true for those that a failed sync has dropped: no later sync makes
	// them durable.
	dirty       map[int64]bool
	size        int64
	durableSize int64
	reserved    int64 // pages reserved by Preallocate
}

func newContent() memContent {
	return memContent{live: map[int64]*page{}, durable: map[int64]*page{}, dirty: map[int64]bool{}}
}

func pagesFor(n int64) int64 { return (n + PageSize - 1) / PageSize }

// pagesInUse counts what the file takes of the disk.
func (c *memContent) pagesInUse() int64 {
	n := c.reserved
	for i := range c.live {
		if i >= c.reserved {
			n++
		}
	}
	return n
}

// grows reports whether writing page i takes a new page of the disk.
func (c *memContent) grows(i int64) bool { return i >= c.reserved && c.live[i] == nil }

// writablePage returns the live page i, not shared with the durable one.
func (c *memContent) writablePage(i int64) *page {
	p := c.live[i]
	switch {
	case p == nil:
		p = new(page)
	case p == c.durable[i]:
		p = clonePage(p)
	}
	c.live[i] = p
	c.dirty[i] = false
	return p
}

func clonePage(p *page) *page {
	q := *p
	return &q
}

// readAt fills p from off and returns how much of it the file holds.
func (c *memContent) readAt(p []byte, off int64) int {
	if off >= c.size {
		return 0
	}
	p = p[:min(int64(len(p)), c.size-off)]
	for done := 0; done < len(p); {
		at := off + int64(done)
		in := at % PageSize
		dst := p[done:min(len(p), done+int(PageSize-in))]
		if src := c.live[at/PageSize]; src != nil {
			copy(dst, src[in:])
		} else {
			clear(dst)
		}
		done += len(dst)
	}
	return len(p)
}

// truncate sets the size and returns how many pages of the disk that freed.
func (c *memContent) truncate(n int64) (freed int64) {
	before := c.pagesInUse()
	if n < c.size {
		if in := n % PageSize; in != 0 && c.live[n/PageSize] != nil {
			clear(c.writablePage(n / PageSize)[in:])
		}
		for i := range c.live {
			if i >= pagesFor(n) {
				delete(c.live, i)
				c.dirty[i] = false
			}
		}
		c.reserved = min(c.reserved, pagesFor(n))
	}
	c.size = n
	return before - c.pagesInUse()
}

// sync makes the content durable, but for what an earlier failed sync dropped.
func (c *memContent) sync() {
	for i, dropped := range c.dirty {
		if dropped {
			continue
		}
		if p := c.live[i]; p != nil {
			c.durable[i] = p
		} else {
			delete(c.durable, i)
		}
		delete(c.dirty, i)
	}
	c.durableSize = c.size
}

// failSync notes that what was to be written may never be.
func (c *memContent) failSync() {
	for i := range c.dirty {
		c.dirty[i] = true
	}
}

// crashed returns the content after a crash, as fate decides.
func (c *memContent) crashed(name string, fate func(Unsynced) Fate) memContent {
	out := newContent()
	maps.Copy(out.durable, c.durable)
	out.size = c.durableSize
	if c.size != c.durableSize {
		grown := c.size - c.durableSize
		f := fate(Unsynced{Kind: UnsyncedSize, Name: name, Off: c.durableSize, Len: max(grown, -grown)})
		switch {
		case f.To <= 0:
		case grown > 0:
			out.size = c.durableSize + min(grown, int64(f.To))
		default:
			out.size = c.size
		}
	}
	for _, i := range slices.Sorted(maps.Keys(c.dirty)) {
		if i >= pagesFor(c.size) {
			continue // cut off: it is there or not as the size is
		}
		f := fate(Unsynced{Kind: UnsyncedPage, Name: name, Off: i * PageSize, Len: PageSize})
		if p := mixPages(c.durable[i], c.live[i], f); p != nil {
			out.durable[i] = p
		} else {
			delete(out.durable, i)
		}
	}
	last := pagesFor(out.size)
	for i := range out.durable {
		if i >= last {
			delete(out.durable, i)
		}
	}
	if in := out.size % PageSize; in != 0 && out.durable[last-1] != nil {
		p := clonePage(out.durable[last-1])
		clear(p[in:])
		out.durable[last-1] = p
	}
	maps.Copy(out.live, out.durable)
	out.durableSize = out.size
	out.reserved = min(c.reserved, last)
	return out
}

// mixPages returns the old page with the bytes [From, To) of the new one.
// The result is never written by anyone else.
func mixPages(old, newer *page, f Fate) *page {
	from, to := max(f.From, 0), min(f.To, PageSize)
	if from >= to {
		return old
	}
	if old == nil && newer == nil {
		return nil
	}
	mixed := new(page)
	if old != nil {
		*mixed = *old
	}
	if newer != nil {
		copy(mixed[from:to], newer[from:to])
	} else {
		clear(mixed[from:to])
	}
	return mixed
}

// everything is a To beyond any length.
const everything = math.MaxInt
