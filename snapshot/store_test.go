package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/copycat-replication/copycat/internal/vfs"
	"pgregory.net/rapid"
)

func TestRoundTripSizes(t *testing.T) {
	t.Parallel()
	m := newMem(t)
	s := openStore(t, m)
	for _, size := range []int{0, 1, 100, maxChunk - 1, maxChunk, maxChunk + 1, 3*maxChunk + 17, 9 << 20} {
		head, user := testHead(uint64(size)), testBytes(size)
		ref := makeSnap(t, s, 1, head, user)
		wantSnap(t, s, 1, ref, head, user)
		if got := rawFile(t, s, 1, ref); int64(len(got)) != ref.Size {
			t.Fatalf("file of %d bytes, ref says %d", len(got), ref.Size)
		}
		r, err := s.Open(1, ref)
		must(t, err)
		if r.UserSize() != int64(size) {
			t.Fatalf("user size %d, want %d", r.UserSize(), size)
		}
		if size > 0 && size <= 100 {
			must(t, iotest.TestReader(r, user[:]))
		}
		must(t, r.Close())
		must(t, r.Close())
		if _, err := r.Read(make([]byte, 1)); !errors.Is(err, ErrClosed) {
			t.Fatalf("read after close: %v", err)
		}
	}
	wantNoneOpen(t, m)
}

// The same on the real file system.
func TestRoundTripOS(t *testing.T) {
	t.Parallel()
	s, err := OpenStore(Options{FS: vfs.OS{}, Dir: filepath.ToSlash(t.TempDir()) + "/a/b"})
	must(t, err)
	head, user := testHead(9), testBytes(maxChunk+5)
	ref := makeSnap(t, s, 5, head, user)
	wantSnap(t, s, 5, ref, head, user)
	r, err := s.Open(5, ref)
	must(t, err)
	must(t, s.RemoveGroup(5))
	got, err := io.ReadAll(r) // an open file outlives its name
	must(t, err)
	if !bytes.Equal(got, user) {
		t.Fatal("wrong bytes after removal")
	}
	must(t, r.Close())
}

func TestRoundTripProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		m := newMem(t)
		s := openStore(t, m)
		head := Head{
			Index: rapid.Uint64().Draw(rt, "index"), Term: rapid.Uint64().Draw(rt, "term"), Commits: rapid.Uint64().Draw(rt, "n"),
			Clock: rapid.Int64().Draw(rt, "clock"), Maker: rapid.Uint64().Draw(rt, "maker"),
			State: rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(rt, "state"),
		}
		copy(head.Structure[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(rt, "id"))
		head.Incarnation.Birth, head.Incarnation.Recovery = rapid.Uint64().Draw(rt, "birth"), rapid.Uint32().Draw(rt, "recovery")
		w, err := s.Create(3, head)
		if err != nil {
			rt.Fatal(err)
		}
		var user []byte
		for range rapid.IntRange(0, 4).Draw(rt, "writes") {
			p := testBytes(rapid.OneOf(rapid.IntRange(0, 100), rapid.IntRange(0, 2*maxChunk)).Draw(rt, "size"))
			user = append(user, p...)
			if n, err := w.Write(p); n != len(p) || err != nil {
				rt.Fatal(n, err)
			}
			clear(p) // Write kept nothing
		}
		ref, err := w.Commit()
		if err != nil {
			rt.Fatal(err)
		}
		w.Abort()
		gotHead, gotUser, err := readSnap(s, 3, ref)
		if err != nil || !bytes.Equal(gotUser, user) || !headsEqual(gotHead, head) {
			rt.Fatalf("%+v, %d bytes, %v; want %+v, %d bytes", gotHead, len(gotUser), err, head, len(user))
		}
		if refs, err := s.List(3); err != nil || len(refs) != 1 || refs[0] != ref {
			rt.Fatal(refs, err)
		}
		// After any crash it is there: Commit has returned.
		if err := openStore(t, m.Crash(rapid.Uint64().Draw(rt, "seed"))).Verify(3, ref); err != nil {
			rt.Fatal(err)
		}
	})
}

