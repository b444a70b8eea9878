package wal

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/copycat-replication/copycat/internal/vfs"
	"go.etcd.io/raft/v3/raftpb"
)

// entry makes one entry whose data tells what it is.
func entry(group, index, term uint64, size int) *raftpb.Entry {
	data := bytes.Repeat([]byte(fmt.Sprintf("%d/%d/%d.", group, index, term)), size/4+1)[:size]
	typ := raftpb.EntryNormal
	return &raftpb.Entry{Index: &index, Term: &term, Type: &typ, Data: data}
}

func entries(group, from, to, term uint64, size int) []*raftpb.Entry {
	var list []*raftpb.Entry
	for i := from; i <= to; i++ {
		list = append(list, entry(group, i, term, size))
	}
	return list
}

func hard(term, vote, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: &term, Vote: &vote, Commit: &commit}
}

// rig is a log on a file system in memory, flushed by hand.
type rig struct {
	t    testing.TB
	fs   *vfs.Mem
	cold *MemCold
	opts Options
	log  *Log
}

func newRig(t testing.TB, change ...func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, fs: vfs.NewMem(), cold: NewMemCold()}
	r.opts = Options{Dir: "/data/wal", SegmentSize: 64 << 10, ReserveBytes: 1, Entropy: bytes.NewReader([]byte("identity"))}
	for _, f := range change {
		f(&r.opts)
	}
	r.open()
	t.Cleanup(func() {
		if r.log != nil {
			_ = r.log.Close()
		}
	})
	return r
}

func (r *rig) tryOpen() (*Log, error) {
	o := r.opts
	o.FS, o.Cold = r.fs, r.cold
	return Open(o)
}

func (r *rig) open() {
	r.t.Helper()
	l, err := r.tryOpen()
	if err != nil {
		r.t.Fatalf("open: %v", err)
	}
	r.log = l
}

// reopen closes in order and opens again.
func (r *rig) reopen() {
	r.t.Helper()
	if err := r.log.Close(); err != nil {
		r.t.Fatalf("close: %v", err)
	}
	r.open()
}

// crash loses what was not synced and opens what is left.
func (r *rig) crash(fate func(vfs.Unsynced) vfs.Fate) {
	r.t.Helper()
	r.fs, r.cold = r.fs.CrashClone(fate), r.cold.Crash()
	r.open()
}

// try submits and flushes, and returns what done said.
func (r *rig) try(updates ...Update) error {
	r.t.Helper()
	var result error
	called := 0
	r.log.Submit(updates, func(err error) { called++; result = err })
	for {
		n, _ := r.log.Flush()
		if n == 0 {
			break
		}
	}
	if called != 1 {
		r.t.Fatalf("done was called %d times", called)
	}
	return result
}

func (r *rig) must(updates ...Update) {
	r.t.Helper()
	if err := r.try(updates...); err != nil {
		r.t.Fatalf("submit: %v", err)
	}
}

func (r *rig) group() uint64 {
	r.t.Helper()
	n, err := r.log.NewGroup()
	if err != nil {
		r.t.Fatalf("new group: %v", err)
	}
	return n
}

// check compares what is stored with entries from..to of one term.
func (r *rig) check(group, from, to, term uint64, size int) {
	r.t.Helper()
	got, err := r.all(group, from, to+1)
	if err != nil {
		r.t.Fatalf("entries %d..%d of group %d: %v", from, to, group, err)
	}
	for i, e := range got {
		want := entry(group, from+uint64(i), term, size)
		if e.GetIndex() != want.GetIndex() || e.GetTerm() != term || !bytes.Equal(e.Data, want.Data) {
			r.t.Fatalf("group %d: entry %d is %v, want %v", group, from+uint64(i), e, want)
		}
	}
	last, err := r.log.LastIndex(group)
	if err != nil || last != to {
		r.t.Fatalf("last index of group %d is %d (%v), want %d", group, last, err, to)
	}
}

// all reads a range that may take several calls.
func (r *rig) all(group, lo, hi uint64) ([]*raftpb.Entry, error) {
	var list []*raftpb.Entry
	for lo < hi {
		got, err := r.log.Entries(group, lo, hi, math.MaxUint64)
		if err != nil {
			return nil, err
		}
		list = append(list, got...)
		lo += uint64(len(got))
	}
	return list, nil
}

func TestReopen(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g := r.group()
	r.must(Update{Group: g, Entries: entries(g, 1, 10, 1, 100), HardState: hard(1, 2, 7), Meta: []byte("meta")})
	for range 3 {
		r.check(g, 1, 10, 1, 100)
		st, err := r.log.State(g)
		if err != nil || string(st.Meta) != "meta" || st.HardState.GetVote() != 2 || st.HardState.GetCommit() != 7 || st.LastIndex != 10 {
			t.Fatalf("state %+v, %v", st, err)
		}
		r.reopen()
	}
	if n := r.group(); n <= g {
		t.Fatalf("group number %d again", n)
	}
	if s := r.log.Suspects(); len(s) != 0 {
		t.Fatalf("suspects %v", s)
	}
}

func TestOverwrite(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g := r.group()
	r.must(Update{Group: g, Entries: entries(g, 1, 10, 1, 10), HardState: hard(1, 0, 3)})
	r.must(Update{Group: g, Entries: entries(g, 5, 7, 2, 10)})
	for range 2 {
		if term, err := r.log.Term(g, 4); term != 1 || err != nil {
			t.Fatalf("term %d, %v", term, err)
		}
		r.check(g, 5, 7, 2, 10)
		if _, err := r.log.Entries(g, 5, 9, 1000); !errors.Is(err, ErrUnavailable) {
			t.Fatalf("beyond the end: %v", err)
		}
		if err := r.try(Update{Group: g, Entries: entries(g, 3, 3, 3, 10)}); !errors.Is(err, ErrInvalid) {
			t.Fatalf("overwrite of a committed entry: %v", err)
		}
		if err := r.try(Update{Group: g, Entries: entries(g, 9, 9, 3, 10)}); !errors.Is(err, ErrInvalid) {
			t.Fatalf("gap: %v", err)
		}
		r.reopen()
	}
}
