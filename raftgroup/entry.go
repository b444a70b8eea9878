package raftgroup

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/copycat-replication/copycat/id"
)

// The data of every entry that CopyCat proposes begins with a fixed header,
// little-endian:
//
//	0  u8   format version
//	1  u8   kind
//	2  u16  reserved, zero
//	4  i64  leader's clock, Unix nanoseconds, stamped by the leader at append
//
// A batch continues:
//
//	12 u64  session
//	20 u64  first number
//	28 u32  count
//	32 u32  attempt
//	36      count × u32: length of the payload; the top bit marks a void number
//	        the payloads, back to back
//
// The lengths stand in front of the payloads, so that a detached replica
// decides what counts without touching a payload. Other kinds carry a protobuf
// message after the fixed header. An entry without data is raft's own.
const (
	entryVersion    = 1
	fixedHeaderSize = 12
	batchHeaderSize = 36
	voidBit         = uint32(1) << 31
)

// Kind says what an entry of the log means.
type Kind uint8

// The kinds of entries. Their numbers are part of the log's format.
const (
	KindNone             Kind = 0 // raft's own empty entry
	KindBatch            Kind = 1
	KindSessionOpen      Kind = 2
	KindSessionClose     Kind = 3
	KindSessionExpire    Kind = 4
	KindBase             Kind = 5
	KindSnapshotRequest  Kind = 6
	KindSnapshotAnnounce Kind = 7
	KindReplicaIntent    Kind = 8
	KindIntentAbandon    Kind = 9
	KindDeleted          Kind = 10
	KindOptions          Kind = 11
	KindRebuilt          Kind = 12

	lastKind = KindRebuilt
)

// Errors of the entry format.
var (
	// ErrMalformedEntry says that an entry is not what its header claims.
	ErrMalformedEntry = errors.New("malformed log entry")
	// ErrNewerFormat says that a record was written by a newer version of
	// CopyCat than this one can read.
	ErrNewerFormat = errors.New("written by a newer version of CopyCat")
)

// item is one numbered proposal as it goes into a batch.
type item struct {
	payload []byte
	void    bool
}

// batch is a decoded view of a batch entry. It aliases the entry's data.
type batch struct {
	session uint64
	first   uint64
	count   uint32
	attempt uint32
	lengths []byte // count × u32
	body    []byte
}

// encodeBatch lays the items out as one entry, in buf if that has the room: the
// only copy of the payloads that the proposer makes.
func encodeBatch(buf []byte, session, first uint64, attempt uint32, items []item) []byte {
	size := batchHeaderSize + 4*len(items)
	for i := range items {
		if !items[i].void {
			size += len(items[i].payload)
		}
	}
	data := buf[:0]
	if cap(data) < size {
		data = make([]byte, 0, size)
	}
	data = append(data, entryVersion, byte(KindBatch), 0, 0)
	data = binary.LittleEndian.AppendUint64(data, 0) // the leader's clock
	data = binary.LittleEndian.AppendUint64(data, session)
	data = binary.LittleEndian.AppendUint64(data, first)
	data = binary.LittleEndian.AppendUint32(data, uint32(len(items)))
	data = binary.LittleEndian.AppendUint32(data, attempt)
	for i := range items {
		length := voidBit
		if !items[i].void {
			length = uint32(len(items[i].payload))
		}
		data = binary.LittleEndian.AppendUint32(data, length)
	}
	for i := range items {
		if !items[i].void {
			data = append(data, items[i].payload...)
		}
	}
	return data
}

// protoMessage is what gogo/protobuf generates.
type protoMessage interface {
	Size() int
	MarshalToSizedBuffer([]byte) (int, error)
	Unmarshal([]byte) error
}

// encodeRecord lays out an entry of any other kind.
func encodeRecord(kind Kind, body protoMessage) ([]byte, error) {
	data := make([]byte, fixedHeaderSize+body.Size())
	data[0], data[1] = entryVersion, byte(kind)
	if _, err := body.MarshalToSizedBuffer(data[fixedHeaderSize:]); err != nil {
		return nil, fmt.Errorf("encode log record of kind %d: %w", kind, err)
	}
	return data, nil
}

