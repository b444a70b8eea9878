package snapshot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/copycat-replication/copycat/internal/vfs"
)

// Reader reads the user's bytes of a snapshot. It holds an open file, so it
// outlives the file's removal by Retain; close it. For one goroutine.
type Reader struct {
	group   uint64
	file    vfs.File
	stream  *stream
	trailer trailer
	buf     []byte // a chunk
	rest    []byte // of buf, not yet handed out
	err     error  // for good
}

// Open opens a complete snapshot for reading: ErrNotFound if there is none,
// *DamageError or ErrNewerFormat if its header, head or trailer do not check,
// ErrMismatch if it is another one than the Ref names.
func (s *Store) Open(group uint64, ref Ref) (*Reader, error) {
	f, err := s.openRef(group, ref)
	if err != nil {
		return nil, inGroup(group, "open", err)
	}
	return &Reader{group: group, file: f.file, stream: f.stream, trailer: f.trailer}, nil
}

func (s *Store) openRef(group uint64, ref Ref) (*openedFile, error) {
	if err := s.checkOpen(); err != nil {
		return nil, err
	}
	file := s.snapPath(group, ref)
	f, err := s.openFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %v", ErrNotFound, ref)
	}
	if err != nil {
		return nil, err
	}
	if f.ref == ref {
		return f, nil
	}
	if baseName(f.ref) == baseName(ref) {
		err = fmt.Errorf("%w: have %v, want %v", ErrMismatch, f.ref, ref)
	} else {
		err = &DamageError{File: file, What: "holds " + f.ref.String() + ", which is not what its name says"}
	}
	return nil, errors.Join(err, f.file.Close())
}

// Head returns what the snapshot says about itself. The State belongs to the
// Reader: do not change it.
func (r *Reader) Head() Head { return r.stream.head }

// UserSize returns how many bytes Read will give in total, as the trailer
// says. If the file is damaged Read fails before or after as many.
func (r *Reader) UserSize() int64 { return int64(r.trailer.userBytes) }

// Read gives the user's bytes, each only after its chunk has checked, and
// io.EOF only after the whole file has. A file that does not check gives a
// *DamageError, then and on every later call.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.rest) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		if r.err = inGroupUnlessEOF(r.group, r.readChunk()); r.err != nil {
			return 0, r.err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func inGroupUnlessEOF(group uint64, err error) error {
	if err == io.EOF {
		return err
	}
	return inGroup(group, "read", err)
}

// readChunk fills rest with the next chunk, or checks the end and gives io.EOF.
func (r *Reader) readChunk() error {
	st := r.stream
	for !st.done {
		if cap(r.buf) < st.need {
			r.buf = make([]byte, max(st.need, int(min(st.room(), maxChunk))))
		}
		piece := r.buf[:st.need]
		if err := readFull(r.file, piece, st.pos); err != nil {
			return st.readErr(err)
		}
		user, err := st.next(piece)
		if err != nil {
			return err
		}
		if user != nil {
			r.rest = user
			return nil
		}
	}
	return io.EOF // the last piece was the trailer, so the whole has checked
}

// Close closes the file. It may be called more than once.
func (r *Reader) Close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file, r.rest, r.err = nil, nil, ErrClosed
	return inGroup(r.group, "close", err)
}

// Verify reads the whole file and checks everything in it. The errors are
// those of Open and of reading.
func (s *Store) Verify(group uint64, ref Ref) error {
	r, err := s.Open(group, ref)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return errors.Join(err, r.Close())
}

// Raw opens the file as it is, from an offset on, for serving it to a peer.
// Header, head and trailer are checked, the chunks are not: the receiver does
// that, and if it reports a mismatch, Verify tells whose fault it was. An
// offset beyond the end is an error; at the end it is an empty stream.
func (s *Store) Raw(group uint64, ref Ref, offset int64) (io.ReadCloser, error) {
	f, err := s.openRef(group, ref)
	if err != nil {
		return nil, inGroup(group, "open", err)
	}
	if offset < 0 || offset > ref.Size {
		err := fmt.Errorf("offset %d of %d bytes", offset, ref.Size)
		return nil, inGroup(group, "open", errors.Join(err, f.file.Close()))
	}
	return &rawReader{SectionReader: io.NewSectionReader(f.file, offset, ref.Size-offset), Closer: f.file}, nil
}

type rawReader struct {
	*io.SectionReader
	io.Closer
}
