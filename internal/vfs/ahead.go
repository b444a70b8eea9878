package vfs

import (
	"io"
	"os"
	"sync"
	"sync/atomic"
)

const (
	// aheadBelow is how small a write must be for zeros to be written after it.
	// What fallocate reserves is marked as not written, and the sync after the
	// first write to it has to commit the file system's journal, too: with ext4
	// and 4 KiB that took 350 µs instead of 200, and it takes as long as the
	// commit waits for the data of other new files, such as snapshots. To write
	// the same blocks twice is cheaper for small writes, and dearer for large ones.
	aheadBelow = 64 << 10
	// After a large write zeros are written in steps that double, from aheadFirst
	// to aheadMost, so that a file with writes of both kinds grows little more
	// than it is used.
	aheadFirst = 64 << 10
	aheadMost  = 1 << 20
	// aheadPiece is what the zeros end at a multiple of.
	aheadPiece = 16 << 10
)

// target is what a file is written to.
type target interface {
	io.WriterAt
	// writeZeros writes zeros from off to end, and returns how many bytes of them.
	writeZeros(off, end int64) (int, error)
}

var manyZeros [256 << 10]byte

// writePieces writes zeros in pieces that end at multiples of size.
func writePieces(to io.WriterAt, off, end, size int64) (zeros int, err error) {
	for at := off; at < end; {
		n, err := to.WriteAt(manyZeros[:min(size-at%size, end-at)], at)
		zeros += n
		if err != nil {
			return zeros, err
		}
		at += int64(n)
	}
	return zeros, nil
}

// plain is a file that is written through the page cache.
type plain struct {
	file    *os.File
	written *atomic.Int64 // that of the osFile
}

// WriteAt implements io.WriterAt.
func (p plain) WriteAt(b []byte, off int64) (int, error) {
	n, err := p.file.WriteAt(b, off)
	p.written.Add(int64(n))
	return n, err
}

// writeZeros implements target. Linux keeps what one call writes as one
// piece in the page cache, and counts the whole piece as written by the process
// for each later write into it, though the disk gets only what changed: large
// pieces are cheap to write, and spoil the count.
func (p plain) writeZeros(off, end int64) (int, error) { return writePieces(p, off, end, aheadPiece) }

// ahead keeps a file that was preallocated, and that is written from its
// beginning to its end, written a little further than it is used. What it writes
// is what is there already: zeros, as far as anybody can tell.
type ahead struct {
	// mu is held over writes: a write must not land between the look at where
	// the file ends and the zeros behind that.
	mu    sync.Mutex
	limit int64 // the preallocated size; 0: nothing is written ahead
	used  int64 // end of what was written: nobody has written behind it
	zeros int64 // end of the zeros behind it
	step  int64
}

// begin is called for an empty file of which size bytes were reserved.
func (a *ahead) begin(size int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.limit, a.used, a.zeros, a.step = size, 0, 0, aheadFirst
}

// write writes p at off, and perhaps zeros behind it. It returns what was
// written of p.
func (a *ahead) write(to target, p []byte, off int64) (n int, err error) {
	a.mu.Lock()
	if a.limit == 0 {
		a.mu.Unlock()
		return to.WriteAt(p, off)
	}
	defer a.mu.Unlock()
	n, err = to.WriteAt(p, off)
	a.used = max(a.used, off+int64(n))
	switch {
	case err != nil || a.used <= a.zeros:
		return n, err
	case len(p) >= aheadBelow:
		a.step = aheadFirst
		return n, nil
	}
	end := a.used + a.step
	end = min(end+(aheadPiece-end%aheadPiece)%aheadPiece, a.limit)
	zeros, failed := to.writeZeros(a.used, end)
	a.zeros, a.step = a.used+int64(zeros), min(2*a.step, aheadMost)
	if failed != nil {
		// Nothing is written ahead any more, and this call tells nobody: what was to
		// be written is, and if the disk is at fault the sync says so.
		a.limit = 0
	}
	return n, nil
}
