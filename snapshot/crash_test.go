package snapshot

import (
	"errors"
	"fmt"
	"testing"

	"github.com/copycat-replication/copycat/internal/vfs"
)

// crashPoints runs work on a fresh store, once for each step that it takes on
// the file system, crashes before that step (with several fates), and lets
// check look at what a machine would find.
func crashPoints(t *testing.T, prepare, work func(s *Store), check func(s *Store, what string)) {
	t.Helper()
	for at := 0; ; at++ {
		m := newMem(t)
		s := openStore(t, m)
		prepare(s)
		var clones []*vfs.Mem
		steps := 0
		m.SetFault(func(op vfs.Op, _ string, _, _ int64) error {
			if op == vfs.OpRead || op == vfs.OpOpen || op == vfs.OpList {
				return nil
			}
			if steps == at {
				clones = append(clones, m.CrashClone(vfs.LoseAll), m.CrashClone(vfs.KeepAll))
				for seed := range uint64(4) {
					clones = append(clones, m.Crash(seed+uint64(at)*100))
				}
			}
			steps++
			return nil
		})
		work(s)
		m.SetFault(nil)
		if len(clones) == 0 {
			if at < 5 {
				t.Fatalf("only %d steps", at)
			}
			return
		}
		for i, clone := range clones {
			check(openStore(t, clone), fmt.Sprintf("step %d, fate %d", at, i))
			wantNoneOpen(t, clone)
		}
	}
}

// A snapshot is there whole or not at all, whatever step the power fails at,
// and the one before it is not touched.
func TestCrashWhileWriting(t *testing.T) {
	t.Parallel()
	oldHead, newHead, user := testHead(1), testHead(2), testBytes(maxChunk+4000)
	var old Ref
	crashPoints(t,
		func(s *Store) { old = makeSnap(t, s, 1, oldHead, user) },
		func(s *Store) { makeSnap(t, s, 1, newHead, user) },
		func(s *Store, what string) {
			refs, err := s.List(1)
			must(t, err)
			if len(refs) == 0 || refs[len(refs)-1] != old || len(refs) > 2 {
				t.Fatalf("%s: %v", what, refs)
			}
			for _, ref := range refs {
				if err := s.Verify(1, ref); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
			}
			must(t, s.Retain(1, old))
			wantSuffixes(t, s, 1, ".snap")
			wantSnap(t, s, 1, old, oldHead, user)
			makeSnap(t, s, 1, newHead, user)
		})
}

// A transfer goes on after any crash, and gives the right file.
func TestCrashWhileReceiving(t *testing.T) {
	t.Parallel()
	src := openStore(t, newMem(t))
	head, user := testHead(1), testBytes(maxChunk+4000)
	ref := makeSnap(t, src, 1, head, user)
	raw := rawFile(t, src, 1, ref)
	resumed := 0
	receive := func(s *Store, piece int) {
		rc, err := s.Receive(9, ref)
		must(t, err)
		defer rc.Close()
		if rc.Offset() > 0 {
			resumed++
		}
		for rc.Offset() < ref.Size {
			off := rc.Offset()
			_, err := rc.Write(raw[off:min(off+int64(piece), ref.Size)])
			must(t, err)
		}
		must(t, rc.Commit())
	}
	crashPoints(t, func(*Store) {}, func(s *Store) { receive(s, 50000) },
		func(s *Store, what string) {
			refs, err := s.List(9)
			must(t, err)
			for _, got := range refs {
				if got != ref {
					t.Fatalf("%s: %v", what, got)
				}
				must(t, s.Verify(9, ref))
			}
			receive(s, 300000)
			wantSnap(t, s, 9, ref, head, user)
			must(t, s.Retain(9, ref))
			wantSuffixes(t, s, 9, ".snap")
		})
	if resumed == 0 {
		t.Error("no crash left anything to go on from")
	}
}

// Whatever step of the clean-up the power fails at, what was to be kept is there.
func TestCrashWhileCleaningUp(t *testing.T) {
	t.Parallel()
	head, user := testHead(3), testBytes(100)
	var keep, bad Ref
	crashPoints(t,
		func(s *Store) {
			makeSnap(t, s, 1, testHead(1), user)
			bad = makeSnap(t, s, 1, testHead(2), user)
			keep = makeSnap(t, s, 1, head, user)
			makeSnap(t, s, 2, head, user)
		},
		func(s *Store) {
			must(t, s.SetAside(1, bad))
			must(t, s.Retain(1, keep))
			must(t, s.RemoveGroup(2))
		},
		func(s *Store, _ string) {
			wantSnap(t, s, 1, keep, head, user)
			must(t, s.Retain(1, keep))
			must(t, s.RemoveGroup(2))
			groups, err := s.Groups()
			must(t, err)
			if len(groups) != 1 {
				t.Fatalf("groups %v", groups)
			}
		})
}