// stampClock writes the leader's clock into an entry that is about to be appended.
func stampClock(data []byte, clock int64) {
	if len(data) >= fixedHeaderSize {
		binary.LittleEndian.PutUint64(data[4:], uint64(clock))
	}
}

// entryKind reads and checks the fixed header.
func entryKind(data []byte) (kind Kind, clock int64, err error) {
	if len(data) == 0 {
		return KindNone, 0, nil
	}
	if len(data) < fixedHeaderSize {
		return 0, 0, fmt.Errorf("%w: %d bytes, shorter than the header", ErrMalformedEntry, len(data))
	}
	if data[0] > entryVersion {
		return 0, 0, fmt.Errorf("%w: log entry of format %d, this one reads up to %d", ErrNewerFormat, data[0], entryVersion)
	}
	if data[0] == 0 || data[1] == 0 {
		return 0, 0, fmt.Errorf("%w: version %d, kind %d", ErrMalformedEntry, data[0], data[1])
	}
	if data[1] > byte(lastKind) {
		return 0, 0, fmt.Errorf("%w: log entry of kind %d", ErrNewerFormat, data[1])
	}
	return Kind(data[1]), int64(binary.LittleEndian.Uint64(data[4:])), nil
}

// decodeBatch checks a batch entry's layout. It reads the lengths, not the payloads.
func decodeBatch(data []byte) (batch, error) {
	if len(data) < batchHeaderSize {
		return batch{}, fmt.Errorf("%w: batch of %d bytes", ErrMalformedEntry, len(data))
	}
	b := batch{
		session: binary.LittleEndian.Uint64(data[12:]),
		first:   binary.LittleEndian.Uint64(data[20:]),
		count:   binary.LittleEndian.Uint32(data[28:]),
		attempt: binary.LittleEndian.Uint32(data[32:]),
	}
	rest := data[batchHeaderSize:]
	if b.count == 0 || b.first == 0 || uint64(b.count)*4 > uint64(len(rest)) || b.first+uint64(b.count) < b.first {
		return batch{}, fmt.Errorf("%w: batch of %d numbers from %d in %d bytes", ErrMalformedEntry, b.count, b.first, len(data))
	}
	b.lengths, b.body = rest[:4*b.count], rest[4*b.count:]
	total := uint64(0)
	for i := uint32(0); i < b.count; i++ {
		if b.void(i) && b.length(i) != 0 {
			return batch{}, fmt.Errorf("%w: number %d is void and has %d bytes", ErrMalformedEntry, b.first+uint64(i), b.length(i))
		}
		total += uint64(b.length(i))
	}
	if total != uint64(len(b.body)) {
		return batch{}, fmt.Errorf("%w: batch lengths sum up to %d, body has %d bytes", ErrMalformedEntry, total, len(b.body))
	}
	return b, nil
}

// length returns the size of payload i; a void one has none.
func (b *batch) length(i uint32) uint32 {
	return binary.LittleEndian.Uint32(b.lengths[4*i:]) &^ voidBit
}

func (b *batch) void(i uint32) bool {
	return binary.LittleEndian.Uint32(b.lengths[4*i:])&voidBit != 0
}

// decodeRecord reads the protobuf message behind the fixed header.
func decodeRecord(data []byte, into protoMessage) error {
	if err := into.Unmarshal(data[fixedHeaderSize:]); err != nil {
		return fmt.Errorf("%w: kind %d: %w", ErrMalformedEntry, data[1], err)
	}
	return nil
}

// checkEntry tells whether every replica could apply an entry. A leader asks
// before it lets a forwarded one into the log: once there, what nobody can
// read would stop the whole group.
func checkEntry(data []byte) error {
	kind, _, err := entryKind(data)
	switch {
	case err != nil:
		return err
	case kind == KindNone:
		return fmt.Errorf("%w: empty", ErrMalformedEntry)
	case kind == KindRebuilt:
		return fmt.Errorf("%w: nobody proposes that a group was rebuilt", ErrMalformedEntry)
	case kind == KindBatch:
		_, err = decodeBatch(data)
		return err
	}
	// What apply refuses does not depend on the state, so an empty one will do.
	return newState(id.Group{}, nil, Options{}).applyNormal(data, &outcome{})
}
