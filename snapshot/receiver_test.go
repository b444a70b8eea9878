package snapshot

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/copycat-replication/copycat/internal/vfs"
	"pgregory.net/rapid"
)

// source returns a store with one snapshot, and its file.
func source(t testing.TB, user []byte) (*Store, Ref, []byte) {
	t.Helper()
	s := openStore(t, newMem(t))
	ref := makeSnap(t, s, 1, testHead(1), user)
	return s, ref, rawFile(t, s, 1, ref)
}

func receiveFrom(t testing.TB, src, dst *Store, ref Ref) {
	t.Helper()
	rc, err := dst.Receive(2, ref)
	must(t, err)
	defer rc.Close()
	raw, err := src.Raw(1, ref, rc.Offset())
	must(t, err)
	defer raw.Close()
	_, err = io.Copy(rc, raw)
	must(t, err)
	must(t, rc.Commit())
	must(t, rc.Close())
}

// The transfer is cut after every number of bytes, and goes on.
func TestResumeAfterEveryCut(t *testing.T) {
	t.Parallel()
	user := testBytes(300)
	src, ref, raw := source(t, user)
	for cut := range raw {
		m := newMem(t)
		dst := openStore(t, m)
		rc, err := dst.Receive(2, ref)
		must(t, err)
		_, err = rc.Write(raw[:cut])
		must(t, err)
		if err := rc.Commit(); !errors.Is(err, ErrIncomplete) {
			t.Fatalf("commit after %d bytes: %v", cut, err)
		}
		must(t, rc.Close())
		if cut%2 == 1 {
			dst = openStore(t, m.Crash(uint64(cut)))
		}
		rc, err = dst.Receive(2, ref)
		must(t, err)
		if rc.Offset() > int64(cut) {
			t.Fatalf("goes on at %d after %d bytes", rc.Offset(), cut)
		}
		must(t, rc.Close())
		receiveFrom(t, src, dst, ref)
		wantSnap(t, dst, 2, ref, testHead(1), user)
		wantSuffixes(t, dst, 2, ".snap")
		wantNoneOpen(t, m)
	}
}

// A resume keeps whole chunks.
func TestResumeKeepsChunks(t *testing.T) {
	t.Parallel()
	src, ref, raw := source(t, testBytes(5*maxChunk))
	dst := openStore(t, newMem(t))
	rc, err := dst.Receive(2, ref)
	must(t, err)
	_, err = rc.Write(raw[:len(raw)/2])
	must(t, err)
	must(t, rc.Close())
	if _, err := rc.Write(raw); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	rc, err = dst.Receive(2, ref)
	must(t, err)
	if lost := int64(len(raw)/2) - rc.Offset(); lost < 0 || lost > maxChunk+chunkHeader {
		t.Fatalf("goes on at %d of %d", rc.Offset(), len(raw)/2)
	}
	must(t, rc.Close())
	receiveFrom(t, src, dst, ref)
	must(t, dst.Verify(2, ref))
}

func TestReceiveProperty(t *testing.T) {
	t.Parallel()
	user := testBytes(maxChunk + 999)
	src, ref, raw := source(t, user)
	rapid.Check(t, func(rt *rapid.T) {
		m := newMem(t)
		dst := openStore(t, m)
		for attempt := 0; ; attempt++ {
			rc, err := dst.Receive(2, ref)
			if err != nil {
				rt.Fatal(err)
			}
			for range rapid.IntRange(1, 5).Draw(rt, "pieces") {
				off := rc.Offset()
				n := int64(rapid.OneOf(rapid.IntRange(0, 50), rapid.IntRange(0, 2*maxChunk)).Draw(rt, "n"))
				if attempt > 4 {
					n = ref.Size
				}
				if _, err := rc.Write(raw[off:min(off+n, ref.Size)]); err != nil {
					rt.Fatal(err)
				}
			}
			if rc.Offset() == ref.Size {
				if err := rc.Commit(); err != nil {
					rt.Fatal(err)
				}
				break
			}
			if err := rc.Close(); err != nil {
				rt.Fatal(err)
			}
			switch rapid.IntRange(0, 5).Draw(rt, "then") {
			case 0:
				m = m.Crash(rapid.Uint64().Draw(rt, "seed"))
				dst = openStore(t, m)
			case 1:
				receiveFrom(t, src, dst, ref)
			}
		}
		if err := dst.Verify(2, ref); err != nil {
			rt.Fatal(err)
		}
		if err := openStore(t, m.CrashClone(vfs.LoseAll)).Verify(2, ref); err != nil {
			rt.Fatalf("Commit returned, and after a crash: %v", err)
		}
		wantNoneOpen(t, m)
	})
}