func TestListAndGroups(t *testing.T) {
	t.Parallel()
	m := newMem(t)
	s := openStore(t, m)
	if refs, err := s.List(1); len(refs) != 0 || err != nil {
		t.Fatal(refs, err)
	}
	a := makeSnap(t, s, 1, testHead(5), []byte("a"))
	b := makeSnap(t, s, 1, testHead(300), []byte("b"))
	c := makeSnap(t, s, 1, testHead(20), []byte("c"))
	other := makeSnap(t, s, 1<<63+2, testHead(1), nil)
	refs, err := s.List(1)
	must(t, err)
	if !slices.Equal(refs, []Ref{b, c, a}) {
		t.Fatalf("listed %v", refs)
	}
	putFile(t, m, s.groupDir(1)+"/"+baseName(a)[:20]+snapSuffix, []byte("no snapshot at all"))
	putFile(t, m, s.groupDir(1)+"/renamed"+snapSuffix, rawFile(t, s, 1, a))
	putFile(t, m, s.groupDir(1)+"/what.part", []byte("x"))
	if refs, err = s.List(1); err != nil || len(refs) != 3 {
		t.Fatal(refs, err)
	}
	must(t, m.MkdirAll(dir+"/nogroup"))
	groups, err := s.Groups()
	must(t, err)
	if !slices.Equal(groups, []uint64{1, 1<<63 + 2}) {
		t.Fatalf("groups %v", groups)
	}
	must(t, s.RemoveGroup(1))
	must(t, s.RemoveGroup(1))
	if _, err := s.Open(1, a); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	if groups, err = s.Groups(); err != nil || !slices.Equal(groups, []uint64{1<<63 + 2}) {
		t.Fatal(groups, err)
	}
	s2 := openStore(t, m.CrashClone(vfs.LoseAll))
	must(t, s2.Verify(1<<63+2, other))
	if groups, err = s2.Groups(); err != nil || len(groups) != 1 {
		t.Fatal(groups, err)
	}
	wantNoneOpen(t, m)
}

// What is half made and nobody works on is removed by kind; complete files stay.
func TestClear(t *testing.T) {
	t.Parallel()
	m := newMem(t)
	s := openStore(t, m)
	must(t, s.ClearTemporary(1))
	must(t, s.ClearPartial(1))
	var refs []Ref
	for n := range uint64(3) {
		refs = append(refs, makeSnap(t, s, 1, testHead(n), testBytes(300)))
	}
	w, err := s.Create(1, testHead(9))
	must(t, err)
	putFile(t, m, s.groupDir(1)+"/make-77.tmp", []byte("x"))
	for _, ref := range refs[:2] {
		rc, err := s.Receive(1, ref)
		must(t, err)
		must(t, rc.Close())
	}
	open, err := s.Receive(1, refs[2])
	must(t, err)
	must(t, s.ClearTemporary(1))
	wantSuffixes(t, s, 1, ".part", ".snap", ".part", ".snap", ".part", ".snap", ".tmp")
	must(t, s.ClearPartial(1, refs[1]))
	wantSuffixes(t, s, 1, ".snap", ".part", ".snap", ".part", ".snap", ".tmp")
	must(t, open.Close())
	_, err = w.Commit()
	must(t, err)
	must(t, s.ClearPartial(1))
	wantSuffixes(t, s, 1, ".snap", ".snap", ".snap", ".snap")
	wantSuffixes(t, openStore(t, m.CrashClone(vfs.LoseAll)), 1, ".snap", ".snap", ".snap", ".snap")
}

func TestRetain(t *testing.T) {
	t.Parallel()
	m := newMem(t)
	s := openStore(t, m)
	must(t, s.Retain(1))
	var refs []Ref
	for n := range uint64(5) {
		refs = append(refs, makeSnap(t, s, 1, testHead(n), testBytes(300)))
	}
	r, err := s.Open(1, refs[0])
	must(t, err)
	w, err := s.Create(1, testHead(9))
	must(t, err)
	// What an earlier process left, and what a cut transfer left.
	putFile(t, m, s.groupDir(1)+"/make-77.tmp", []byte("x"))
	raw := rawFile(t, s, 1, refs[1])
	for _, ref := range []Ref{refs[0], refs[1]} {
		rc, err := s.Receive(1, ref)
		must(t, err)
		_, err = rc.Write(raw[:50])
		must(t, err)
		must(t, rc.Close())
	}
	open, err := s.Receive(1, refs[2])
	must(t, err)
	must(t, s.Retain(1, refs[4], refs[1]))
	wantSuffixes(t, s, 1, ".part", ".snap", ".part", ".snap", ".tmp")
	got, err := io.ReadAll(r)
	must(t, err)
	if !bytes.Equal(got, testBytes(300)) {
		t.Fatal("the reader of a removed snapshot read something else")
	}
	must(t, r.Close())
	must(t, open.Close())
	_, err = w.Commit()
	must(t, err)
	must(t, s.Retain(1, refs[4]))
	list, err := s.List(1)
	must(t, err)
	if !slices.Equal(list, refs[4:]) {
		t.Fatalf("kept %v", list)
	}
	wantSuffixes(t, s, 1, ".snap")
	wantSuffixes(t, openStore(t, m.CrashClone(vfs.LoseAll)), 1, ".snap")
	wantNoneOpen(t, m)
}

func TestSetAside(t *testing.T) {
	t.Parallel()
	m := newMem(t)
	s := openStore(t, m)
	if err := s.SetAside(1, Ref{}); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	var last Ref
	for n := range uint64(12) {
		last = makeSnap(t, s, 1, testHead(n), []byte("x"))
		must(t, m.FlipBit(s.snapPath(1, last), 150, 3))
		if err := s.Verify(1, last); !isDamage(err) {
			t.Fatalf("%v", err)
		}
		must(t, s.SetAside(1, last))
		if _, err := s.Open(1, last); !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
	}
	must(t, s.Retain(1))
	names := files(t, s, 1)
	if len(names) != 2 || !strings.HasPrefix(names[1], fmt.Sprintf("%016x-%s", 12, baseName(last))) {
		t.Fatalf("kept %q", names)
	}
	// The same snapshot can be had again.
	again := makeSnap(t, s, 1, testHead(11), []byte("x"))
	if again != last {
		t.Fatalf("%v, want %v", again, last)
	}
	must(t, s.Verify(1, last))
}

