package vfs

import (
	"io"
	"sync"
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
	// aheadPiece is how much of them one call writes. Linux keeps that as one
	// piece in the page cache, and counts the whole piece as written by the process
	// for each later write into it, though the disk gets only what changed: large
	// pieces are cheap to write, and spoil the count.
	aheadPiece = 16 << 10
)

var aheadZeros [aheadPiece]byte

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
// written of p, and of zeros.
func (a *ahead) write(to io.WriterAt, p []byte, off int64) (n, zeros int, err error) {
	a.mu.Lock()
	if a.limit == 0 {
		a.mu.Unlock()
		n, err = to.WriteAt(p, off)
		return n, 0, err
	}
	defer a.mu.Unlock()
	n, err = to.WriteAt(p, off)
	a.used = max(a.used, off+int64(n))
	switch {
	case err != nil || a.used <= a.zeros:
		return n, 0, err
	case len(p) >= aheadBelow:
		a.step = aheadFirst
		return n, 0, nil
	}
	take := min(a.step, a.limit-a.used)
	zeros, a.limit = a.writeZeros(to, take)
	a.zeros, a.step = a.used+int64(zeros), min(2*a.step, aheadMost)
	return n, zeros, nil
}

// writeZeros writes about n zeros behind what is used, and ends at the end of a
// piece. If it fails nothing is written ahead any more, and nobody is told: what
// was to be written is, and if the disk is at fault the sync says so.
func (a *ahead) writeZeros(to io.WriterAt, n int64) (zeros int, limit int64) {
	for at, end := a.used, a.used+n; at < end; {
		piece := min(aheadPiece-at%aheadPiece, a.limit-at)
		if _, err := to.WriteAt(aheadZeros[:piece], at); err != nil {
			return zeros, 0
		}
		at += piece
		zeros += int(piece)
	}
	return zeros, a.limit
}