// What is left over may be longer than the file.
func TestResumeCutsOff(t *testing.T) {
	t.Parallel()
	src, ref, raw := source(t, testBytes(300))
	dst := openStore(t, newMem(t))
	putFile(t, dst.fs, dst.partPath(2, ref), append(bytes.Clone(raw), "and more"...))
	receiveFrom(t, src, dst, ref)
	must(t, dst.Verify(2, ref))
}

func TestReceiveTwice(t *testing.T) {
	t.Parallel()
	src, ref, _ := source(t, []byte("x"))
	m := newMem(t)
	dst := openStore(t, m)
	rc, err := dst.Receive(2, ref)
	must(t, err)
	if _, err := dst.Receive(2, ref); !errors.Is(err, ErrReceiving) {
		t.Fatal(err)
	}
	other, err := dst.Receive(3, ref) // another group's is its own
	must(t, err)
	must(t, other.Close())
	must(t, rc.Close())
	receiveFrom(t, src, dst, ref)
	receiveFrom(t, src, dst, ref) // what is there already is replaced
	must(t, dst.Verify(2, ref))
	wantNoneOpen(t, m)
}

// A flipped bit anywhere in the transfer is noticed, and no file gets the name.
// However often that happens, a right transfer works afterwards.
func TestReceiveDamaged(t *testing.T) {
	t.Parallel()
	src, ref, raw := source(t, testBytes(150))
	m := newMem(t)
	dst := openStore(t, m)
	for off := range raw {
		for _, bit := range []int{0, 7} {
			bad := bytes.Clone(raw)
			bad[off] ^= 1 << bit
			rc, err := dst.Receive(2, ref)
			must(t, err)
			from := rc.Offset()
			_, err = rc.Write(bad[from:])
			commit := rc.Commit()
			if int64(off) < from {
				must(t, commit)
				continue
			}
			for _, err := range []error{err, commit} {
				if !errors.Is(err, ErrMismatch) && !errors.Is(err, ErrNewerFormat) {
					t.Fatalf("flip at %d: %v", off, err)
				}
			}
			wantSuffixes(t, dst, 2)
			must(t, rc.Close())
		}
	}
	// The same, with what checked kept for a resume.
	for off := range raw {
		bad := bytes.Clone(raw)
		bad[off] ^= 4
		for range 2 {
			rc, err := dst.Receive(2, ref)
			must(t, err)
			if int64(off) >= rc.Offset() {
				if _, err = rc.Write(bad[rc.Offset():]); err == nil {
					t.Fatalf("flip at %d taken", off)
				}
			}
			must(t, rc.Close())
		}
	}
	receiveFrom(t, src, dst, ref)
	must(t, dst.Verify(2, ref))
	wantNoneOpen(t, m)
}