func isDamage(err error) bool {
	var damage *DamageError
	return errors.As(err, &damage)
}

func TestMismatchAndRaw(t *testing.T) {
	t.Parallel()
	m := newMem(t)
	s := openStore(t, m)
	ref := makeSnap(t, s, 1, testHead(1), testBytes(500))
	wrong := ref
	wrong.Maker++
	if _, err := s.Open(1, wrong); !errors.Is(err, ErrMismatch) {
		t.Fatal(err)
	}
	wrong = ref
	wrong.Checksum[9]++
	if _, err := s.Open(1, wrong); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	putFile(t, m, s.snapPath(1, wrong), rawFile(t, s, 1, ref))
	if _, err := s.Open(1, wrong); !isDamage(err) {
		t.Fatal(err)
	}
	want := rawFile(t, s, 1, ref)
	for _, off := range []int64{0, 1, 100, ref.Size - 1, ref.Size} {
		r, err := s.Raw(1, ref, off)
		must(t, err)
		got, err := io.ReadAll(r)
		must(t, err)
		if !bytes.Equal(got, want[off:]) {
			t.Fatalf("raw from %d gave %d bytes", off, len(got))
		}
		must(t, r.Close())
	}
	for _, off := range []int64{-1, ref.Size + 1} {
		if _, err := s.Raw(1, ref, off); err == nil {
			t.Fatalf("raw from %d worked", off)
		}
	}
	if _, err := s.Raw(2, ref, 0); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	wantNoneOpen(t, m)
}

func TestClosed(t *testing.T) {
	t.Parallel()
	m := newMem(t)
	s := openStore(t, m)
	w, err := s.Create(1, testHead(1))
	must(t, err)
	rest, err := s.Create(1, testHead(2))
	must(t, err)
	must(t, s.Close())
	must(t, s.Close())
	_, errCreate := s.Create(1, Head{})
	_, errOpen := s.Open(1, Ref{})
	_, errRaw := s.Raw(1, Ref{}, 0)
	_, errReceive := s.Receive(1, Ref{Size: 1000})
	_, errList := s.List(1)
	_, errGroups := s.Groups()
	_, errCommit := w.Commit()
	for i, err := range []error{errCreate, errOpen, errRaw, errReceive, errList, errGroups, errCommit, s.Verify(1, Ref{}), s.Retain(1), s.ClearTemporary(1), s.ClearPartial(1), s.Confirm(1), s.SetAside(1, Ref{}), s.RemoveGroup(1)} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%d: %v", i, err)
		}
	}
	rest.Abort()
	rest.Abort()
	if _, err := rest.Write([]byte("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("write after abort: %v", err)
	}
	wantSuffixes(t, s, 1)
	wantNoneOpen(t, m)
	if _, err := OpenStore(Options{}); err == nil {
		t.Error("opened a store without a file system")
	}
}

func TestStateTooLarge(t *testing.T) {
	t.Parallel()
	s := openStore(t, newMem(t))
	if _, err := s.Create(1, Head{State: make([]byte, MaxState+1)}); !errors.Is(err, ErrTooLarge) {
		t.Fatal(err)
	}
	head := Head{State: bytes.Repeat([]byte("s"), 3<<20)}
	wantSnap(t, s, 1, makeSnap(t, s, 1, head, []byte("u")), head, []byte("u"))
}

// Many goroutines use one store; the race detector watches. What a Commit
// returned and no Retain may remove is there.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	m := newMem(t)
	s := openStore(t, m)
	user := testBytes(2000)
	shared := makeSnap(t, s, 100, testHead(0), user)
	raw := rawFile(t, s, 100, shared)
	var wg sync.WaitGroup
	for g := range uint64(4) {
		wg.Go(func() {
			for n := range uint64(20) {
				ref := makeSnap(t, s, g, testHead(n), user)
				if err := errors.Join(s.Retain(g, ref), s.Verify(g, ref), s.Verify(100, shared)); err != nil {
					t.Error(err)
				}
				if refs, err := s.List(g); err != nil || len(refs) != 1 {
					t.Error(refs, err)
				}
				rc, err := s.Receive(200, shared)
				if errors.Is(err, ErrReceiving) {
					continue
				}
				if err != nil {
					t.Error(err)
					continue
				}
				_, err = rc.Write(raw[rc.Offset():])
				if n%3 > 0 && err == nil {
					err = rc.Commit()
				}
				if err := errors.Join(err, rc.Close()); err != nil {
					t.Error(err)
				}
				if err := s.Retain(200); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	wantNoneOpen(t, m)
}
