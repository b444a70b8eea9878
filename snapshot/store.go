package snapshot

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/copycat-replication/copycat/internal/vfs"
)

// Options configures a Store.
type Options struct {
	// FS is the file system. Required.
	FS vfs.FS
	// Dir is the store's own directory; it is made if it is missing. Nothing
	// else may write there: the caller holds the lock of the data directory.
	Dir string
	// Reserve is the free space in bytes that the log store beside it needs to go
	// on. Files are refused with vfs.ErrNoSpace that would touch it; a small one, a
	// quarter of it at most, may take half of it, since to hold a snapshot is what
	// lets the log store give up entries. 0: files may fill the disk.
	Reserve uint64
	// Yield, if not nil, is called when there is not room enough: it frees what is only
	// kept to be fast, and reports whether there was any. It must not block for long.
	Yield func() bool
	// Logger hears of files that do not check; nil: nobody does.
	Logger *slog.Logger
}

// Store keeps the snapshot files of a node. It is safe for concurrent use; a
// Writer, Reader or Receiver is for one goroutine at a time. It starts no
// goroutines, and does all I/O in the goroutine that calls.
type Store struct {
	fs      vfs.FS
	dir     string
	reserve uint64
	yield   func() bool
	logger  *slog.Logger

	mu       sync.Mutex
	closed   bool
	lastTemp uint64          // number of the last Writer
	inUse    map[string]bool // temporary and partial files that someone writes, by path
}

// OpenStore opens the store in o.Dir, and makes the directory if needed.
// What earlier processes left unfinished is removed group by group, by Retain.
func OpenStore(o Options) (*Store, error) {
	if o.FS == nil || o.Dir == "" {
		return nil, errors.New("snapshot: Options needs FS and Dir")
	}
	logger := o.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if err := vfs.MkdirAllSync(o.FS, o.Dir); err != nil {
		return nil, fmt.Errorf("snapshot: open %s: %w", o.Dir, err)
	}
	return &Store{fs: o.FS, dir: o.Dir, reserve: o.Reserve, yield: o.Yield, logger: logger, inUse: map[string]bool{}}, nil
}

// Close makes every later call fail with ErrClosed. Writers, Readers and
// Receivers that are open stay with their owners, who close them; what they
// have not committed is not committed any more.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	n := len(s.inUse)
	s.mu.Unlock()
	if n > 0 {
		s.logger.Warn("snapshot store closed while files are being written", "dir", s.dir, "files", n)
	}
	return nil
}

func (s *Store) checkOpen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	return nil
}

// claim marks a path as being written; false if it is already.
func (s *Store) claim(path string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false, ErrClosed
	}
	if s.inUse[path] {
		return false, nil
	}
	s.inUse[path] = true
	return true, nil
}

func (s *Store) unclaim(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.inUse, path)
}

const (
	snapSuffix = ".snap"
	partSuffix = ".part"
	tempSuffix = ".tmp"
	badSuffix  = ".bad"
)

func (s *Store) groupDir(group uint64) string { return path.Join(s.dir, fmt.Sprintf("%016x", group)) }

// baseName is the name of a complete file without its suffix.
func baseName(r Ref) string { return fmt.Sprintf("%016x-%016x-%x", r.Commits, r.Index, r.Checksum) }

func (s *Store) snapPath(group uint64, r Ref) string {
	return path.Join(s.groupDir(group), baseName(r)+snapSuffix)
}

func (s *Store) partPath(group uint64, r Ref) string {
	return path.Join(s.groupDir(group), baseName(r)+partSuffix)
}

// inGroup adds what an error is about.
func inGroup(group uint64, doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("snapshot: group %d: %s: %w", group, doing, err)
}

