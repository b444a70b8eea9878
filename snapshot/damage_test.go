package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/copycat-replication/copycat/internal/vfs"
)

// checkBroken wants that neither Verify nor a full read takes the file for whole,
// and that List does not when the damage is outside of the chunks.
func checkBroken(t *testing.T, s *Store, ref Ref, what string) {
	t.Helper()
	if err := s.Verify(1, ref); !isDamage(err) {
		t.Fatalf("%s: Verify gave %v", what, err)
	}
	if _, _, err := readSnap(s, 1, ref); !isDamage(err) {
		t.Fatalf("%s: reading gave %v", what, err)
	}
}

func TestEveryTruncation(t *testing.T) {
	t.Parallel()
	m := newMem(t)
	s := openStore(t, m)
	ref := makeSnap(t, s, 1, testHead(1), testBytes(200))
	whole := rawFile(t, s, 1, ref)
	for n := range whole {
		putFile(t, m, s.snapPath(1, ref), whole[:n])
		checkBroken(t, s, ref, "cut")
		if refs, err := s.List(1); len(refs) != 0 || err != nil {
			t.Fatalf("cut to %d: listed %v, %v", n, refs, err)
		}
	}
	for _, tail := range [][]byte{{0}, make([]byte, 1000), whole} {
		putFile(t, m, s.snapPath(1, ref), append(bytes.Clone(whole), tail...))
		checkBroken(t, s, ref, "continued")
	}
	putFile(t, m, s.snapPath(1, ref), whole)
	must(t, s.Verify(1, ref))
	wantNoneOpen(t, m)
}

func TestEverySingleBit(t *testing.T) {
	t.Parallel()
	m := newMem(t)
	s := openStore(t, m)
	ref := makeSnap(t, s, 1, testHead(1), testBytes(200))
	file := s.snapPath(1, ref)
	for off := range ref.Size {
		for bit := range uint(8) {
			must(t, m.FlipBit(file, off, bit))
			checkBroken(t, s, ref, "flipped")
			must(t, m.FlipBit(file, off, bit))
		}
	}
	must(t, s.Verify(1, ref))
	wantNoneOpen(t, m)
}

// No byte of a chunk that does not check is handed out, and none of a chunk
// that stands in the wrong place, which a CRC over its bytes alone would miss.
func TestChunksAreCheckedBeforeTheyAreRead(t *testing.T) {
	t.Parallel()
	m := newMem(t)
	s := openStore(t, m)
	user := testBytes(3 * maxChunk)
	ref := makeSnap(t, s, 1, testHead(1), user)
	file := s.snapPath(1, ref)
	whole := rawFile(t, s, 1, ref)
	first := headerLen + headFixed + len(testHead(1).State) + crcLen
	const step = chunkHeader + maxChunk

	must(t, m.FlipBit(file, int64(first+step+chunkHeader+maxChunk-1), 0))
	_, got, err := readSnap(s, 1, ref)
	if !isDamage(err) || !bytes.Equal(got, user[:maxChunk]) {
		t.Fatalf("%d bytes handed out, %v", len(got), err)
	}

	swapped := bytes.Clone(whole)
	copy(swapped[first:], whole[first+step:first+2*step])
	copy(swapped[first+step:], whole[first:first+step])
	putFile(t, m, file, swapped)
	_, got, err = readSnap(s, 1, ref)
	if !isDamage(err) || len(got) != 0 {
		t.Fatalf("%d bytes of a chunk in the wrong place, %v", len(got), err)
	}
}

// Lengths that lie, with CRCs that are right, must not become allocations. Not
// parallel: it counts what the process allocates.
func TestLyingLengths(t *testing.T) {
	le := binary.LittleEndian
	file := func(change func(b []byte)) []byte {
		b, _ := appendHead(nil, Head{})
		b = append(b, make([]byte, 300)...)
		b = appendTrailer(b, trailer{size: int64(len(b) + trailerLen)})
		change(b)
		return b
	}
	cases := map[string][]byte{
		"head": file(func(b []byte) {
			le.PutUint32(b[12:], headFixed+MaxState)
			le.PutUint32(b[16:], checksum(0, b[:16]))
		}),
		"head beyond bounds": file(func(b []byte) {
			le.PutUint32(b[12:], 0xFFFFFFFF)
			le.PutUint32(b[16:], checksum(0, b[:16]))
		}),
		"head too short": file(func(b []byte) {
			le.PutUint32(b[12:], headFixed-1)
			le.PutUint32(b[16:], checksum(0, b[:16]))
		}),
		"state": file(func(b []byte) {
			le.PutUint32(b[headerLen+68:], 0xFFFFFFFF)
			le.PutUint32(b[headerLen+headFixed:], checksum(le.Uint32(b[16:]), b[headerLen:headerLen+headFixed]))
		}),
		"chunk":      file(func(b []byte) { le.PutUint32(b[headerLen+headFixed+crcLen:], 0xFFFFFFFF) }),
		"zero chunk": file(func([]byte) {}),
		"version 0": file(func(b []byte) {
			le.PutUint16(b[8:], 0)
			le.PutUint32(b[16:], checksum(0, b[:16]))
		}),
	}
	for name, b := range cases {
		t.Run(name, func(t *testing.T) {
			m := newMem(t)
			s := openStore(t, m)
			ref := Ref{Size: int64(len(b))}
			putFile(t, m, s.snapPath(1, ref), b)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range 10 {
				if err := s.Verify(1, ref); !isDamage(err) {
					t.Fatal(err)
				}
			}
			runtime.ReadMemStats(&after)
			if got := (after.TotalAlloc - before.TotalAlloc) / 10; got > 1<<20 {
				t.Errorf("%d bytes allocated for a file of %d", got, len(b))
			}
		})
	}
}

