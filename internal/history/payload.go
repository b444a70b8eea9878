package history

import (
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// Op says what a payload does to the register map that every State keeps
// beside its list.
type Op uint8

// The operations.
const (
	OpNone Op = 0 // nothing: only its place in the order matters
	OpPut  Op = 1 // sets its key to its own ID
	OpRead Op = 2 // changes nothing: its proposer reads the key when it is delivered
)

// String names the operation.
func (o Op) String() string {
	switch o {
	case OpNone:
		return "none"
	case OpPut:
		return "put"
	case OpRead:
		return "read"
	}
	return fmt.Sprintf("op(%d)", uint8(o))
}

// Payload is what the workload proposes: everything that the checker wants to
// know stands in the bytes, so it needs no table beside them.
type Payload struct {
	ID   ID
	Op   Op
	Key  uint32
	Size int // of the encoded payload; below MinPayload it is MinPayload
}

// The format of a payload: 'C' 'H', version 1, op; size, key (4 bytes each);
// writer, sequence (8 bytes each); padding that follows from writer and
// sequence; xxhash64 of all before. Integers are little endian.
const (
	payloadVersion = 1
	payloadHead    = 28
	// MinPayload is the size of the smallest payload, in bytes.
	MinPayload = payloadHead + 8
)

// Encode returns the bytes to propose: the same ones each time.
func (p Payload) Encode() []byte {
	b := make([]byte, max(p.Size, MinPayload))
	b[0], b[1], b[2], b[3] = 'C', 'H', payloadVersion, byte(p.Op)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)))
	binary.LittleEndian.PutUint32(b[8:], p.Key)
	binary.LittleEndian.PutUint64(b[12:], uint64(p.ID.Writer))
	binary.LittleEndian.PutUint64(b[20:], p.ID.Seq)
	// The padding is not compressible, so that a payload weighs what it says.
	x := uint64(p.ID.Writer)*0x9e3779b97f4a7c15 ^ p.ID.Seq*0xbf58476d1ce4e5b9 | 1
	for i, end := payloadHead, len(b)-8; i < end; i++ {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x >> 32)
	}
	binary.LittleEndian.PutUint64(b[len(b)-8:], xxhash.Sum64(b[:len(b)-8]))
	return b
}

// ParsePayload reads an encoded payload. A single changed, missing or added
// byte is ErrMalformed: what cannot be a payload counts as delivered although
// nobody proposed it.
func ParsePayload(b []byte) (Payload, error) {
	bad := func(what string) (Payload, error) {
		return Payload{}, fmt.Errorf("%w: payload of %d bytes (%x): %s", ErrMalformed, len(b), b[:min(len(b), MinPayload)], what)
	}
	switch {
	case len(b) < MinPayload || b[0] != 'C' || b[1] != 'H':
		return bad("not of this workload")
	case b[2] != payloadVersion:
		return bad("version")
	case int64(binary.LittleEndian.Uint32(b[4:])) != int64(len(b)):
		return bad("length")
	case binary.LittleEndian.Uint64(b[len(b)-8:]) != xxhash.Sum64(b[:len(b)-8]):
		return bad("checksum")
	}
	p := Payload{
		ID: ID{Writer: Writer(binary.LittleEndian.Uint64(b[12:])), Seq: binary.LittleEndian.Uint64(b[20:])},
		Op: Op(b[3]), Key: binary.LittleEndian.Uint32(b[8:]), Size: len(b),
	}
	if p.Op > OpRead || p.ID.IsZero() || p.ID.IsBase() {
		return bad("content")
	}
	return p, nil
}
