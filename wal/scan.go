package wal

import (
	"fmt"
	"io"
)

// batches reads the batches from off on and returns where they end.
func (r *recovery) batches(sc *scan, off int64) int64 {
	for off < int64(len(sc.data)) {
		h, ok := parseBatchHeader(sc.data, off, sc.seg.seed)
		if !ok {
			next := r.findBatch(sc, off+batchAlign, off)
			if next < 0 {
				break
			}
			r.report(&DamageError{File: sc.seg.name, Offset: off, Reason: "batch header is damaged"})
			r.chained = false
			off = next // the gap in the batch numbers tells that frames are lost
			continue
		}
		size := int64(align(batchHeaderSize + int(h.length)))
		frames, whole := readBatch(sc.data, off, &h, sc.seg.seed)
		if !whole && sc.last && r.findBatch(sc, off+batchAlign, off) < 0 && !sc.bad {
			r.l.logger.Warn("wal: torn batch dropped", "file", sc.seg.name, "offset", off, "batch", h.seq)
			return off
		}
		r.batch(sc, off, &h, frames, whole)
		if sc.last && whole {
			r.tail = tailBatch{sc.seg, off, size}
		}
		off += size
	}
	if sc.last && sc.bad {
		r.lose(&DamageError{File: sc.seg.name, Offset: off, Reason: "pages cannot be read"})
	}
	return min(off, int64(len(sc.data)))
}

// findBatch returns the offset of the next readable batch header at or behind
// from that says the segment was durable beyond mark, or -1.
func (r *recovery) findBatch(sc *scan, from, mark int64) int64 {
	for off := from; off+batchHeaderSize <= int64(len(sc.data)); off += batchAlign {
		if le.Uint32(sc.data[off:]) != batchMagic {
			continue
		}
		h, ok := parseBatchHeader(sc.data, off, sc.seg.seed)
		if ok && int64(h.mark) > mark && h.seq > r.seq {
			return off
		}
	}
	return -1
}

// frameAt is one frame of a batch.
type frameAt struct {
	frameHeader
	off int64 // of the payload
	ok  bool  // the payload verifies
}

// readBatch returns the frames of a batch as far as their headers are
// readable; whole is true if nothing is damaged.
func readBatch(data []byte, off int64, h *batchHeader, seed uint32) (frames []frameAt, whole bool) {
	pos, end := off+batchHeaderSize, off+batchHeaderSize+int64(h.length)
	if end > int64(len(data)) {
		return nil, false
	}
	chain := h.crc
	whole = true
	for range h.frames {
		fh, ok := parseFrameHeader(data[pos:end], seed)
		if !ok {
			return frames, false
		}
		next := pos + frameHeaderSize + int64(fh.length)
		f := frameAt{frameHeader: fh, off: pos + frameHeaderSize}
		f.ok = frameCRC(data[pos:next], chain) == fh.crc
		whole = whole && f.ok
		frames = append(frames, f)
		chain, pos = fh.crc, next
	}
	return frames, whole && pos == end
}

// batch takes in one batch, below the durable mark or whole.
func (r *recovery) batch(sc *scan, off int64, h *batchHeader, frames []frameAt, whole bool) {
	name := sc.seg.name
	switch {
	case h.seq != r.seq+1:
		r.lose(&DamageError{File: name, Offset: off, Reason: fmt.Sprintf("batch %d follows batch %d", h.seq, r.seq)})
	case r.chained && h.prev != r.chain:
		r.lose(&DamageError{File: name, Offset: off, Reason: "batch does not continue the chain"})
	}
	r.seq = max(r.seq, h.seq)
	r.chain, r.chained = h.crc, true
	for i := range frames {
		r.frame(sc, &frames[i])
		r.chain = frames[i].crc
	}
	if n := int(h.frames) - len(frames); n > 0 {
		at := off + batchHeaderSize
		if len(frames) > 0 {
			f := &frames[len(frames)-1]
			at = f.off + int64(f.length)
		}
		r.lose(&DamageError{File: name, Offset: at, Reason: fmt.Sprintf("frame header is damaged, %d frames are lost", n)})
	} else if !whole && len(frames) == int(h.frames) && allOK(frames) {
		r.report(&DamageError{File: name, Offset: off, Reason: "batch has another length than its frames"})
	}
}

