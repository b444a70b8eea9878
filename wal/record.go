package wal

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"

	"go.etcd.io/raft/v3/raftpb"
)

// A record is one entry, in a frame and in the cold store alike:
//
//	checksum 4 | length 4 | type 1 | term uvarint | data
//
// length counts what follows it. The checksum is seeded with the group and the
// index, which the record does not repeat, so that a record that turns up at
// the wrong place does not verify.
const recordHeader = 8

// recordSeed mixes the key into 32 bits. Two CRCs of the same bytes with
// different seeds always differ.
func recordSeed(group, index uint64) uint32 {
	h := (group*0x9e3779b97f4a7c15 ^ index) * 0xbf58476d1ce4e5b9
	return uint32(h>>32) ^ uint32(h)
}

func uvarintLen(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

func recordSize(e *raftpb.Entry) int {
	return recordHeader + 1 + uvarintLen(e.GetTerm()) + len(e.Data)
}

func appendRecord(b []byte, group uint64, e *raftpb.Entry) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, byte(e.GetType()))
	b = binary.AppendUvarint(b, e.GetTerm())
	b = append(b, e.Data...)
	le.PutUint32(b[start+4:], uint32(len(b)-start-recordHeader))
	le.PutUint32(b[start:], crc32.Update(recordSeed(group, e.GetIndex()), castagnoli, b[start+4:]))
	return b
}

// recordTerm reads the length and the term of the record at the start of b,
// without verifying it: the frame around it has been.
func recordTerm(b []byte) (size int, term uint64, ok bool) {
	if len(b) < recordHeader+2 {
		return 0, 0, false
	}
	size = recordHeader + int(le.Uint32(b[4:]))
	if size > len(b) || size < recordHeader+2 {
		return 0, 0, false
	}
	term, n := binary.Uvarint(b[recordHeader+1 : size])
	return size, term, n > 0
}

// lostRecord stands for an entry that was not readable when its record moved: it
// has the term, which the index in memory knows, no data, and a checksum that is
// wrong. So it is damage for whoever reads it, and leaves the frame around it whole.
func lostRecord(group, index, term uint64) []byte {
	b := appendRecord(nil, group, &raftpb.Entry{Index: &index, Term: &term})
	le.PutUint32(b, ^le.Uint32(b))
	return b
}

// recordSum returns the record's own checksum.
func recordSum(b []byte) uint32 { return le.Uint32(b) }

// verifyRecord checks that b is exactly the record of (group, index), and
// returns what is in it. The data is shared with b, and nil if empty.
func verifyRecord(b []byte, group, index uint64) (typ raftpb.EntryType, term uint64, data []byte, ok bool) {
	if len(b) < recordHeader+2 || recordHeader+int(le.Uint32(b[4:])) != len(b) {
		return 0, 0, nil, false
	}
	if crc32.Update(recordSeed(group, index), castagnoli, b[4:]) != le.Uint32(b) {
		return 0, 0, nil, false
	}
	term, n := binary.Uvarint(b[recordHeader+1:])
	if n <= 0 {
		return 0, 0, nil, false
	}
	if data = b[recordHeader+1+n:]; len(data) == 0 {
		data = nil
	}
	return raftpb.EntryType(b[recordHeader]), term, data, true
}

// entrySlot holds an entry and what its pointer fields point to, so that a
// slab of them is one allocation instead of four for each entry.
type entrySlot struct {
	entry raftpb.Entry
	index uint64
	term  uint64
	typ   raftpb.EntryType
}

func (s *entrySlot) fill(index, term uint64, typ raftpb.EntryType, data []byte) *raftpb.Entry {
	s.index, s.term, s.typ = index, term, typ
	s.entry.Index, s.entry.Term, s.entry.Type = &s.index, &s.term, &s.typ
	s.entry.Data = data
	return &s.entry
}

// entrySize is what an entry counts for maxBytes and for the cache.
func entrySize(e *raftpb.Entry) int { return len(e.Data) + entryOverhead }

// entryOverhead is about what an entry costs beside its data, in memory and
// in a message.
const entryOverhead = 48