// Groups returns the numbers of the groups that have a directory, ascending,
// for the host to sweep what no frame of the log store names.
func (s *Store) Groups() ([]uint64, error) {
	if err := s.checkOpen(); err != nil {
		return nil, err
	}
	names, err := s.fs.List(s.dir)
	if err != nil {
		return nil, fmt.Errorf("snapshot: list %s: %w", s.dir, err)
	}
	var groups []uint64
	for _, name := range names {
		if n, err := strconv.ParseUint(name, 16, 64); err == nil && name == fmt.Sprintf("%016x", n) {
			groups = append(groups, n)
		}
	}
	return groups, nil
}

// List returns the complete files of a group whose header, head and trailer
// check, the newest first (by Commits, then Index). Files that do not check are
// logged and left out, so the caller that misses one that it knows of finds
// out why with Open. The chunks are not read: that is what Verify is for.
func (s *Store) List(group uint64) ([]Ref, error) {
	if err := s.checkOpen(); err != nil {
		return nil, inGroup(group, "list", err)
	}
	names, err := s.listDir(s.groupDir(group))
	if err != nil {
		return nil, inGroup(group, "list", err)
	}
	var refs []Ref
	for _, name := range names {
		if !strings.HasSuffix(name, snapSuffix) {
			continue
		}
		ref, err := s.readRef(path.Join(s.groupDir(group), name))
		var damage *DamageError
		switch {
		case err == nil:
			refs = append(refs, ref)
		case errors.As(err, &damage), errors.Is(err, ErrNewerFormat):
			s.logger.Warn("snapshot file left out of the list", "group", group, "file", name, "err", err)
		case errors.Is(err, fs.ErrNotExist): // removed since it was listed
		default:
			return nil, inGroup(group, "list", err)
		}
	}
	slices.SortFunc(refs, newestFirst)
	return refs, nil
}

func newestFirst(a, b Ref) int {
	return cmp.Or(cmp.Compare(b.Commits, a.Commits), cmp.Compare(b.Index, a.Index),
		cmp.Compare(b.Term, a.Term), slices.Compare(b.Checksum[:], a.Checksum[:]))
}

// listDir lists a directory; one that is not there is empty.
func (s *Store) listDir(dir string) ([]string, error) {
	names, err := s.fs.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return names, err
}

// readRef reads the identity of a complete file, whose name must fit it.
func (s *Store) readRef(file string) (Ref, error) {
	f, err := s.openFile(file)
	if err != nil {
		return Ref{}, err
	}
	ref := f.ref
	if err := f.file.Close(); err != nil {
		return Ref{}, err
	}
	if baseName(ref)+snapSuffix != path.Base(file) {
		return Ref{}, &DamageError{File: file, What: "holds " + ref.String() + ", which is not what its name says"}
	}
	return ref, nil
}

// openedFile is a complete file whose header, head and trailer were checked.
type openedFile struct {
	file    vfs.File
	stream  *stream // stands after the head
	trailer trailer
	ref     Ref
}

// openFile opens a complete file and checks all but its chunks.
func (s *Store) openFile(file string) (_ *openedFile, err error) {
	f, err := s.fs.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	st, err := newStream(file, size)
	if err != nil {
		return nil, err
	}
	for !st.headDone {
		piece := make([]byte, st.need) // at most what the file holds
		if err := readFull(f, piece, st.pos); err != nil {
			return nil, st.readErr(err)
		}
		if _, err := st.next(piece); err != nil {
			return nil, err
		}
	}
	var end [trailerLen]byte
	if err := readFull(f, end[:], size-trailerLen); err != nil {
		return nil, st.readErr(err)
	}
	t, err := decodeTrailer(end[:], size)
	if err != nil {
		return nil, &DamageError{File: file, Offset: size - trailerLen, What: err.Error()}
	}
	return &openedFile{file: f, stream: st, trailer: t, ref: refOf(st.head, size, t.sum)}, nil
}

// readFull reads len(p) bytes at off. A file that ends before is
// io.ErrUnexpectedEOF.
func readFull(f vfs.File, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readErr tells a file that became shorter from a disk that does not answer.
func (s *stream) readErr(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return s.damage("the file ends here")
	}
	return fmt.Errorf("read %s at %d: %w", s.path, s.pos, err)
}