func allOK(frames []frameAt) bool {
	for i := range frames {
		if !frames[i].ok {
			return false
		}
	}
	return true
}

// frame takes in one frame whose header is good.
func (r *recovery) frame(sc *scan, f *frameAt) {
	l := r.l
	name := sc.seg.name
	payload := sc.data[f.off : f.off+int64(f.length)]
	if !f.ok {
		r.report(&DamageError{Group: f.group, File: name, Offset: f.off, Reason: "frame does not match its checksum"})
	}
	if f.typ == frameCeiling || f.typ == frameTable {
		d := decoder{b: payload}
		switch {
		case !f.ok:
			r.unsure = r.unsure || f.typ == frameCeiling
		case f.typ == frameCeiling:
			if b := d.bytes(8); b != nil {
				r.ceiling = le.Uint64(b)
			}
		default:
			n := int(d.uint32())
			if t, ok := decodeTable(payload[d.off:], n); ok && !d.bad {
				r.table(t, name, f.off)
			}
		}
		return
	}
	g := r.groupOf(sc, f)
	if !f.ok {
		r.suspect(g, "a frame is damaged", name, f.off)
		return
	}
	c := change{typ: f.typ, flags: f.flags, group: f.group, counter: f.counter}
	at := position{seg: uint32(sc.seg.number), base: f.off}
	d := decoder{b: payload}
	switch {
	case f.typ == frameUpdate && decodeUpdate(&d, &c, at):
	case f.typ == frameState && decodeState(&d, &c, at):
	default:
		r.report(&DamageError{Group: f.group, File: name, Offset: f.off, Reason: "frame cannot be understood"})
		r.suspect(g, "a frame cannot be understood", name, f.off)
		return
	}
	if g.suspect != nil {
		r.applySuspect(g, &c, sc.seg)
		return
	}
	if err := l.applyLocked(g, &c, sc.seg); err != nil {
		r.suspect(g, err.Error(), name, f.off)
	}
}

// groupOf finds the group of a frame and checks that no frame of it is
// missing in between.
func (r *recovery) groupOf(sc *scan, f *frameAt) *group {
	g := r.l.groups[f.group]
	if g == nil {
		g = newGroup(f.group)
		g.partial = true
		r.l.groups[f.group] = g
		// Older frames may be in segments that were freed, but then the head
		// of the oldest one left lists the group.
		if !r.listed || f.counter == 1 {
			g.counter = f.counter - 1
		}
	}
	if f.counter != g.counter+1 {
		r.suspect(g, fmt.Sprintf("frame %d follows frame %d", f.counter, g.counter), sc.seg.name, f.off)
	}
	g.counter = f.counter
	g.epoch = r.epoch
	return g
}

// applySuspect keeps the identity of a suspect up to date, for the report.
func (r *recovery) applySuspect(g *group, c *change, seg *segment) {
	if c.flags&flagRemove != 0 {
		r.l.forgetLocked(g)
		return
	}
	if c.flags&flagMeta != 0 {
		g.meta = append([]byte{}, c.meta...)
	}
	if c.flags&flagHardState != 0 {
		g.hs = c.hs
	}
	if c.typ == frameState {
		r.l.rebaseLocked(g, seg)
		g.mark, g.chunks = c.mark, c.chunks
		if c.flags&flagSuspect != 0 {
			g.suspect.Why = c.reason
		}
	}
}

const readPage = 4 << 10

// read reads the first limit bytes of a segment. Pages that the disk refuses
// stay zero and are reported; what was in them shows as damage.
func (r *recovery) read(sc *scan, limit int64) error {
	if int64(cap(r.buf)) < limit {
		r.buf = make([]byte, limit)
	}
	sc.data = r.buf[:limit]
	if n, err := sc.seg.file.ReadAt(sc.data, 0); err == nil || (err == io.EOF && int64(n) == limit) {
		return nil
	}
	clear(sc.data)
	for off := int64(0); off < limit; off += readPage {
		page := sc.data[off:min(off+readPage, limit)]
		if n, err := sc.seg.file.ReadAt(page, off); err != nil && n < len(page) {
			clear(page)
			sc.bad = true
			r.report(&DamageError{File: sc.seg.name, Offset: off, Reason: "page cannot be read", Err: err})
		}
	}
	return nil
}
