package wal

import (
	"encoding/binary"

	"go.etcd.io/raft/v3/raftpb"
)

// hardState is raft's, by value. set is false as long as the group has none.
type hardState struct {
	set                bool
	term, vote, commit uint64
}

// place says where the record of one entry is, and its term.
type place struct {
	term uint64
	seg  uint32 // number of the segment; 0: a hole, during recovery only
	off  uint32
	size uint32
}

// chunk is one line of a group's manifest: the cold store must hold the
// records First..Last, whose own checksums chain to Sum.
type chunk struct {
	first, last uint64
	sum         uint32
	bytes       uint64
	terms       []termRun
}

// termRun says that entries from first on have this term, up to the next run.
type termRun struct{ first, term uint64 }

// carriedRun is a run of entries that a state frame moves to a new place.
type carriedRun struct {
	first  uint64
	places []place
}

// change is what one frame does to one group: made by encoding when a frame
// is written, by decoding when it is read back, and applied by the same code.
type change struct {
	typ     uint8
	flags   uint16
	group   uint64
	counter uint64

	mark Mark
	hs   hardState
	meta []byte

	// Update frames: the entries.
	first  uint64
	places []place

	// State frames.
	last    uint64
	chunks  []chunk
	carried []carriedRun
	reason  string

	// Live only: the entries for the cache, owned by the submitter.
	entries []*raftpb.Entry
}

// position tells where in which segment a buffer will be written.
type position struct {
	seg  uint32
	base int64 // offset in the segment of the buffer's first byte
}

func appendHardState(b []byte, hs hardState) []byte {
	b = binary.AppendUvarint(b, hs.term)
	b = binary.AppendUvarint(b, hs.vote)
	return binary.AppendUvarint(b, hs.commit)
}

func (d *decoder) hardState() hardState {
	return hardState{set: true, term: d.uvarint(), vote: d.uvarint(), commit: d.uvarint()}
}

func appendMark(b []byte, m Mark) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, m.Index), m.Term)
}

func (d *decoder) mark() Mark { return Mark{Index: d.uvarint(), Term: d.uvarint()} }

func appendBytes(b, v []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

// updateSize is an upper bound of an update's frame.
func updateSize(u *Update) int {
	n := frameHeaderSize + len(u.Meta) + 90
	for _, e := range u.Entries {
		n += recordSize(e)
	}
	return n
}

// appendUpdate appends the payload of an update frame. The flags in c say what
// is in it; places of the entries are added to *places, and c gets the range.
func appendUpdate(b []byte, u *Update, c *change, at position, places []place) ([]byte, []place) {
	if c.flags&flagCompact != 0 {
		b = appendMark(b, c.mark)
	}
	if c.flags&flagHardState != 0 {
		b = appendHardState(b, c.hs)
	}
	if c.flags&flagMeta != 0 {
		b = appendBytes(b, c.meta)
	}
	if c.flags&flagEntries != 0 {
		b = binary.AppendUvarint(b, c.first)
		b = binary.AppendUvarint(b, uint64(len(u.Entries)))
		for _, e := range u.Entries {
			off := len(b)
			b = appendRecord(b, c.group, e)
			places = append(places, place{
				term: e.GetTerm(), seg: at.seg, off: uint32(at.base + int64(off)), size: uint32(len(b) - off),
			})
		}
	}
	return b, places
}

// decodeUpdate reads the payload of an update frame; c.meta is shared with d.b.
func decodeUpdate(d *decoder, c *change, at position) bool {
	if c.flags&flagCompact != 0 {
		c.mark = d.mark()
	}
	if c.flags&flagHardState != 0 {
		c.hs = d.hardState()
	}
	if c.flags&flagMeta != 0 {
		c.meta = d.bytes(d.uvarint())
	}
	if c.flags&flagEntries != 0 {
		c.first, c.places = d.records(at)
	}
	return !d.bad && d.off == len(d.b)
}

// records reads a run of records: first index, count, records.
func (d *decoder) records(at position) (first uint64, places []place) {
	first = d.uvarint()
	places = make([]place, d.count())
	for i := range places {
		size, term, ok := recordTerm(d.b[d.off:])
		if !ok {
			d.bad = true
			return first, nil
		}
		places[i] = place{term: term, seg: at.seg, off: uint32(at.base + int64(d.off)), size: uint32(size)}
		d.off += size
	}
	return first, places
}

// rawRun is a run of entries as encoded records, on their way to a new place.
type rawRun struct {
	first   uint64
	records [][]byte
	terms   []uint64
}

// appendState appends the payload of a state frame, and fills in c.carried.
func appendState(b []byte, c *change, runs []rawRun, at position) []byte {
	b = appendMark(b, c.mark)
	b = binary.AppendUvarint(b, c.last)
	if c.flags&flagHardState != 0 {
		b = appendHardState(b, c.hs)
	}
	if c.flags&flagMeta != 0 {
		b = appendBytes(b, c.meta)
	}
	if c.flags&flagSuspect != 0 {
		b = appendBytes(b, []byte(c.reason))
	}
	b = binary.AppendUvarint(b, uint64(len(c.chunks)))
	for i := range c.chunks {
		b = appendChunk(b, &c.chunks[i])
	}
	b = binary.AppendUvarint(b, uint64(len(runs)))
	for _, r := range runs {
		b = binary.AppendUvarint(b, r.first)
		b = binary.AppendUvarint(b, uint64(len(r.records)))
		moved := carriedRun{first: r.first}
		for i, rec := range r.records {
			moved.places = append(moved.places, place{
				term: r.terms[i], seg: at.seg, off: uint32(at.base + int64(len(b))), size: uint32(len(rec)),
			})
			b = append(b, rec...)
		}
		c.carried = append(c.carried, moved)
	}
	return b
}

func decodeState(d *decoder, c *change, at position) bool {
	c.mark = d.mark()
	c.last = d.uvarint()
	if c.flags&flagHardState != 0 {
		c.hs = d.hardState()
	}
	if c.flags&flagMeta != 0 {
		c.meta = d.bytes(d.uvarint())
	}
	if c.flags&flagSuspect != 0 {
		c.reason = string(d.bytes(d.uvarint()))
	}
	c.chunks = make([]chunk, d.count())
	for i := range c.chunks {
		d.chunk(&c.chunks[i])
	}
	c.carried = make([]carriedRun, d.count())
	for i := range c.carried {
		c.carried[i].first, c.carried[i].places = d.records(at)
	}
	return !d.bad && d.off == len(d.b)
}

func appendChunk(b []byte, k *chunk) []byte {
	b = binary.AppendUvarint(b, k.first)
	b = binary.AppendUvarint(b, k.last)
	b = le.AppendUint32(b, k.sum)
	b = binary.AppendUvarint(b, k.bytes)
	b = binary.AppendUvarint(b, uint64(len(k.terms)))
	for _, t := range k.terms {
		b = binary.AppendUvarint(b, t.first)
		b = binary.AppendUvarint(b, t.term)
	}
	return b
}

func (d *decoder) chunk(k *chunk) {
	k.first, k.last = d.uvarint(), d.uvarint()
	k.sum, k.bytes = d.uint32(), d.uvarint()
	k.terms = make([]termRun, d.count())
	for i := range k.terms {
		k.terms[i] = termRun{first: d.uvarint(), term: d.uvarint()}
	}
	if k.last < k.first || len(k.terms) == 0 {
		d.bad = true
	}
}

// chunkSize is an upper bound of an encoded chunk.
func chunkSize(k *chunk) int { return 40 + 20*len(k.terms) }
