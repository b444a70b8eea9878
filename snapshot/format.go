package snapshot

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/copycat-replication/copycat/id"
)

// Version of the files that this package writes.
const (
	majorVersion = 1
	minorVersion = 0
)

const (
	headerLen   = 20
	headFixed   = 72
	crcLen      = 4
	chunkHeader = 8
	trailerLen  = 68
	minFileLen  = headerLen + headFixed + crcLen + trailerLen

	// maxChunk bounds the user's bytes of a chunk, and so what a reader
	// allocates for one.
	maxChunk = 256 << 10
	// MaxState bounds Head.State. A session takes some 50 bytes there.
	MaxState = 64 << 20
	// maxHead leaves room for the fields of later minor versions.
	maxHead = headFixed + MaxState + 1<<20
)

var (
	headerMagic  = [8]byte{0x89, 'C', 'C', 'S', 'N', 'A', 'P', '\n'}
	trailerMagic = [8]byte{0x89, 'C', 'C', 'S', 'E', 'N', 'D', '\n'}
	castagnoli   = crc32.MakeTable(crc32.Castagnoli)
)

// Head is what a snapshot says about itself.
type Head struct {
	Structure   id.Structure
	Incarnation id.Incarnation
	Index       uint64 // raft position of the last entry whose effects are in it
	Term        uint64 // of that entry
	Commits     uint64 // N: the commits whose effects are in it
	Clock       int64  // the leader's clock as of N
	Maker       uint64 // ID of the session that made it
	// State is raftgroup's applied state as of Index: membership (joint fields
	// included), session table, options. Opaque here; at most MaxState bytes.
	State []byte
}

// Ref is the identity of a snapshot: comparable, and small enough to be
// committed to the log. Two files with equal Refs are equal byte for byte.
type Ref struct {
	Index, Term, Commits, Maker uint64
	Size                        int64    // of the whole file
	Checksum                    [32]byte // SHA-256 of the whole file up to the trailer
}

// String prints what tells snapshots apart for a human.
func (r Ref) String() string {
	return fmt.Sprintf("snapshot %d (index %d, term %d, by %d, %d bytes, %x…)", r.Commits, r.Index, r.Term, r.Maker, r.Size, r.Checksum[:4])
}

// trailer is the end of a file.
type trailer struct {
	chunks, userBytes uint64
	size              int64
	sum               [32]byte
}

func checksum(seed uint32, parts ...[]byte) uint32 {
	for _, p := range parts {
		seed = crc32.Update(seed, castagnoli, p)
	}
	return seed
}

// appendHead appends header and head, and returns the CRC that seeds the chunks'.
func appendHead(b []byte, h Head) ([]byte, uint32) {
	le, start := binary.LittleEndian, len(b)
	b = append(b, headerMagic[:]...)
	b = le.AppendUint16(b, majorVersion)
	b = le.AppendUint16(b, minorVersion)
	b = le.AppendUint32(b, uint32(headFixed+len(h.State)))
	headerCRC := checksum(0, b[start:])
	b = le.AppendUint32(b, headerCRC)

	start = len(b)
	b = append(b, h.Structure[:]...)
	b = le.AppendUint64(b, h.Incarnation.Birth)
	b = le.AppendUint32(b, h.Incarnation.Recovery)
	b = le.AppendUint64(b, h.Index)
	b = le.AppendUint64(b, h.Term)
	b = le.AppendUint64(b, h.Commits)
	b = le.AppendUint64(b, uint64(h.Clock))
	b = le.AppendUint64(b, h.Maker)
	b = le.AppendUint32(b, uint32(len(h.State)))
	b = append(b, h.State...)
	headCRC := checksum(headerCRC, b[start:])
	return le.AppendUint32(b, headCRC), headCRC
}

// header is the first 20 bytes.
type header struct {
	major, minor uint16
	headLen      int64
	crc          uint32
}

