package transport

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

// Types of frames. Numbers are never used again.
const (
	frameMessages  byte = 1  // messages: see message.go
	framePiece     byte = 2  // the first piece of a large message
	framePieceMore byte = 3  // a later piece of it
	framePing      byte = 4  // 8 bytes that the answer repeats
	framePong      byte = 5  // the answer
	frameBye       byte = 6  // the sender closes because it is idle
	frameRequest   byte = 7  // a call: see call.go
	frameResponse  byte = 8  // its answer
	frameCancel    byte = 9  // the caller gave up
	frameFetch     byte = 10 // the request of a fetch: see fetch.go
	frameData      byte = 11 // bytes of a fetched stream
	frameEnd       byte = 12 // its end: whole, or with an error
)

const (
	frameVersion byte = 1
	// frameHeader is the size of: length of the body (4), version (1), type
	// (1), flags (1), zero (1), CRC-32C of the eight bytes before and the body (4).
	frameHeader = 12
	// frameSlack is what a frame may hold beyond Config.MaxFrame bytes of
	// payload: the heads of messages, of a call, or the text of an error.
	frameSlack = 2 * maxErrorText
	// flagCompressed says that the body is an s2 block.
	flagCompressed byte = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openFrame appends room for a header. The body follows; sealFrame finishes.
func openFrame(buf []byte) []byte {
	return append(buf, make([]byte, frameHeader)...)
}

// sealFrame fills in the header of the frame that starts at start and ends
// with buf.
func sealFrame(buf []byte, start int, kind, flags byte) {
	h := buf[start:]
	binary.LittleEndian.PutUint32(h, uint32(len(h)-frameHeader))
	h[4], h[5], h[6], h[7] = frameVersion, kind, flags, 0
	binary.LittleEndian.PutUint32(h[8:], frameCRC(h[:8], h[frameHeader:]))
}

func frameCRC(head, body []byte) uint32 {
	return crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, body)
}

// appendFrame appends a whole frame.
func appendFrame(buf []byte, kind byte, body ...[]byte) []byte {
	start := len(buf)
	buf = openFrame(buf)
	for _, b := range body {
		buf = append(buf, b...)
	}
	sealFrame(buf, start, kind, 0)
	return buf
}

// frame is one that was read. The body is owned by the reader of it, except
// that of a piece or of data, which lasts until the next frame.
type frame struct {
	kind byte
	body []byte
}

// frameReader reads frames. One goroutine uses it.
type frameReader struct {
	r       *bufio.Reader
	max     int // bytes of a body, compressed or not
	head    [frameHeader]byte
	scratch []byte // for bodies that are copied anyway
}

// next reads a frame. The length is checked before anything is allocated for
// it, and memory for a large one is made as it comes. io.EOF means that the
// connection ended between frames.
func (f *frameReader) next() (frame, error) {
	h := f.head[:]
	if _, err := io.ReadFull(f.r, h); err != nil {
		return frame{}, err
	}
	size := int(binary.LittleEndian.Uint32(h))
	version, kind, flags := h[4], h[5], h[6]
	switch {
	case version > frameVersion:
		return frame{}, fmt.Errorf("%w: frame of version %d, this side reads up to %d", ErrNewerVersion, version, frameVersion)
	case version == 0 || h[7] != 0 || flags&^flagCompressed != 0:
		return frame{}, fmt.Errorf("%w: frame header %x", ErrMalformed, h)
	case size < 0 || size > f.max:
		return frame{}, fmt.Errorf("%w: frame of %d bytes, %d are allowed", ErrMalformed, size, f.max)
	}
	body, err := f.body(size, flags&flagCompressed != 0 || kind == framePiece || kind == framePieceMore || kind == frameData)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return frame{}, err
	}
	if frameCRC(h[:8], body) != binary.LittleEndian.Uint32(h[8:]) {
		return frame{}, fmt.Errorf("%w: checksum of a frame of type %d, %d bytes", ErrMalformed, kind, size)
	}
	if flags&flagCompressed != 0 {
		if body, err = decompress(body, f.max); err != nil {
			return frame{}, err
		}
	}
	return frame{kind: kind, body: body}, nil
}

// keepScratch bounds the scratch buffer between frames, and what is allocated for
// a body before any of it has come.
const keepScratch = 1 << 20

// body reads the body of a frame. Its memory is at most twice what has come of it.
func (f *frameReader) body(size int, reuse bool) ([]byte, error) {
	if reuse && size <= keepScratch {
		if cap(f.scratch) < size {
			f.scratch = make([]byte, size)
		}
		b := f.scratch[:size]
		_, err := io.ReadFull(f.r, b)
		return b, err
	}
	b := make([]byte, 0, min(size, keepScratch))
	for {
		n, err := io.ReadFull(f.r, b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err != nil || len(b) == size {
			return b, err
		}
		b = append(make([]byte, 0, min(2*cap(b), size)), b...)
	}
}
