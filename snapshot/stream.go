package snapshot

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
)

// stream checks a file piece by piece, from its first byte to its last. It is
// told the size of the file beforehand, does no I/O, and allocates nothing
// larger than the head; so the same code serves a reader, which pulls, a
// receiver, to which bytes are pushed, and the scan before a resume.
//
// The user of a stream hands next exactly need bytes each time, until done.
type stream struct {
	path string // for errors
	size int64

	pos  int64 // where the next piece begins
	good int64 // end of the last part that checked; the hash stands here
	need int   // bytes of the next piece
	// step checks the next piece; nil: nothing can follow.
	step func(s *stream, piece []byte) ([]byte, error)

	hdr       header
	head      Head
	seed      uint32 // of the chunks' CRCs
	chunkHdr  [chunkHeader]byte
	chunks    uint64
	userBytes uint64
	hash      hash.Hash
	sum       [32]byte
	headDone  bool // head is filled
	done      bool
}

// newStream begins the check of a file of the given size.
func newStream(path string, size int64) (*stream, error) {
	s := &stream{path: path, size: size, need: headerLen, step: (*stream).onHeader, hash: sha256.New()}
	if size < minFileLen {
		return nil, s.damage("%d bytes are too few for a snapshot", size)
	}
	return s, nil
}

func (s *stream) damage(format string, args ...any) error {
	return &DamageError{File: s.path, Offset: s.pos, What: fmt.Sprintf(format, args...)}
}

// inDamage turns what a decoder says into a *DamageError; ErrNewerFormat stays.
func (s *stream) inDamage(err error) error {
	if errors.Is(err, ErrNewerFormat) {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	return s.damage("%v", err)
}

// next checks one piece of exactly need bytes. It returns the user's bytes in
// it, which are part of the piece, or nil.
func (s *stream) next(piece []byte) (user []byte, err error) {
	if s.step == nil {
		return nil, s.damage("bytes where none can follow")
	}
	return s.step(s, piece)
}

// endPart hashes the pieces of a part that checked, the last of which is not
// counted yet.
func (s *stream) endPart(pieces ...[]byte) {
	for _, p := range pieces {
		s.hash.Write(p) // a hash never fails
	}
	s.pos += int64(len(pieces[len(pieces)-1]))
	s.good = s.pos
}

// rewind goes back to good, so that the part that begins there can be given
// once more. Use it after an error of next, or between two pieces.
func (s *stream) rewind() {
	if s.pos != s.good {
		s.pos, s.need, s.step = s.good, chunkHeader, (*stream).onChunkHeader
	}
}

// room is what is left between pos and the trailer.
func (s *stream) room() int64 { return s.size - trailerLen - s.pos }

func (s *stream) onHeader(b []byte) ([]byte, error) {
	hdr, err := decodeHeader(b)
	if err != nil {
		return nil, s.inDamage(err)
	}
	if headerLen+hdr.headLen+crcLen > s.room() {
		return nil, s.damage("head of %d bytes in a file of %d", hdr.headLen, s.size)
	}
	s.hdr = hdr
	s.endPart(b)
	s.need, s.step = int(hdr.headLen)+crcLen, (*stream).onHead
	return nil, nil
}

func (s *stream) onHead(b []byte) ([]byte, error) {
	head, err := decodeHead(s.hdr, b)
	if err != nil {
		return nil, s.inDamage(err)
	}
	s.head, s.headDone = head, true
	s.seed = binary.LittleEndian.Uint32(b[len(b)-crcLen:])
	s.endPart(b)
	return nil, s.afterPart()
}

// afterPart decides what follows the head or a chunk.
func (s *stream) afterPart() error {
	switch room := s.room(); {
	case room == 0:
		s.hash.Sum(s.sum[:0])
		s.need, s.step = trailerLen, (*stream).onTrailer
	case room <= chunkHeader:
		s.need, s.step = 0, nil
		return s.damage("%d bytes before the trailer, too few for a chunk", room)
	default:
		s.need, s.step = chunkHeader, (*stream).onChunkHeader
	}
	return nil
}

func (s *stream) onChunkHeader(b []byte) ([]byte, error) {
	n := int64(binary.LittleEndian.Uint32(b))
	if n == 0 || n > maxChunk || chunkHeader+n > s.room() {
		return nil, s.damage("chunk of %d bytes, with room for %d", n, s.room()-chunkHeader)
	}
	copy(s.chunkHdr[:], b)
	s.pos += chunkHeader
	s.need, s.step = int(n), (*stream).onChunk
	return nil, nil
}

func (s *stream) onChunk(b []byte) ([]byte, error) {
	if chunkCRC(s.seed, s.chunks, s.chunkHdr[:4], b) != binary.LittleEndian.Uint32(s.chunkHdr[4:]) {
		return nil, s.damage("CRC of chunk %d is wrong", s.chunks)
	}
	s.chunks++
	s.userBytes += uint64(len(b))
	s.endPart(s.chunkHdr[:], b)
	return b, s.afterPart()
}

func (s *stream) onTrailer(b []byte) ([]byte, error) {
	t, err := decodeTrailer(b, s.size)
	if err != nil {
		return nil, s.inDamage(err)
	}
	switch {
	case t.chunks != s.chunks || t.userBytes != s.userBytes:
		return nil, s.damage("%d chunks with %d bytes, the trailer says %d with %d", s.chunks, s.userBytes, t.chunks, t.userBytes)
	case t.sum != s.sum:
		return nil, s.damage("SHA-256 is %x…, the trailer says %x…", s.sum[:8], t.sum[:8])
	}
	s.pos += trailerLen
	s.good = s.pos // the trailer is not hashed
	s.need, s.step, s.done = 0, nil, true
	return nil, nil
}

// ref returns the identity, once done.
func (s *stream) ref() Ref { return refOf(s.head, s.size, s.sum) }

func refOf(h Head, size int64, sum [32]byte) Ref {
	return Ref{Index: h.Index, Term: h.Term, Commits: h.Commits, Maker: h.Maker, Size: size, Checksum: sum}
}