// A peer serves another snapshot, or the start of one: the transfer fails, and
// does not stay stuck behind what it left.
func TestReceiveWrongFile(t *testing.T) {
	t.Parallel()
	src, ref, raw := source(t, testBytes(2*maxChunk))
	wrongHead := testHead(1)
	wrongHead.Maker++
	other := testBytes(2 * maxChunk)
	other[0]++
	short := testBytes(2*maxChunk - chunkHeader - 4) // leaves no room for a chunk
	variants := map[string][]byte{}
	for name, v := range map[string]struct {
		head Head
		user []byte
	}{"head": {wrongHead, testBytes(2 * maxChunk)}, "bytes": {testHead(1), other}, "length": {testHead(1), short}} {
		s := openStore(t, newMem(t))
		variants[name] = rawFile(t, s, 1, makeSnap(t, s, 1, v.head, v.user))
	}
	variants["too long"] = append(bytes.Clone(raw), 1)
	for name, wrong := range variants {
		for _, closeIt := range []bool{true, false} {
			m := newMem(t)
			dst := openStore(t, m)
			failures := 0
			for range 3 {
				rc, err := dst.Receive(2, ref)
				must(t, err)
				_, err = rc.Write(wrong[min(rc.Offset(), int64(len(wrong))):])
				if err == nil && rc.Offset() < ref.Size {
					_, err = rc.Write(raw[rc.Offset():]) // another holder goes on
				}
				if err != nil {
					failures++
					if !errors.Is(err, ErrMismatch) {
						t.Fatalf("%s: %v", name, err)
					}
				}
				if !closeIt {
					if err := rc.Commit(); !errors.Is(err, ErrMismatch) {
						t.Fatalf("%s: commit: %v", name, err)
					}
					wantSuffixes(t, dst, 2)
				}
				must(t, rc.Close())
			}
			if failures == 0 {
				t.Fatalf("%s: taken", name)
			}
			// At most one more attempt fails because of what is left.
			rc, err := dst.Receive(2, ref)
			must(t, err)
			_, err = rc.Write(raw[rc.Offset():])
			must(t, rc.Close())
			if err != nil {
				rc, err = dst.Receive(2, ref)
				must(t, err)
				if rc.Offset() != 0 {
					t.Fatalf("%s: still goes on at %d", name, rc.Offset())
				}
				must(t, rc.Close())
			}
			receiveFrom(t, src, dst, ref)
			must(t, dst.Verify(2, ref))
			wantNoneOpen(t, m)
		}
	}
	if _, err := openStore(t, newMem(t)).Receive(2, Ref{Size: 10}); !errors.Is(err, ErrMismatch) {
		t.Fatal(err)
	}
}

// A full disk is not for good: the transfer goes on when there is room.
func TestReceiveDiskFull(t *testing.T) {
	t.Parallel()
	_, ref, raw := source(t, testBytes(2*maxChunk))
	m := newMem(t)
	dst := openStore(t, m)
	m.SetCapacity(20 * vfs.PageSize)
	rc, err := dst.Receive(2, ref)
	must(t, err)
	n, err := rc.Write(raw)
	if !errors.Is(err, vfs.ErrNoSpace) || n != 20*vfs.PageSize || rc.Offset() != int64(n) {
		t.Fatal(n, rc.Offset(), err)
	}
	m.SetCapacity(0)
	_, err = rc.Write(raw[rc.Offset():])
	must(t, err)
	must(t, rc.Commit())
	must(t, dst.Verify(2, ref))
}

// After a failed sync nothing of the file can be trusted, readable or not.
func TestReceiveFailedSync(t *testing.T) {
	t.Parallel()
	_, ref, raw := source(t, testBytes(9<<20))
	m := newMem(t)
	dst := openStore(t, m)
	boom := errors.New("EIO")
	m.SetFault(func(op vfs.Op, _ string, _, _ int64) error {
		if op == vfs.OpSync {
			return boom
		}
		return nil
	})
	rc, err := dst.Receive(2, ref)
	must(t, err)
	for piece := range slices.Chunk(raw[:len(raw)-1], 100<<10) { // an end is not needed to notice
		if _, err = rc.Write(piece); err != nil {
			break
		}
	}
	if !errors.Is(err, boom) || rc.Offset() > 3*writeBackPiece {
		t.Fatal(rc.Offset(), err)
	}
	if err := rc.Commit(); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	must(t, rc.Close())
	wantSuffixes(t, dst, 2)
	rc, err = dst.Receive(2, ref)
	must(t, err)
	for rc.Offset() < ref.Size && err == nil {
		_, err = rc.Write(raw[rc.Offset():min(rc.Offset()+1<<20, ref.Size)])
	}
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	wantSuffixes(t, dst, 2)
	wantNoneOpen(t, m)
}
