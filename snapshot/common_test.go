package snapshot

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/vfs"
)

const dir = "/data/snapshots"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newMem returns a file system with a durable /data.
func newMem(t testing.TB) *vfs.Mem {
	t.Helper()
	m := vfs.NewMem()
	must(t, vfs.MkdirAllSync(m, "/data"))
	return m
}

func openStore(t testing.TB, fsys vfs.FS) *Store {
	t.Helper()
	s, err := OpenStore(Options{FS: fsys, Dir: dir})
	must(t, err)
	return s
}

func testHead(n uint64) Head {
	return Head{
		Structure:   id.Structure{1, 2, 3, 15: 16},
		Incarnation: id.Incarnation{Birth: 7, Recovery: 2},
		Index:       n + 1000, Term: 3, Commits: n, Clock: -5, Maker: 44,
		State: []byte("members and sessions"),
	}
}

// testBytes returns n bytes that do not compress into anything regular.
func testBytes(n int) []byte {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func makeSnap(t testing.TB, s *Store, group uint64, head Head, user []byte) Ref {
	t.Helper()
	w, err := s.Create(group, head)
	must(t, err)
	defer w.Abort()
	n, err := w.Write(user)
	must(t, err)
	if n != len(user) {
		t.Fatalf("wrote %d of %d", n, len(user))
	}
	ref, err := w.Commit()
	must(t, err)
	return ref
}

func readSnap(s *Store, group uint64, ref Ref) (Head, []byte, error) {
	r, err := s.Open(group, ref)
	if err != nil {
		return Head{}, nil, err
	}
	user, err := io.ReadAll(r)
	return r.Head(), user, errors.Join(err, r.Close())
}

func wantSnap(t testing.TB, s *Store, group uint64, ref Ref, head Head, user []byte) {
	t.Helper()
	gotHead, gotUser, err := readSnap(s, group, ref)
	must(t, err)
	if !bytes.Equal(gotUser, user) {
		t.Fatalf("read %d bytes, which are not the %d that were written", len(gotUser), len(user))
	}
	if !bytes.Equal(gotHead.State, head.State) {
		t.Fatalf("state %q, want %q", gotHead.State, head.State)
	}
	gotHead.State, head.State = nil, nil
	if !headsEqual(gotHead, head) {
		t.Fatalf("head %+v, want %+v", gotHead, head)
	}
	must(t, s.Verify(group, ref))
}

func headsEqual(a, b Head) bool {
	return a.Structure == b.Structure && a.Incarnation == b.Incarnation && a.Index == b.Index && a.Term == b.Term &&
		a.Commits == b.Commits && a.Clock == b.Clock && a.Maker == b.Maker && bytes.Equal(a.State, b.State)
}

// rawFile returns a complete file as it is.
func rawFile(t testing.TB, s *Store, group uint64, ref Ref) []byte {
	t.Helper()
	b, err := vfs.ReadFile(s.fs, s.snapPath(group, ref), 1<<30)
	must(t, err)
	return b
}

func putFile(t testing.TB, fsys vfs.FS, name string, data []byte) {
	t.Helper()
	must(t, vfs.MkdirAllSync(fsys, filepath.ToSlash(filepath.Dir(name))))
	f, err := fsys.Create(name)
	must(t, err)
	_, err = f.WriteAt(data, 0)
	must(t, err)
	must(t, f.Close())
}

// files lists what is in a group's directory.
func files(t testing.TB, s *Store, group uint64) []string {
	t.Helper()
	names, err := s.fs.List(s.groupDir(group))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	must(t, err)
	return names
}

func wantSuffixes(t testing.TB, s *Store, group uint64, want ...string) {
	t.Helper()
	var got []string
	for _, name := range files(t, s, group) {
		got = append(got, filepath.Ext(name))
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Fatalf("files %q, want kinds %q", files(t, s, group), want)
	}
}

func wantNoneOpen(t testing.TB, m *vfs.Mem) {
	t.Helper()
	if open := m.OpenFiles(); len(open) > 0 {
		t.Fatalf("left open: %q", open)
	}
}
