package vfs

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// DirectBlock is what writes past the page cache must end at a multiple of, in
// bytes: the blocks of most disks, and pages of memory on most systems. What takes
// larger ones only refuses, and is written through the page cache.
const DirectBlock = 4 << 10

// WriteDirectly has what is written to f from now on go to the disk past the
// system's page cache, if f is a file of a system, and of a file system, that gains
// by it. A write must begin where the one before it ended, or in the last block of
// that one, and end at a multiple of DirectBlock; others are made as before. Nothing
// else changes: reads see what was written, and a sync makes it durable.
//
// It is meant for a log. A small write and its sync take a quarter less time that way
// (400 bytes, three files side by side on one disk, ext4: 250 µs with the page
// cache and 180 without), and less processor time, since the kernel need not look for
// what a sync has to write. What was written is read from the disk, not from memory.
//
// f is not written meanwhile by somebody else. f's name is still the one under which
// it was opened.
func WriteDirectly(f File) {
	if d, ok := f.(directWriter); ok {
		d.writeDirectly()
	}
}

// EndDirectWrites has f written through the page cache again, which takes a
// descriptor less. Nobody writes or syncs f, or closes it, meanwhile.
func EndDirectWrites(f File) error {
	if d, ok := f.(directWriter); ok {
		return d.endDirectWrites()
	}
	return nil
}

type directWriter interface {
	writeDirectly()
	endDirectWrites() error
}

// direct is a file that is written past the page cache.
type direct struct {
	plain // the same file, through the page cache
	file  *os.File

	mu   sync.Mutex
	off  bool  // the system has refused
	last int64 // where the block in tail begins; -1: nothing is known
	tail [DirectBlock]byte

	// zerosFailed is why zeros were not written ahead. The system tells of it only
	// once, and nobody hears that, so each sync says it.
	zerosFailed atomic.Pointer[error]
}

var _ target = (*direct)(nil)

// directMost is how much one write hands to the disk.
const directMost = 4 << 20

// WriteAt implements io.WriterAt.
func (d *direct) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	start := off &^ (DirectBlock - 1)
	head := int(off - start)
	end := off + int64(len(p))
	if d.off || len(p) == 0 || end%DirectBlock != 0 || head > 0 && start != d.last {
		d.last = -1
		return d.plain.WriteAt(p, off)
	}
	n, err := d.write(p, start, head)
	if refused(err) {
		d.off = true
		return d.plain.WriteAt(p, off)
	}
	if err != nil {
		d.last = -1
		return n, err
	}
	d.last = end - DirectBlock
	if from := d.last - off; from >= 0 {
		copy(d.tail[:], p[from:])
	} else {
		copy(d.tail[-from:], p)
	}
	return n, nil
}

// write writes the first head bytes of the tail and p, from start on, and returns how
// much of p was written.
func (d *direct) write(p []byte, start int64, head int) (n int, err error) {
	b := takeBlocks(min(head+len(p), directMost))
	for filled := copy(*b, d.tail[:head]); n < len(p); filled = 0 {
		take := copy((*b)[filled:min(filled+len(p)-n, directMost)], p[n:])
		wrote, err := d.put((*b)[:filled+take], start)
		n += max(wrote-filled, 0)
		if err != nil {
			return n, err // the kernel may read from b still
		}
		start += int64(wrote)
	}
	giveBlocks(b)
	return n, nil
}

// put writes whole blocks: all of p, or there is an error. Many of them are durable then:
// the disk is waited for once, and not for the write and for the sync, and not in a system
// call that keeps a processor of the Go runtime.
func (d *direct) put(p []byte, off int64) (n int, err error) {
	for len(p)-n >= besideBytes {
		done, wrote, err := writeBeside(d.file, p[n:], off+int64(n))
		if !done {
			break
		}
		n += wrote
		if err == nil && wrote == 0 {
			err = io.ErrShortWrite
		}
		if err != nil || n == len(p) {
			return n, err
		}
	}
	wrote, err := d.file.WriteAt(p[n:], off+int64(n))
	d.written.Add(int64(wrote))
	return n + wrote, err
}

// writeZeros implements target. The tail stays what it is: the next write may begin there.
func (d *direct) writeZeros(off, end int64) (int, error) {
	if off%DirectBlock == 0 && end%DirectBlock == 0 {
		d.mu.Lock()
		defer d.mu.Unlock()
		if !d.off {
			n, err := writePieces(blocks{d.file}, off, end, int64(len(manyZeros)))
			d.written.Add(int64(n))
			if !refused(err) {
				if err != nil && !isNoSpace(err) {
					d.zerosFailed.Store(&err)
				}
				return n, err
			}
			d.off = true
		}
	}
	return d.plain.writeZeros(off, end)
}

// blocks is a file that takes whole blocks of aligned memory only.
type blocks struct{ file *os.File }

func (f blocks) WriteAt(p []byte, off int64) (int, error) {
	b := takeBlocks(len(p))
	defer giveBlocks(b)
	copy(*b, p)
	return f.file.WriteAt((*b)[:len(p)], off)
}

// refused reports whether the system does not write like this to such a file.
func refused(err error) bool {
	return errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported)
}

// blockBuffers are for all files, since few are written at a time.
var blockBuffers sync.Pool

// takeBlocks returns at least n bytes of memory that begin at a multiple of DirectBlock.
func takeBlocks(n int) *[]byte {
	if b, ok := blockBuffers.Get().(*[]byte); ok && len(*b) >= n {
		return b
	}
	size := 64 << 10
	for size < n {
		size *= 2
	}
	raw := make([]byte, size+DirectBlock)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(raw))) % DirectBlock)
	b := raw[skip : skip+size]
	return &b
}

func giveBlocks(b *[]byte) { blockBuffers.Put(b) }