// Each step fails once: nothing half-made has a final name, no file is open,
// and the next attempt works.
func TestEveryStepFails(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for at := 0; ; at++ {
		m := newMem(t)
		s := openStore(t, m)
		old := makeSnap(t, s, 1, testHead(1), testBytes(100))
		steps, failed := 0, vfs.Op(0)
		m.SetFault(func(op vfs.Op, name string, _, _ int64) error {
			steps++
			if steps-1 == at {
				failed = op
				return fmt.Errorf("%s %s: %w", op, name, boom)
			}
			return nil
		})
		w, err := s.Create(1, testHead(2))
		if err == nil {
			_, err = w.Write(testBytes(maxChunk + 100))
			if err == nil {
				_, err = w.Commit()
			}
			w.Abort()
		}
		m.SetFault(nil)
		if failed == 0 {
			must(t, err)
			return
		}
		if !errors.Is(err, boom) {
			t.Fatalf("step %d (%v) failed, and the error is %v", at, failed, err)
		}
		wantNoneOpen(t, m)
		refs, err := s.List(1)
		must(t, err)
		for _, ref := range refs {
			must(t, s.Verify(1, ref))
		}
		if len(refs) > 1 && failed != vfs.OpSyncDir {
			t.Fatalf("step %d (%v): a snapshot that failed is there", at, failed)
		}
		must(t, s.Retain(1, old))
		wantSuffixes(t, s, 1, ".snap")
		makeSnap(t, s, 1, testHead(2), testBytes(maxChunk+100))
	}
}

// A process that ends between the rename and the sync of the directory leaves a file
// that the next one finds, and that a power cut may still take: until it is confirmed.
func TestConfirm(t *testing.T) {
	t.Parallel()
	m := newMem(t)
	s := openStore(t, m)
	old := makeSnap(t, s, 1, testHead(1), []byte("old"))
	w, err := s.Create(1, testHead(2))
	must(t, err)
	_, err = w.Write([]byte("new"))
	must(t, err)
	m.SetFault(func(op vfs.Op, _ string, _, _ int64) error {
		if op == vfs.OpSyncDir {
			return errors.New("EIO")
		}
		return nil
	})
	if _, err := w.Commit(); err == nil {
		t.Fatal("committed without a sync")
	}
	if err := s.Confirm(1); err == nil {
		t.Fatal("confirmed without a sync")
	}
	m.SetFault(nil)
	s = openStore(t, m)
	refs, err := s.List(1)
	must(t, err)
	if len(refs) != 2 || refs[1] != old {
		t.Fatalf("found %v", refs)
	}
	found := refs[0]
	if err := openStore(t, m.CrashClone(vfs.LoseAll)).Verify(1, found); !errors.Is(err, ErrNotFound) {
		t.Fatalf("a name that was not synced: %v", err) // or this test shows nothing
	}
	must(t, s.Confirm(1))
	must(t, openStore(t, m.CrashClone(vfs.LoseAll)).Verify(1, found))
}

// On a full disk nothing half-made has a name, temporary ones included, and the
// space comes back.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	user := testBytes(3 * maxChunk)
	for pages := int64(0); ; pages += 7 {
		m := newMem(t)
		s := openStore(t, m)
		old := makeSnap(t, s, 1, testHead(1), []byte("old"))
		before := m.Used()
		m.SetCapacity(before + pages*vfs.PageSize)
		var err error
		w, errCreate := s.Create(1, testHead(2))
		if errCreate != nil {
			err = errCreate
		} else {
			_, errWrite := w.Write(user)
			_, errCommit := w.Commit()
			err = errors.Join(errWrite, errCommit)
			if errWrite != nil && !errors.Is(errCommit, vfs.ErrNoSpace) {
				t.Fatalf("Commit after a failed Write: %v", errCommit)
			}
		}
		if err == nil {
			if pages < 3*maxChunk/vfs.PageSize {
				t.Fatalf("fitted into %d pages", pages)
			}
			return
		}
		if !errors.Is(err, vfs.ErrNoSpace) {
			t.Fatal(err)
		}
		wantSuffixes(t, s, 1, ".snap")
		must(t, s.Verify(1, old))
		if m.Used() != before {
			t.Fatalf("%d bytes used, %d before", m.Used(), before)
		}
		wantNoneOpen(t, m)
	}
}