// decodeHeader reads the first 20 bytes. The error is ErrNewerFormat or says
// what does not fit; limits are the caller's.
func decodeHeader(b []byte) (header, error) {
	le := binary.LittleEndian
	h := header{
		major: le.Uint16(b[8:]), minor: le.Uint16(b[10:]),
		headLen: int64(le.Uint32(b[12:])), crc: le.Uint32(b[16:]),
	}
	switch {
	case !bytes.Equal(b[:8], headerMagic[:]):
		return h, fmt.Errorf("starts with % x, which is no snapshot", b[:8])
	case checksum(0, b[:16]) != h.crc:
		return h, fmt.Errorf("CRC of the header is wrong")
	case h.major > majorVersion:
		return h, fmt.Errorf("%w: version %d.%d, this program reads %d", ErrNewerFormat, h.major, h.minor, majorVersion)
	case h.major == 0:
		return h, fmt.Errorf("version 0 never was")
	case h.headLen < headFixed || h.headLen > maxHead:
		return h, fmt.Errorf("head of %d bytes", h.headLen)
	}
	return h, nil
}

// decodeHead reads a head that is followed by its CRC. The State is a copy.
func decodeHead(hdr header, b []byte) (Head, error) {
	le := binary.LittleEndian
	body := b[:len(b)-crcLen]
	if checksum(hdr.crc, body) != le.Uint32(b[len(body):]) {
		return Head{}, fmt.Errorf("CRC of the head is wrong")
	}
	h := Head{
		Incarnation: id.Incarnation{Birth: le.Uint64(body[16:]), Recovery: le.Uint32(body[24:])},
		Index:       le.Uint64(body[28:]),
		Term:        le.Uint64(body[36:]),
		Commits:     le.Uint64(body[44:]),
		Clock:       int64(le.Uint64(body[52:])),
		Maker:       le.Uint64(body[60:]),
	}
	copy(h.Structure[:], body)
	state, rest := int64(le.Uint32(body[68:])), int64(len(body)-headFixed)
	if state > rest || state > MaxState {
		return Head{}, fmt.Errorf("state of %d bytes in a head with room for %d", state, rest)
	}
	if state < rest && hdr.major == majorVersion && hdr.minor <= minorVersion {
		return Head{}, fmt.Errorf("%d bytes after the state", rest-state)
	}
	h.State = bytes.Clone(body[headFixed : headFixed+state])
	return h, nil
}

// putChunkHeader fills the 8 bytes before a chunk's bytes.
func putChunkHeader(dst []byte, seed uint32, number uint64, data []byte) {
	binary.LittleEndian.PutUint32(dst, uint32(len(data)))
	binary.LittleEndian.PutUint32(dst[4:], chunkCRC(seed, number, dst[:4], data))
}

func chunkCRC(seed uint32, number uint64, length, data []byte) uint32 {
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], number)
	return checksum(seed, n[:], length, data)
}

func appendTrailer(b []byte, t trailer) []byte {
	le, start := binary.LittleEndian, len(b)
	b = append(b, trailerMagic[:]...)
	b = le.AppendUint64(b, t.chunks)
	b = le.AppendUint64(b, t.userBytes)
	b = le.AppendUint64(b, uint64(t.size))
	b = append(b, t.sum[:]...)
	return le.AppendUint32(b, checksum(0, b[start:]))
}

// decodeTrailer reads the last 68 bytes of a file of the given size.
func decodeTrailer(b []byte, size int64) (trailer, error) {
	le := binary.LittleEndian
	t := trailer{chunks: le.Uint64(b[8:]), userBytes: le.Uint64(b[16:]), size: int64(le.Uint64(b[24:]))}
	copy(t.sum[:], b[32:])
	switch {
	case !bytes.Equal(b[:8], trailerMagic[:]):
		return t, fmt.Errorf("no trailer at the end: cut off, or continued")
	case checksum(0, b[:64]) != le.Uint32(b[64:]):
		return t, fmt.Errorf("CRC of the trailer is wrong")
	case t.userBytes > uint64(size):
		return t, fmt.Errorf("%d bytes in a file of %d", t.userBytes, size)
	case t.size != size:
		return t, fmt.Errorf("the file has %d bytes, the trailer says %d", size, t.size)
	}
	return t, nil
}
