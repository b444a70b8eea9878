package transport

import (
	"fmt"

	"github.com/klauspost/compress/s2"
)

// compressMin is the smallest body worth compressing: below it the saving does
// not pay for a packet less.
const compressMin = 512

// compressFrame replaces the body that follows start in buf by its compressed
// form, if that is smaller, and returns buf and the flag for the header.
// scratch is kept for the next call.
func compressFrame(buf []byte, start int, scratch *[]byte) ([]byte, byte) {
	body := buf[start+frameHeader:]
	if len(body) < compressMin {
		return buf, 0
	}
	if need := s2.MaxEncodedLen(len(body)); cap(*scratch) < need {
		*scratch = make([]byte, need)
	}
	small := s2.Encode((*scratch)[:cap(*scratch)], body)
	if len(small) >= len(body) {
		return buf, 0
	}
	return append(buf[:start+frameHeader], small...), flagCompressed
}

// decompress unpacks a body into memory of its own, after checking the size
// that it claims.
func decompress(body []byte, limit int) ([]byte, error) {
	n, err := s2.DecodedLen(body)
	if err != nil {
		return nil, fmt.Errorf("%w: compressed frame: %w", ErrMalformed, err)
	}
	if n > limit {
		return nil, fmt.Errorf("%w: frame of %d bytes once unpacked, %d are allowed", ErrMalformed, n, limit)
	}
	out, err := s2.Decode(nil, body)
	if err != nil {
		return nil, fmt.Errorf("%w: compressed frame: %w", ErrMalformed, err)
	}
	return out, nil
}
