package vfs

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// countingFile notes how far it was written.
type countingFile struct {
	*os.File
	end   int64
	zeros int   // written ahead
	fail  error // of writes of zeros alone
}

func (c *countingFile) writeZeros(off, end int64) (int, error) {
	n, err := writePieces(c, off, end, aheadPiece)
	c.zeros += n
	return n, err
}

func (c *countingFile) WriteAt(p []byte, off int64) (int, error) {
	if c.fail != nil && bytes.Count(p, []byte{0}) == len(p) {
		return 0, c.fail
	}
	c.end = max(c.end, off+int64(len(p)))
	return c.File.WriteAt(p, off)
}

// What is written ahead cannot be told from what was reserved: whatever the
// order of the writes, the file holds what was written and zeros.
func TestAheadKeepsWhatIsWritten(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		name := filepath.Join(t.TempDir(), "f")
		f, err := os.Create(name)
		must(t, err)
		must(t, f.Truncate(size))
		to, want := &countingFile{File: f}, make([]byte, size)
		var a ahead
		a.begin(size)
		at := int64(0)
		for range 200 {
			n := random.Int64N(1000) + 1
			if random.IntN(10) == 0 {
				n = random.Int64N(2 * aheadBelow)
			}
			if random.IntN(20) == 0 {
				at = random.Int64N(size) // somewhere else
			}
			if n = min(n, size-at); n == 0 {
				break
			}
			p := bytes.Repeat([]byte{byte(random.IntN(255) + 1)}, int(n))
			got, err := a.write(to, p, at)
			if err != nil || got != len(p) {
				t.Fatalf("seed %d: %d of %d bytes at %d: %v", seed, got, n, at, err)
			}
			copy(want[at:], p)
			at += n
		}
		got, err := os.ReadFile(name)
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Fatalf("seed %d: another content, %d bytes of %d", seed, len(got), size)
		}
		must(t, f.Close())
	}
}

// Small writes have zeros behind them, in few steps and never beyond what was
// reserved; large ones have none.
func TestAheadOfSmallWrites(t *testing.T) {
	t.Parallel()
	const size = 1<<20 + 100
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	must(t, err)
	defer f.Close()
	to := &countingFile{File: f}
	var a ahead
	a.begin(size)
	steps := 0
	for at := int64(0); at < size; at += 100 {
		before := to.zeros
		n, err := a.write(to, bytes.Repeat([]byte{1}, int(min(100, size-at))), at)
		if err != nil || n == 0 || to.end > size || to.end < min(size, at+int64(n)) {
			t.Fatalf("at %d: %d bytes, %d zeros up to %d: %v", at, n, to.zeros-before, to.end, err)
		}
		if to.zeros > before {
			steps++
		}
	}
	if steps < 4 || steps > 8 || to.end != size {
		t.Errorf("%d steps up to %d", steps, to.end)
	}

	to.end, to.zeros = 0, 0
	a.begin(size)
	if _, err := a.write(to, make([]byte, aheadBelow), 0); to.zeros != 0 || err != nil || to.end != aheadBelow {
		t.Errorf("%d zeros behind a large write: %v", to.zeros, err)
	}
}

// That zeros cannot be written is no error of the write before them.
func TestAheadFails(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	must(t, err)
	defer f.Close()
	to := &countingFile{File: f, fail: errors.New("full")}
	var a ahead
	a.begin(1 << 20)
	for at := range int64(3) {
		if n, err := a.write(to, []byte{1}, at); n != 1 || to.zeros != 0 || err != nil {
			t.Fatalf("%d bytes, %d zeros: %v", n, to.zeros, err)
		}
	}
	if a.limit != 0 {
		t.Error("it goes on")
	}
}

// A file of the system has zeros written ahead where that helps, and never one
// that had something in it before.
func TestPreallocatedAhead(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "f")
	f, err := OS{}.Create(name)
	must(t, err)
	must(t, f.Preallocate(1<<20))
	_, err = f.WriteAt([]byte("one"), 0)
	must(t, err)
	must(t, f.SyncData())
	must(t, f.Close())
	again, err := OS{}.OpenReadWrite(name)
	must(t, err)
	must(t, again.Preallocate(1<<20))
	if a := &again.(*osFile).ahead; a.limit != 0 {
		t.Error("a file with something in it is written ahead")
	}
	got, err := io.ReadAll(io.NewSectionReader(again, 0, 2<<20))
	must(t, err)
	if len(got) != 1<<20 || !bytes.HasPrefix(got, []byte("one\x00")) || bytes.Count(got, []byte{0}) != 1<<20-3 {
		t.Errorf("%d bytes, starting with %q", len(got), got[:4])
	}
	must(t, again.Close())
}
