package snapshot

import (
	"bytes"
	"errors"
	"os"
	"testing"
)

// FuzzOpen: whatever a file holds, opening, verifying and reading it agree,
// allocate little, and never panic; receiving it agrees with them.
func FuzzOpen(f *testing.F) {
	golden, err := os.ReadFile("testdata/v1.0.snap")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	small, seed := appendHead(nil, testHead(3))
	chunk := append(make([]byte, chunkHeader), "user"...)
	putChunkHeader(chunk, seed, 0, chunk[chunkHeader:])
	small = append(small, chunk...)
	f.Add(small)
	f.Add(appendTrailer(small, trailer{chunks: 1, userBytes: 4, size: int64(len(small) + trailerLen)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := newMem(t)
		s := openStore(t, m)
		// The name is what the file itself says, so that its bytes are what counts.
		ref := Ref{Size: int64(len(b))}
		if len(b) >= minFileLen {
			if tr, err := decodeTrailer(b[len(b)-trailerLen:], int64(len(b))); err == nil {
				ref.Checksum = tr.sum
			}
			if hdr, err := decodeHeader(b[:headerLen]); err == nil && headerLen+hdr.headLen+crcLen <= int64(len(b)) {
				if h, err := decodeHead(hdr, b[headerLen:headerLen+hdr.headLen+crcLen]); err == nil {
					ref = refOf(h, ref.Size, ref.Checksum)
				}
			}
		}
		putFile(t, m, s.snapPath(1, ref), b)
		verifyErr := s.Verify(1, ref)
		_, user, readErr := readSnap(s, 1, ref)
		if (verifyErr == nil) != (readErr == nil) {
			t.Fatalf("Verify: %v, reading: %v", verifyErr, readErr)
		}
		if verifyErr != nil && !isDamage(verifyErr) && !errors.Is(verifyErr, ErrNewerFormat) && !errors.Is(verifyErr, ErrMismatch) {
			t.Fatalf("untyped: %v", verifyErr)
		}
		if len(user) > len(b) {
			t.Fatalf("%d bytes out of a file of %d", len(user), len(b))
		}
		rc, err := s.Receive(2, ref)
		if err == nil {
			_, err = rc.Write(b)
			err = errors.Join(err, rc.Commit(), rc.Close())
		}
		if (err == nil) != (verifyErr == nil) {
			t.Fatalf("Verify: %v, receiving: %v", verifyErr, err)
		}
		if err == nil && !bytes.Equal(rawFile(t, s, 2, ref), b) {
			t.Fatal("received something else")
		}
		wantNoneOpen(t, m)
	})
}

// FuzzDecode reaches the decoders behind the CRCs, which a fuzzer does not guess.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("head"), []byte("chunks"))
	head, _ := appendHead(nil, testHead(1))
	f.Add(head[headerLen:len(head)-crcLen], []byte{4, 0, 0, 0, 1, 2, 3, 4, 'u', 's', 'e', 'r'})
	f.Fuzz(func(t *testing.T, head, rest []byte) {
		if len(head) < headFixed || len(head) > 1<<16 {
			return
		}
		var b []byte
		b = append(b, headerMagic[:]...)
		b = append(b, majorVersion, 0, minorVersion, 0, byte(len(head)), byte(len(head)>>8), byte(len(head)>>16), 0)
		crc := checksum(0, b)
		b = append(b, byte(crc), byte(crc>>8), byte(crc>>16), byte(crc>>24))
		crc = checksum(crc, head)
		b = append(append(b, head...), byte(crc), byte(crc>>8), byte(crc>>16), byte(crc>>24))
		b = append(b, rest...)
		st, err := newStream("fuzz", int64(len(b)+trailerLen))
		for err == nil && !st.done && st.pos+int64(st.need) <= int64(len(b)) {
			if st.need > len(b) {
				t.Fatalf("wants %d bytes of a file of %d", st.need, len(b))
			}
			_, err = st.next(b[st.pos : st.pos+int64(st.need)])
		}
		if err != nil && !isDamage(err) {
			t.Fatal(err)
		}
	})
}
