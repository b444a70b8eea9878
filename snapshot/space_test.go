package snapshot

import (
	"errors"
	"testing"

	"github.com/copycat-replication/copycat/internal/vfs"
)

// TestReserve: a large file is refused before it takes what the log store keeps in
// reserve, and nothing of it stays; a small one may take half of that.
func TestReserve(t *testing.T) {
	t.Parallel()
	const reserve = 8 << 20
	_, large, raw := source(t, testBytes(3<<20))
	_, small, rawSmall := source(t, testBytes(reserve/8))
	m := newMem(t)
	s, err := OpenStore(Options{FS: m, Dir: dir, Reserve: reserve})
	must(t, err)
	free := func(n int64) { m.SetCapacity(m.Used() + n) }
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, vfs.ErrNoSpace) {
			t.Fatalf("%s: %v", what, err)
		}
		wantNoneOpen(t, m)
		wantSuffixes(t, s, 2)
	}
	write := func(n int) error {
		w, err := s.Create(2, testHead(1))
		if err != nil {
			return err
		}
		defer w.Abort()
		if _, err := w.Write(testBytes(n)); err != nil {
			return err
		}
		_, err = w.Commit()
		return err
	}

	free(reserve + reserve/4 + large.Size - 1)
	_, err = s.Receive(2, large)
	refused("receive a large one", err)
	free(reserve + reserve/4 + 1<<20)
	refused("write a large one", write(3<<20))
	free(reserve / 2)
	_, err = s.Receive(2, small)
	refused("receive a small one", err)
	refused("write a small one", write(reserve/8))

	// With room it is received. When others take the room meanwhile it stops short of
	// the reserve; and if there is none for the rest, what has come goes.
	free(reserve + reserve/4 + large.Size + vfs.PageSize)
	rc, err := s.Receive(2, large)
	must(t, err)
	_, err = rc.Write(raw[:1<<20])
	must(t, err)
	free(reserve)
	_, err = rc.Write(raw[1<<20 : 2<<20]) // is not looked at
	must(t, err)
	if _, err := rc.Write(raw[2<<20:]); !errors.Is(err, vfs.ErrNoSpace) || rc.Offset() != 2<<20 {
		t.Fatal(rc.Offset(), err)
	}
	must(t, rc.Close())
	wantSuffixes(t, s, 2, ".part")
	_, err = s.Receive(2, large)
	refused("receive the rest", err)

	free(reserve/2 + small.Size + 2*vfs.PageSize)
	rc, err = s.Receive(2, small)
	must(t, err)
	_, err = rc.Write(rawSmall)
	must(t, err)
	must(t, rc.Commit())
	must(t, s.Verify(2, small))
	must(t, s.Retain(2))
	must(t, write(reserve/8))
}

// What others keep on the disk only to be fast is freed before a file is refused.
func TestRoomIsYielded(t *testing.T) {
	t.Parallel()
	const reserve = 8 << 20
	m := newMem(t)
	kept := int64(2 << 20)
	s, err := OpenStore(Options{FS: m, Dir: dir, Reserve: reserve, Yield: func() bool {
		m.SetCapacity(m.Used() + reserve + reserve/4 + kept)
		return kept > 0
	}})
	must(t, err)
	_, large, _ := source(t, testBytes(3<<20))
	m.SetCapacity(m.Used() + reserve)
	if _, err := s.Receive(2, large); !errors.Is(err, vfs.ErrNoSpace) {
		t.Fatalf("what is yielded is too little: %v", err)
	}
	kept = large.Size + vfs.PageSize
	m.SetCapacity(m.Used() + reserve)
	rc, err := s.Receive(2, large)
	must(t, err)
	must(t, rc.Close())
}
