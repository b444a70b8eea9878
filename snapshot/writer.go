package snapshot

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"path"

	"github.com/copycat-replication/copycat/internal/vfs"
)

// Writer writes a new snapshot. Until Commit it has a temporary name. End it
// with Commit or Abort; Abort after Commit does nothing, so defer it. For one
// goroutine.
type Writer struct {
	store *Store
	group uint64
	path  string
	file  vfs.File // nil once it ended
	head  Head

	off    int64 // in the file
	looked int64 // up to where there was room
	back   writeBack
	seed   uint32
	chunks uint64
	user   uint64
	hash   hash.Hash
	buf    []byte // a chunk header and up to maxChunk bytes
	err    error  // for good
}

// Create begins a new snapshot of a group. The head's State is written before
// Create returns and stays the caller's; more than MaxState bytes of it are
// ErrTooLarge.
func (s *Store) Create(group uint64, head Head) (*Writer, error) {
	w, err := s.create(group, head)
	if err != nil {
		return nil, inGroup(group, "create", err)
	}
	return w, nil
}

func (s *Store) create(group uint64, head Head) (*Writer, error) {
	if len(head.State) > MaxState {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(head.State), MaxState)
	}
	temp, err := s.claimTemp(group)
	if err != nil {
		return nil, err
	}
	w := &Writer{store: s, group: group, path: temp, hash: sha256.New()}
	if err := vfs.MkdirAllSync(s.fs, s.groupDir(group)); err != nil {
		s.unclaim(temp)
		return nil, err
	}
	if w.file, err = s.fs.Create(temp); err != nil {
		s.unclaim(temp)
		return nil, err
	}
	b, seed := appendHead(nil, head)
	w.head, w.seed = head, seed
	w.head.State = nil
	if err := w.writeOut(b); err != nil {
		return nil, errors.Join(err, w.discard())
	}
	w.buf = make([]byte, chunkHeader, chunkHeader+maxChunk)
	return w, nil
}

// claimTemp takes a temporary name that nobody uses in this process.
func (s *Store) claimTemp(group uint64) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return "", ErrClosed
	}
	s.lastTemp++
	temp := path.Join(s.groupDir(group), fmt.Sprintf("make-%d%s", s.lastTemp, tempSuffix))
	s.inUse[temp] = true
	return temp, nil
}

// Write adds user's bytes, of any number. It keeps nothing of p. An error is
// for good: what is left to do is Abort.
func (w *Writer) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		if w.err != nil {
			return done, inGroup(w.group, "write", w.err)
		}
		take := min(len(p)-done, cap(w.buf)-len(w.buf))
		w.buf = append(w.buf, p[done:done+take]...)
		done += take
		if len(w.buf) == cap(w.buf) {
			w.err = w.flush()
		}
	}
	return done, inGroup(w.group, "write", w.err)
}

// flush writes the chunk in buf.
func (w *Writer) flush() error {
	data := w.buf[chunkHeader:]
	if len(data) == 0 {
		return nil
	}
	putChunkHeader(w.buf, w.seed, w.chunks, data)
	if err := w.writeOut(w.buf); err != nil {
		return err
	}
	w.chunks++
	w.user += uint64(len(data))
	w.buf = w.buf[:chunkHeader]
	return nil
}

// writeOut appends b to the file and to what is hashed.
func (w *Writer) writeOut(b []byte) error {
	if end := w.off + int64(len(b)); end > w.looked {
		if err := w.store.room(end, end-w.off); err != nil {
			return err
		}
		w.looked = end + spaceEvery
	}
	if _, err := w.file.WriteAt(b, w.off); err != nil {
		return err
	}
	w.hash.Write(b) // a hash never fails
	w.off += int64(len(b))
	return w.back.grown(w.file, w.off)
}

// Commit ends the file and gives it its name. When it returns without an error
// the file survives a crash. After an error the temporary file is gone; the
// final name may be there only if syncing the directory was what failed, and
// then it names a complete file.
func (w *Writer) Commit() (Ref, error) {
	ref, err := w.commit()
	if err != nil {
		return Ref{}, inGroup(w.group, "commit", errors.Join(err, w.discard()))
	}
	return ref, nil
}

func (w *Writer) commit() (Ref, error) {
	if w.file == nil {
		return Ref{}, ErrClosed
	}
	if w.err != nil {
		return Ref{}, w.err
	}
	if err := w.flush(); err != nil {
		return Ref{}, err
	}
	t := trailer{chunks: w.chunks, userBytes: w.user, size: w.off + trailerLen}
	w.hash.Sum(t.sum[:0])
	ref := refOf(w.head, t.size, t.sum)
	if _, err := w.file.WriteAt(appendTrailer(nil, t), w.off); err != nil {
		return Ref{}, err
	}
	file := w.file
	w.file, w.err = nil, ErrClosed
	defer w.store.unclaim(w.path)
	return ref, w.store.finish(w.group, file, w.path, ref)
}

// finish makes a file that is written completely durable under its final name,
// and closes it. If it fails, the temporary name is gone.
func (s *Store) finish(group uint64, file vfs.File, temp string, ref Ref) error {
	err := errors.Join(file.Sync(), file.Close())
	if err == nil {
		// A store that was closed meanwhile is not written to any more.
		err = s.checkOpen()
	}
	if err == nil {
		err = s.fs.Rename(temp, s.snapPath(group, ref))
	}
	if err != nil {
		return errors.Join(err, s.removeIfThere(temp))
	}
	return s.fs.SyncDir(s.groupDir(group))
}

// Abort gives up and removes the temporary file. After Commit or Abort it does
// nothing.
func (w *Writer) Abort() {
	if err := w.discard(); err != nil {
		w.store.logger.Warn("temporary snapshot file not removed; the next Retain will", "group", w.group, "file", w.path, "err", err)
	}
}

func (w *Writer) discard() error {
	if w.file == nil {
		return nil
	}
	file := w.file
	w.file, w.err = nil, ErrClosed
	defer w.store.unclaim(w.path)
	return errors.Join(file.Close(), w.store.removeIfThere(w.path))
}
