package wal

import (
	"errors"
	"strings"
	"testing"

	"github.com/copycat-replication/copycat/internal/vfs"
)

func TestDiskFullAndRoomAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.SegmentSize, o.ReserveBytes = 16<<10, 40<<10 })
	g := r.group()
	r.must(Update{Group: g, Entries: entries(g, 1, 2, 1, 10), HardState: hard(1, 1, 2)})
	r.fs.SetCapacity(r.fs.Used() + 30<<10)
	if err := r.try(Update{Group: g, Entries: entries(g, 3, 3, 1, 10)}); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("below the reserve: %v", err)
	}
	if err := r.log.Health(); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("health: %v", err)
	}
	if err := r.try(Update{Group: g, HardState: hard(2, 3, 2)}); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("what was meant to follow a refused update: %v", err)
	}
	if _, err := r.log.State(g); err != nil { // starts over
		t.Fatal(err)
	}
	r.must(Update{Group: g, HardState: hard(2, 3, 2)}) // votes still go
	r.check(g, 1, 2, 1, 10)
	// Not even a segment fits: nothing goes, nothing is lost, nothing is final.
	r.fs.SetCapacity(r.fs.Used())
	var err error
	term := uint64(2)
	for err == nil {
		term++
		err = r.try(Update{Group: g, HardState: hard(term, 3, 2), Meta: make([]byte, 2000)})
	}
	if !errors.Is(err, ErrDiskFull) || errors.Is(err, ErrFailed) {
		t.Fatalf("no room for a segment: %v", err)
	}
	r.reopen() // opens without a segment to write to
	if err := r.try(Update{Group: g, Meta: []byte("m")}); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("after reopen: %v", err)
	}
	r.fs.SetCapacity(0)
	if err := r.log.Health(); err != nil {
		t.Fatalf("health with room: %v", err)
	}
	r.must(Update{Group: g, Entries: entries(g, 3, 5, term, 10)})
	r.reopen()
	if st, err := r.log.State(g); err != nil || st.LastIndex != 5 || st.HardState.GetTerm() != term-1 {
		t.Fatalf("state %+v, %v", st, err)
	}
}

// TestRefusedUpdateComesFirst: what a group submitted before it heard that
// the disk is full is not made durable before what was refused.
func TestRefusedUpdateComesFirst(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.ReserveBytes = 200 << 10 })
	g, other := r.group(), r.group()
	r.must(Update{Group: g, Entries: entries(g, 1, 2, 1, 10)}, Update{Group: other, Meta: []byte("o")})
	first := Update{Group: g, Entries: entries(g, 3, 4, 2, 10), HardState: hard(2, 1, 2)}
	second := Update{Group: g, Entries: entries(g, 5, 5, 2, 10), HardState: hard(3, 1, 4)}
	r.fs.SetCapacity(r.fs.Used() + 100<<10)
	if err := r.try(first); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("first: %v", err)
	}
	r.fs.SetCapacity(0)
	if err := r.try(second); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("second before first: %v", err)
	}
	r.must(Update{Group: other, HardState: hard(1, 1, 0)})
	r.must(first)
	r.must(second)
	r.check(g, 3, 5, 2, 10)
}

// TestNumbersAfterAFullDisk opens a log that has no groups on a full disk: when
// there is room again, it gives out numbers, although nobody has anything to
// write.
func TestNumbersAfterAFullDisk(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.SegmentSize, o.ReserveBytes = 16<<10, 40<<10 })
	r.fs.SetCapacity(r.fs.Used())
	r.reopen()
	if _, err := r.log.NewGroup(); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("on a full disk: %v", err)
	}
	r.fs.SetCapacity(0)
	if _, err := r.log.NewGroup(); err != nil && !errors.Is(err, ErrNoNumbers) {
		t.Fatal(err)
	}
	if _, err := r.log.Flush(); err != nil {
		t.Fatal(err)
	}
	r.must(Update{Group: r.group(), Meta: []byte("m")})
}

// A log that was begun on a full disk has no group numbers to give, and says
// that the disk is full. Once there is room, the next start has numbers.
func TestNewGroupOnAFullDisk(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	fs.SetCapacity(64 << 10)
	begin := func() *Log {
		t.Helper()
		l, err := Open(Options{FS: fs, Dir: "wal", SegmentSize: 64 << 10, Cold: NewMemCold()})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := begin()
	if _, err := l.NewGroup(); !errors.Is(err, ErrDiskFull) || !strings.Contains(err.Error(), "bytes are free in wal") {
		t.Fatalf("%v, want ErrDiskFull, with how much must be free and where", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	fs.SetCapacity(0)
	l = begin()
	if _, err := l.NewGroup(); err != nil {
		t.Fatalf("with room: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
