package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Confirm makes sure that the names of a group's files survive a crash. A file that
// was found, and not committed by this process, may have got its name from one that
// ended before it had synced the directory: call this before a frame names it.
func (s *Store) Confirm(group uint64) error {
	err := s.checkOpen()
	if err == nil {
		err = s.fs.SyncDir(s.groupDir(group))
	}
	return inGroup(group, "confirm", err)
}

// keepBad is how many set-aside files of a group are kept for whoever wants to
// know what happened to them.
const keepBad = 2

// removeIfThere removes a file; that it is not there is no error.
func (s *Store) removeIfThere(file string) error {
	if err := s.fs.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Retain removes what nobody needs of a group: every complete file that is not
// in keep, whether it checks or not, temporary files that no Writer has open,
// and partial ones that are not in keep and that no Receiver has open. Name a
// snapshot that is still being fetched, or a cut transfer starts over. Files
// that were set aside stay.
//
// A file whose Commit has just returned is removed like any other: for one
// group call Retain and Commit in order. Readers that are open keep their
// files. The removals are synced.
func (s *Store) Retain(group uint64, keep ...Ref) error {
	return inGroup(group, "retain", s.retain(group, keep, snapSuffix, partSuffix, tempSuffix))
}

// ClearTemporary removes the temporary files of a group that no Writer has open: those
// of Writers that did not come to their end.
func (s *Store) ClearTemporary(group uint64) error {
	return inGroup(group, "clear", s.retain(group, nil, tempSuffix))
}

// ClearPartial removes partial files of a group that are not in keep and that no
// Receiver has open. Complete files stay.
func (s *Store) ClearPartial(group uint64, keep ...Ref) error {
	return inGroup(group, "clear", s.retain(group, keep, partSuffix))
}

// retain removes files with these suffixes.
func (s *Store) retain(group uint64, keep []Ref, suffixes ...string) error {
	if err := s.checkOpen(); err != nil {
		return err
	}
	dir := s.groupDir(group)
	wanted := map[string]bool{}
	for _, ref := range keep {
		wanted[baseName(ref)+snapSuffix] = true
		wanted[baseName(ref)+partSuffix] = true
	}
	names, err := s.listDir(dir)
	if err != nil {
		return err
	}
	removed := false
	for _, name := range names {
		if wanted[name] || !slices.Contains(suffixes, path.Ext(name)) {
			continue
		}
		ok, err := s.removeUnused(path.Join(dir, name))
		if err != nil {
			return err
		}
		removed = removed || ok
	}
	if !removed {
		return nil
	}
	return s.fs.SyncDir(dir)
}

// removeUnused removes a file unless somebody writes it. It claims the file
// meanwhile, so that no Receiver goes on with a file that is about to go.
func (s *Store) removeUnused(file string) (bool, error) {
	ok, err := s.claim(file)
	if !ok || err != nil {
		return false, err
	}
	defer s.unclaim(file)
	return true, s.removeIfThere(file)
}

// SetAside renames a file that failed its check, so that it is not found under
// its Ref any more and can be fetched again. It is kept for a look at it, two of
// a group at most: the oldest goes. ErrNotFound if there is no such file.
func (s *Store) SetAside(group uint64, ref Ref) error {
	return inGroup(group, "set aside", s.setAside(group, ref))
}

func (s *Store) setAside(group uint64, ref Ref) error {
	if err := s.checkOpen(); err != nil {
		return err
	}
	dir, file := s.groupDir(group), s.snapPath(group, ref)
	names, err := s.listDir(dir)
	if err != nil {
		return err
	}
	type aside struct {
		number uint64
		name   string
	}
	var bad []aside
	next := uint64(1)
	for _, name := range names {
		if n, ok := badNumber(name); ok {
			bad = append(bad, aside{n, name})
			next = max(next, n+1)
		}
	}
	to := path.Join(dir, fmt.Sprintf("%016x-%s%s", next, baseName(ref), badSuffix))
	if err := s.fs.Rename(file, to); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %v", ErrNotFound, ref)
	} else if err != nil {
		return err
	}
	s.logger.Warn("snapshot set aside", "group", group, "snapshot", ref.String(), "file", to)
	// List is sorted, and the numbers have a fixed width: oldest first.
	for ; len(bad) >= keepBad; bad = bad[1:] {
		if err := s.removeIfThere(path.Join(dir, bad[0].name)); err != nil {
			return err
		}
	}
	return s.fs.SyncDir(dir)
}

// badNumber returns the number at the start of a set-aside file's name.
func badNumber(name string) (uint64, bool) {
	number, _, ok := strings.Cut(name, "-")
	if !ok || !strings.HasSuffix(name, badSuffix) || len(number) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(number, 16, 64)
	return n, err == nil
}

// RemoveGroup removes everything of a group, set-aside files too. Readers that
// are open keep their files; Writers and Receivers of the group fail.
func (s *Store) RemoveGroup(group uint64) error {
	if err := s.checkOpen(); err != nil {
		return inGroup(group, "remove", err)
	}
	err := s.fs.RemoveAll(s.groupDir(group))
	if err == nil {
		err = s.fs.SyncDir(s.dir)
	}
	return inGroup(group, "remove", err)
}
