package vfs

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

// DirectBlock is what writes past the page cache must end at a multiple of, in
// bytes: blocks of disks, and pages of memory, are not larger.
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

type directWriter interface{ writeDirectly() }

// direct is a file that is written past the page cache.
type direct struct {
	plain // the same file, through the page cache
	file  *os.File

	mu   sync.Mutex
	off  bool  // the system has refused
	last int64 // where the block in tail begins; -1: nothing is known
	tail [DirectBlock]byte
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
		if err == nil && wrote == 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			return n, err // the kernel may read from b still
		}
		start += int64(wrote)
	}
	giveBlocks(b)
	return n, nil
}

// put writes whole blocks. Many of them are durable then: to wait for the disk twice,
// for the write and for the sync, would be as long, and neither is waited for in a
// system call that keeps a processor of the Go runtime.
func (d *direct) put(p []byte, off int64) (int, error) {
	if len(p) >= besideBytes {
		if done, n, err := writeBeside(d.file, p, off); done {
			return n, err
		}
	}
	n, err := d.file.WriteAt(p, off)
	d.written.Add(int64(n))
	return n, err
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
