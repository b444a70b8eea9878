package wal

import (
	"path"
	"sync/atomic"

	"github.com/copycat-replication/copycat/internal/vfs"
)

// segment is one file of the log.
type segment struct {
	number uint64
	name   string // base name
	file   vfs.File
	size   int64 // of the file
	end    int64 // where its batches end
	seed   uint32

	// damaged says that not all that was durable in it can be read. Such a file
	// is kept under another name when its turn to go comes. Log.mu, since Open.
	damaged bool

	live      int   // entries in it that some group still needs; Log.mu
	liveBytes int64 // what their records take; Log.mu
	bases     int   // groups whose base it is; Log.mu

	refusals int // how often the disk has refused what was to move out of it; Log.reclaimMu

	refs atomic.Int32 // one for the log itself, one for each read under way
}

func (s *segment) acquire() { s.refs.Add(1) }

// release closes the file when the last user has gone.
func (s *segment) release() error {
	if s.refs.Add(-1) == 0 && s.file != nil {
		return s.file.Close()
	}
	return nil
}

// createSegment makes a segment that starts with head, durable when it
// returns: written under a temporary name, synced, renamed, directory synced.
// So a segment with a broken head is always damage, never a crash.
func createSegment(fs vfs.FS, dir string, head *segmentHead, size int64) (*segment, error) {
	temporary := path.Join(dir, segmentName(head.number)+temporarySuffix)
	f, err := fs.Create(temporary)
	if err != nil {
		return nil, err
	}
	if err := f.Preallocate(size); err != nil {
		_ = f.Close()
		_ = fs.Remove(temporary)
		return nil, err
	}
	return beginSegment(fs, dir, head, f, temporary, size)
}

// beginSegment makes a file of a temporary name, and of a size that has room for
// head, a segment.
func beginSegment(fs vfs.FS, dir string, head *segmentHead, f vfs.File, temporary string, size int64) (*segment, error) {
	content := head.encode()
	s := &segment{number: head.number, name: segmentName(head.number), size: size, end: int64(align(len(content)))}
	s.seed = segmentSeed(head.identity, head.number)
	final := path.Join(dir, s.name)
	if over := len(content) % vfs.DirectBlock; over > 0 { // see padded
		content = append(content, zeros[:min(int64(vfs.DirectBlock-over), size-int64(len(content)))]...)
	}
	vfs.WriteDirectly(f)
	_, err := f.WriteAt(content, 0)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = fs.Rename(temporary, final)
	}
	if err != nil {
		_ = f.Close()
		_ = fs.Remove(temporary)
		return nil, err
	}
	if err := fs.SyncDir(dir); err != nil {
		_ = f.Close()
		return nil, &afterRenameError{err}
	}
	s.file = f
	s.refs.Store(1)
	return s, nil
}

// afterRenameError says that a new segment has its name already, so that
// trying again is not safe.
type afterRenameError struct{ error }

func (e *afterRenameError) Unwrap() error { return e.error }
