package wal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
)

// The format's version. A newer major version is refused; a newer minor one
// only adds what an older binary may ignore.
const (
	formatMajor = 1
	formatMinor = 0
)

const (
	headMagic   = "CCWALSEG"
	formatMagic = "CCWALFMT"
	batchMagic  = 0x1ca7ba7c

	headFixed         = 64 // bytes before the table
	formatFileSize    = 28
	batchHeaderSize   = 40
	frameHeaderSize   = 32
	batchAlign        = 8
	maxFramePayload   = 1 << 30
	maxSegmentSize    = 3 << 30 // offsets are 32 bits
	flagSealBatch     = 1
	formatName        = "FORMAT"
	lockName          = "LOCK"
	segmentSuffix     = ".seg"
	temporarySuffix   = ".tmp"
	coldDirectoryName = "cold"
)

// Frame types.
const (
	frameUpdate  = 1 // one group's Update
	frameState   = 2 // all that is known of one group, and entries that moved
	frameCeiling = 3 // group numbers below it may have been given out
	frameTable   = 4 // group → frame counter, as in a segment's head
)

// Flags of update and state frames.
const (
	flagHardState = 1 << iota
	flagMeta
	flagCompact
	flagRestart // with flagCompact: nothing of the old log is kept
	flagRemove
	flagEntries
	flagSuspect
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var le = binary.LittleEndian

func align(n int) int { return (n + batchAlign - 1) &^ (batchAlign - 1) }

func segmentName(number uint64) string { return fmt.Sprintf("%016x%s", number, segmentSuffix) }

func parseSegmentName(name string) (uint64, bool) {
	hex, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(hex) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(hex, 16, 64)
	return n, err == nil && n > 0
}

// segmentSeed starts every checksum in a segment, so that bytes of another
// log or another segment never verify. The log's identity is random: nobody
// can put a batch header into an entry's data that a scan would take for one.
func segmentSeed(identity, number uint64) uint32 {
	var b [16]byte
	le.PutUint64(b[:], identity)
	le.PutUint64(b[8:], number)
	return checksum(b[:])
}

// encodeFormatFile makes the content of the FORMAT file.
func encodeFormatFile(identity uint64) []byte {
	b := make([]byte, 0, formatFileSize)
	b = append(b, formatMagic...)
	b = le.AppendUint32(b, formatMajor)
	b = le.AppendUint32(b, formatMinor)
	b = le.AppendUint64(b, identity)
	return le.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeFormatFile returns the log's identity; ok is false if the file is damaged.
func decodeFormatFile(b []byte) (identity uint64, ok bool, err error) {
	if len(b) < formatFileSize || string(b[:8]) != formatMagic {
		return 0, false, nil
	}
	// The checksum is the last thing in the file in every version, so that a
	// flipped bit in the version is damage and not "newer".
	n := len(b) - 4
	if crc32.Checksum(b[:n], castagnoli) != le.Uint32(b[n:]) {
		return 0, false, nil
	}
	if major := le.Uint32(b[8:]); major > formatMajor {
		return 0, true, fmt.Errorf("%w: %s says version %d, this binary knows %d", ErrNewerFormat, formatName, major, formatMajor)
	}
	return le.Uint64(b[16:]), true, nil
}

// tableEntry says how many frames of a group had been written.
type tableEntry struct {
	group   uint64
	counter uint64
	suspect bool
}

func appendTable(b []byte, table []tableEntry) []byte {
	last := uint64(0)
	for _, t := range table {
		b = binary.AppendUvarint(b, t.group-last)
		c := t.counter << 1
		if t.suspect {
			c |= 1
		}
		b = binary.AppendUvarint(b, c)
		last = t.group
	}
	return b
}

func decodeTable(b []byte, n int) ([]tableEntry, bool) {
	if n > len(b) {
		return nil, false
	}
	d := decoder{b: b}
	table := make([]tableEntry, n)
	last := uint64(0)
	for i := range table {
		last += d.uvarint()
		c := d.uvarint()
		table[i] = tableEntry{group: last, counter: c >> 1, suspect: c&1 != 0}
	}
	return table, !d.bad
}

// segmentHead is the first thing in a segment. It closes the segment before:
// what that one holds below prevEnd was durable when this head was written.
type segmentHead struct {
	identity  uint64
	number    uint64
	prevEnd   uint64 // where the batches of segment number-1 end
	prevSeq   uint64 // the number of the last batch before this segment
	ceiling   uint64 // see frameCeiling
	prevChain uint32
	table     []tableEntry

	size  int    // of the encoded head, set by decode
	chain uint32 // the head's checksum, set by decode
}

// encode appends the head: magic 8, major 2, minor 2, length 4, identity 8,
// number 8, prevEnd 8, prevSeq 8, ceiling 8, prevChain 4, table count 4,
// table, checksum 4.
func (h *segmentHead) encode() []byte {
	b := make([]byte, 0, headFixed+len(h.table)*6+4)
	b = append(b, headMagic...)
	b = le.AppendUint16(b, formatMajor)
	b = le.AppendUint16(b, formatMinor)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint64(b, h.identity)
	b = le.AppendUint64(b, h.number)
	b = le.AppendUint64(b, h.prevEnd)
	b = le.AppendUint64(b, h.prevSeq)
	b = le.AppendUint64(b, h.ceiling)
	b = le.AppendUint32(b, h.prevChain)
	b = le.AppendUint32(b, uint32(len(h.table)))
	b = appendTable(b, h.table)
	h.size = len(b) + 4
	le.PutUint32(b[12:], uint32(h.size))
	h.chain = checksum(b)
	return le.AppendUint32(b, h.chain)
}

// decodeHead reads a head; ok is false if it is damaged.
func decodeHead(b []byte, name string) (h segmentHead, ok bool, err error) {
	if len(b) < headFixed+4 || string(b[:8]) != headMagic {
		return h, false, nil
	}
	size := int(le.Uint32(b[12:]))
	if size < headFixed+4 || size > len(b) {
		return h, false, nil
	}
	sum := le.Uint32(b[size-4:])
	if crc32.Checksum(b[:size-4], castagnoli) != sum {
		return h, false, nil
	}
	if major := le.Uint16(b[8:]); major > formatMajor {
		return h, true, fmt.Errorf("%w: %s says version %d, this binary knows %d", ErrNewerFormat, name, major, formatMajor)
	}
	h = segmentHead{
		identity: le.Uint64(b[16:]), number: le.Uint64(b[24:]), prevEnd: le.Uint64(b[32:]),
		prevSeq: le.Uint64(b[40:]), ceiling: le.Uint64(b[48:]), prevChain: le.Uint32(b[56:]),
		size: size, chain: sum,
	}
	h.table, ok = decodeTable(b[headFixed:size-4], int(le.Uint32(b[60:])))
	return h, ok, nil
}

// batchHeader stands before the frames of one write. It verifies by itself,
// without the chain, so that recovery finds the next one behind damage.
type batchHeader struct {
	crc    uint32
	seq    uint64 // 1, 2, 3, … over all segments
	mark   uint64 // the segment was durable up to here when the batch was written
	length uint32 // of the frames
	prev   uint32 // the chain before the batch
	frames uint32
	flags  uint32
}

func (h *batchHeader) put(b []byte, seed uint32, off int64) {
	le.PutUint32(b[0:], batchMagic)
	le.PutUint64(b[8:], h.seq)
	le.PutUint64(b[16:], h.mark)
	le.PutUint32(b[24:], h.length)
	le.PutUint32(b[28:], h.prev)
	le.PutUint32(b[32:], h.frames)
	le.PutUint32(b[36:], h.flags)
	h.crc = batchHeaderCRC(b, seed, off)
	le.PutUint32(b[4:], h.crc)
}

func batchHeaderCRC(b []byte, seed uint32, off int64) uint32 {
	return crc32.Update(seed^uint32(off), castagnoli, b[8:batchHeaderSize])
}

// parseBatchHeader reads the header at off of a segment's bytes.
func parseBatchHeader(seg []byte, off int64, seed uint32) (h batchHeader, ok bool) {
	if off < 0 || off+batchHeaderSize > int64(len(seg)) {
		return h, false
	}
	b := seg[off : off+batchHeaderSize]
	if le.Uint32(b) != batchMagic {
		return h, false
	}
	h.crc = le.Uint32(b[4:])
	if batchHeaderCRC(b, seed, off) != h.crc {
		return h, false
	}
	h.seq, h.mark = le.Uint64(b[8:]), le.Uint64(b[16:])
	h.length, h.prev = le.Uint32(b[24:]), le.Uint32(b[28:])
	h.frames, h.flags = le.Uint32(b[32:]), le.Uint32(b[36:])
	return h, true
}

// frameHeader has a checksum of its own, so that damage in a frame's payload
// still tells whose frame it was and where the next one starts.
type frameHeader struct {
	crc     uint32 // of the frame before, this header and the payload
	length  uint32 // of the payload
	typ     uint8
	flags   uint16
	group   uint64
	counter uint64 // 1, 2, 3, … per group
}

// sealFrame fills in the checksums of a frame that is complete otherwise, and
// returns the chain behind it.
func sealFrame(frame []byte, seed, prev uint32) uint32 {
	chain := frameCRC(frame, prev)
	le.PutUint32(frame[4:], chain)
	le.PutUint32(frame, crc32.Update(seed, castagnoli, frame[4:frameHeaderSize]))
	return chain
}

// frameCRC continues the chain over all of the frame behind the checksums.
func frameCRC(frame []byte, prev uint32) uint32 {
	return crc32.Update(prev, castagnoli, frame[8:])
}

// parseFrameHeader reads the header at the start of b; ok is false if it is
// damaged or the payload does not fit into b.
func parseFrameHeader(b []byte, seed uint32) (h frameHeader, ok bool) {
	if len(b) < frameHeaderSize || crc32.Update(seed, castagnoli, b[4:frameHeaderSize]) != le.Uint32(b) {
		return h, false
	}
	h = frameHeader{
		crc: le.Uint32(b[4:]), length: le.Uint32(b[8:]), typ: b[12], flags: le.Uint16(b[14:]),
		group: le.Uint64(b[16:]), counter: le.Uint64(b[24:]),
	}
	return h, int64(h.length) <= int64(len(b)-frameHeaderSize)
}

// decoder reads varints and slices, and remembers that it ran out of bytes.
type decoder struct {
	b   []byte
	off int
	bad bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b[d.off:])
	if n <= 0 {
		d.bad, d.off = true, len(d.b)
		return 0
	}
	d.off += n
	return v
}

func (d *decoder) uint32() uint32 {
	if b := d.bytes(4); b != nil {
		return le.Uint32(b)
	}
	return 0
}

// bytes returns the next n bytes, shared with the input.
func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.b)-d.off) {
		d.bad, d.off = true, len(d.b)
		return nil
	}
	b := d.b[d.off : d.off+int(n) : d.off+int(n)]
	d.off += int(n)
	return b
}

// count reads a number of things of which each takes at least one byte.
func (d *decoder) count() int {
	n := d.uvarint()
	if n > uint64(len(d.b)-d.off) {
		d.bad = true
		return 0
	}
	return int(n)
}

func sortTable(t []tableEntry) {
	slices.SortFunc(t, func(a, b tableEntry) int {
		switch {
		case a.group < b.group:
			return -1
		case a.group > b.group:
			return 1
		}
		return 0
	})
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }
