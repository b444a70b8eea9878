package snapshot

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/copycat-replication/copycat/internal/vfs"
)

// Receiver takes a snapshot file from a peer, as Raw gives it there. Every part
// is checked as it comes, so that a wrong file is noticed early. If the
// transfer is cut, Close keeps what came, and the next Receive of the same Ref,
// in this process or another, goes on from there. For one goroutine.
type Receiver struct {
	store *Store
	group uint64
	ref   Ref
	path  string
	file  vfs.File // nil once it ended

	start  int64 // where this Receiver went on
	off    int64 // bytes taken
	looked int64 // up to where there was room
	back   writeBack
	stream *stream
	buf    []byte // the part of the next piece that is here
	err    error  // for good
}

// Receive begins or resumes the transfer of a snapshot. ErrReceiving if another
// Receiver of the same Ref is open. A resume reads what is there, and goes on
// after the last part of it that checks. Where there is no room for the rest it is
// vfs.ErrNoSpace, and nothing is kept of what came. That a complete file of that Ref is
// there already is no error: Commit replaces it.
func (s *Store) Receive(group uint64, ref Ref) (*Receiver, error) {
	r, err := s.receive(group, ref)
	if err != nil {
		return nil, inGroup(group, "receive", err)
	}
	return r, nil
}

func (s *Store) receive(group uint64, ref Ref) (_ *Receiver, err error) {
	r := &Receiver{store: s, group: group, ref: ref, path: s.partPath(group, ref)}
	if r.stream, err = newStream(r.path, ref.Size); err != nil {
		return nil, fmt.Errorf("%w: %v: %w", ErrMismatch, ref, err)
	}
	ok, err := s.claim(r.path)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%w: %v", ErrReceiving, ref)
	}
	if err := r.openPartial(); err != nil {
		if r.file != nil {
			err = errors.Join(err, r.file.Close())
		}
		if errors.Is(err, vfs.ErrNoSpace) {
			err = errors.Join(err, s.removeIfThere(r.path))
		}
		s.unclaim(r.path)
		return nil, err
	}
	return r, nil
}

// openPartial opens the partial file, or makes it.
func (r *Receiver) openPartial() (err error) {
	s := r.store
	r.file, err = s.fs.OpenReadWrite(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := s.room(r.ref.Size, r.ref.Size); err != nil {
			return err
		}
		if err := vfs.MkdirAllSync(s.fs, s.groupDir(r.group)); err != nil {
			return err
		}
		r.file, err = s.fs.Create(r.path)
		return err
	}
	if err != nil {
		return err
	}
	size, err := r.file.Size()
	if err != nil {
		return err
	}
	if err := r.rescan(size); err != nil {
		return err
	}
	if err := s.room(r.ref.Size, r.ref.Size-r.off); err != nil {
		return err
	}
	if size == r.off {
		return nil
	}
	return r.file.Truncate(r.off)
}

// rescan feeds what an earlier Receiver left to the stream, as far as it
// checks: after a crash a file may have its size and not its bytes. What cannot
// be read is fetched again like what does not check.
func (r *Receiver) rescan(size int64) error {
	st := r.stream
	var buf []byte
	for !st.done && st.pos+int64(st.need) <= size {
		if cap(buf) < st.need {
			buf = make([]byte, max(st.need, int(min(size, maxChunk)))) // at most what the file holds
		}
		err := readFull(r.file, buf[:st.need], st.pos)
		if err == nil {
			err = r.check(buf[:st.need])
		}
		if err == nil {
			continue
		}
		r.store.logger.Warn("the rest of a partial snapshot does not check and is fetched again",
			"group", r.group, "file", r.path, "offset", st.good, "err", err)
		if errors.Is(err, ErrMismatch) || st.step == nil {
			// Intact, and of another snapshot: nothing can follow it.
			r.stream, err = newStream(r.path, r.ref.Size)
			return err
		}
		break
	}
	st.rewind()
	r.off, r.start = st.pos, st.pos
	r.back = writeBack{awaited: r.off, started: r.off}
	return nil
}

// check takes one piece through the stream, and compares with the Ref as soon
// as there is something to compare.
func (r *Receiver) check(piece []byte) error {
	st := r.stream
	before := st.headDone
	if _, err := st.next(piece); err != nil {
		return err
	}
	if !before && st.headDone {
		want := r.ref
		got := refOf(st.head, want.Size, want.Checksum)
		if got != want {
			return fmt.Errorf("%w: the head says %v, want %v", ErrMismatch, got, want)
		}
	}
	if st.done && st.ref() != r.ref {
		return fmt.Errorf("%w: the whole is %v, want %v", ErrMismatch, st.ref(), r.ref)
	}
	return nil
}

// Offset returns how many bytes of the file are here: where the transfer goes on.
func (r *Receiver) Offset() int64 { return r.off }

// Write takes the bytes at Offset, in pieces of any size, and keeps nothing of
// p. If they are not of the file that the Ref names it gives ErrMismatch, for
// good: try another holder. A full disk is vfs.ErrNoSpace
// and may be tried again from Offset.
func (r *Receiver) Write(p []byte) (int, error) {
	n, err := r.write(p)
	return n, inGroup(r.group, "receive", err)
}

func (r *Receiver) write(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if int64(len(p)) > r.ref.Size-r.off {
		r.err = fmt.Errorf("%w: more than %d bytes", ErrMismatch, r.ref.Size)
		return 0, r.err
	}
	if end := r.off + int64(len(p)); end > r.looked {
		if err := r.store.room(r.ref.Size, end-r.off); err != nil {
			return 0, err
		}
		r.looked = end + spaceEvery
	}
	n, err := r.file.WriteAt(p, r.off)
	r.off += int64(n)
	if checkErr := r.feed(p[:n]); checkErr != nil {
		r.err = checkErr
		return n, r.err
	}
	if err != nil {
		return n, err
	}
	if err := r.back.grown(r.file, r.off); err != nil {
		// What is on the disk is unknown now, though it can still be read.
		r.err = errors.Join(err, r.end(true))
		return n, r.err
	}
	return n, nil
}

// feed cuts p into the pieces that the stream wants.
func (r *Receiver) feed(p []byte) error {
	for len(p) > 0 {
		st := r.stream
		var piece []byte
		if len(r.buf) == 0 && len(p) >= st.need {
			piece, p = p[:st.need], p[st.need:]
		} else {
			take := min(len(p), st.need-len(r.buf))
			r.buf = append(r.buf, p[:take]...)
			if p = p[take:]; len(r.buf) < st.need {
				return nil
			}
			piece = r.buf
		}
		if err := r.check(piece); err != nil {
			var damage *DamageError
			if errors.As(err, &damage) {
				return fmt.Errorf("%w: %w", ErrMismatch, err)
			}
			return err
		}
		r.buf = r.buf[:0]
	}
	return nil
}

// Commit gives the file its name, once every byte is here and the whole is
// what the Ref names: ErrIncomplete before that, and the Receiver goes on;
// ErrMismatch if it is another file, and the partial file is removed. When
// Commit returns without an error the file survives a crash.
func (r *Receiver) Commit() error { return inGroup(r.group, "commit", r.commit()) }

func (r *Receiver) commit() error {
	switch {
	case r.file == nil && r.err != nil:
		return r.err
	case r.file == nil:
		return ErrClosed
	case r.err != nil:
		return errors.Join(r.err, r.end(true))
	case !r.stream.done:
		return fmt.Errorf("%w: %d of %d bytes", ErrIncomplete, r.off, r.ref.Size)
	}
	file := r.file
	r.file, r.err = nil, ErrClosed
	defer r.store.unclaim(r.path)
	return r.store.finish(r.group, file, r.path, r.ref)
}

// Close ends the Receiver and keeps the partial file for a resume. After
// Commit, and when called again, it does nothing.
//
// After a mismatch it keeps what checked before, if that is more than there was
// at the start. If it is not, what was there at the start may be the fault (of
// a peer that served the beginning of another file), and goes.
func (r *Receiver) Close() error {
	remove := errors.Is(r.err, ErrMismatch) && r.stream.good <= r.start
	return inGroup(r.group, "close", r.end(remove))
}

// end closes the file, and removes it if that is wanted.
func (r *Receiver) end(remove bool) error {
	if r.file == nil {
		return nil
	}
	file := r.file
	r.file, r.buf = nil, nil
	if r.err == nil {
		r.err = ErrClosed
	}
	defer r.store.unclaim(r.path)
	err := file.Close()
	if remove {
		err = errors.Join(err, r.store.removeIfThere(r.path))
	}
	return err
}