// A trailer whose CRC is right and that does not fit the rest: only the checks
// at the end see it.
func TestLyingTrailer(t *testing.T) {
	t.Parallel()
	m := newMem(t)
	s := openStore(t, m)
	ref := makeSnap(t, s, 1, testHead(1), []byte("user"))
	whole := rawFile(t, s, 1, ref)
	body := whole[:len(whole)-trailerLen]
	right := trailer{chunks: 1, userBytes: 4, size: ref.Size, sum: ref.Checksum}
	if !bytes.Equal(appendTrailer(bytes.Clone(body), right), whole) {
		t.Fatal("the trailer is not what this test takes it for")
	}
	chunks, user, huge, sum := right, right, right, right
	chunks.chunks, user.userBytes, huge.userBytes = 2, 5, 1<<62
	sum.sum[0]++
	for _, wrong := range []trailer{chunks, user, huge, sum} {
		ref.Checksum = wrong.sum
		putFile(t, m, s.snapPath(1, ref), appendTrailer(bytes.Clone(body), wrong))
		checkBroken(t, s, ref, "lying trailer")
	}
	// Who allocates what UserSize says must not be made to allocate more than the file.
	ref.Checksum = huge.sum
	putFile(t, m, s.snapPath(1, ref), appendTrailer(bytes.Clone(body), huge))
	var damage *DamageError
	if r, err := s.Open(1, ref); !errors.As(err, &damage) {
		t.Fatalf("opened with %d bytes: %v", r.UserSize(), err)
	}
}

func TestNewerVersions(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	m := newMem(t)
	s := openStore(t, m)
	ref := makeSnap(t, s, 1, testHead(1), []byte("x"))
	b := rawFile(t, s, 1, ref)
	le.PutUint16(b[8:], majorVersion+1)
	le.PutUint32(b[16:], checksum(0, b[:16]))
	putFile(t, m, s.snapPath(1, ref), b)
	if _, err := s.Open(1, ref); !errors.Is(err, ErrNewerFormat) || isDamage(err) {
		t.Fatalf("newer major version: %v", err)
	}
	if err := s.Verify(1, ref); !errors.Is(err, ErrNewerFormat) {
		t.Fatal(err)
	}
	if refs, err := s.List(1); len(refs) != 0 || err != nil {
		t.Fatal(refs, err)
	}

	// A newer minor version may add fields after the state.
	body := append(make([]byte, headFixed), "state, and a field of 1.9"...)
	le.PutUint32(body[68:], 5)
	hdr := header{major: majorVersion, minor: minorVersion + 9, crc: 77}
	piece := le.AppendUint32(body, checksum(77, body))
	if h, err := decodeHead(hdr, piece); err != nil || string(h.State) != "state" {
		t.Fatalf("%q, %v", h.State, err)
	}
	hdr.minor = minorVersion
	if _, err := decodeHead(hdr, piece); err == nil {
		t.Fatal("bytes after the state in a file of our own version")
	}
}

// TestGolden keeps the format as it is: a file of version 1.0 reads for ever.
func TestGolden(t *testing.T) {
	t.Parallel()
	m := newMem(t)
	s := openStore(t, m)
	head, user := testHead(4711), testBytes(1000)
	ref := makeSnap(t, s, 1, head, user)
	golden := filepath.Join("testdata", "v1.0.snap")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		must(t, os.WriteFile(golden, rawFile(t, s, 1, ref), 0o644))
	}
	want, err := os.ReadFile(golden)
	must(t, err)
	if !bytes.Equal(want, rawFile(t, s, 1, ref)) {
		t.Error("what is written is not what version 1.0 wrote: a new version?")
	}
	putFile(t, m, s.snapPath(1, ref), want)
	wantSnap(t, s, 1, ref, head, user)
}

// An unreadable sector is an I/O error, with its cause, and not damage: the file
// may be whole.
func TestReadError(t *testing.T) {
	t.Parallel()
	m := newMem(t)
	s := openStore(t, m)
	ref := makeSnap(t, s, 1, testHead(1), testBytes(2*maxChunk))
	boom := errors.New("EIO")
	for _, from := range []int64{0, 50, 1000, ref.Size - trailerLen} {
		m.SetFault(func(op vfs.Op, _ string, off, _ int64) error {
			if op == vfs.OpRead && off >= from {
				return boom
			}
			return nil
		})
		if err := s.Verify(1, ref); !errors.Is(err, boom) || isDamage(err) {
			t.Fatalf("from %d: %v", from, err)
		}
	}
	if _, err := s.List(1); !errors.Is(err, boom) {
		t.Fatalf("List: %v", err)
	}
	wantNoneOpen(t, m)
}
