package wal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/copycat-replication/copycat/internal/vfs"
)

// Open locks the directory, checks its format, recovers what it holds and
// starts a fresh segment. It makes the directory if there is none.
//
// Damage below the durable mark does not fail Open where it can be told whom
// it concerns: the groups that cannot be proven current are suspects, the
// places are in Damages, and nothing is deleted. Open fails with ErrLocked,
// ErrNewerFormat, a *DamageError if not even one segment can be attributed to
// this log, or what the file system says. A full disk does not fail it.
func Open(opts Options) (*Log, error) {
	if opts.FS == nil || opts.Dir == "" {
		return nil, fmt.Errorf("wal: Options need FS and Dir")
	}
	o := opts.withDefaults()
	l := &Log{
		opts: o, fs: o.FS, dir: o.Dir, logger: o.Logger,
		groups: map[uint64]*group{}, suspects: map[uint64]*group{}, allocated: map[uint64]struct{}{}, refused: map[uint64]refusal{}, segments: map[uint64]*segment{},
	}
	l.queue.groups = map[uint64]*groupQueue{}
	l.cold.store = o.Cold
	l.run.init()
	if err := makeDir(o.FS, o.Dir); err != nil {
		return nil, err
	}
	lock, err := o.FS.Lock(path.Join(o.Dir, lockName))
	if err != nil {
		if errors.Is(err, vfs.ErrLocked) {
			return nil, fmt.Errorf("%w: %s: %w", ErrLocked, o.Dir, err)
		}
		return nil, fmt.Errorf("wal: lock %s: %w", o.Dir, err)
	}
	l.lock = lock
	if err := l.start(); err != nil {
		for _, s := range l.order {
			_ = s.release()
		}
		_ = lock.Close()
		return nil, err
	}
	return l, nil
}

// makeDir makes a directory, and makes durable that it is there: its own name,
// and those of the directories above it that had to be made as well.
func makeDir(fsys vfs.FS, dir string) error {
	parents := []string{path.Dir(dir)}
	for p := path.Dir(dir); p != path.Dir(p); p = path.Dir(p) {
		there, err := fsys.Exists(p)
		if err != nil {
			return fmt.Errorf("wal: look for %s: %w", p, err)
		}
		if there {
			break
		}
		parents = append(parents, path.Dir(p))
	}
	if err := fsys.MkdirAll(dir); err != nil {
		return fmt.Errorf("wal: make %s: %w", dir, err)
	}
	for _, p := range parents {
		if err := fsys.SyncDir(p); err != nil {
			return fmt.Errorf("wal: sync %s: %w", p, err)
		}
	}
	return nil
}

func (l *Log) start() error {
	numbers, err := l.listSegments()
	if err != nil {
		return err
	}
	r := recovery{l: l, ceiling: 1}
	if err := r.identify(numbers); err != nil {
		return err
	}
	if err := r.run(numbers); err != nil {
		return err
	}
	l.damages = r.damages
	l.cold.swept = r.epoch > 0
	// What compactions of an earlier life left in the cold store may be gone
	// or not: the first use of the store sweeps it.
	if len(l.trash) > 0 {
		l.trash = l.trash[:1]
	}
	l.flushMu.Lock()
	defer l.flushMu.Unlock()
	l.checkSpace()
	if err := l.rollLocked(0); err != nil && !errors.Is(err, ErrDiskFull) {
		return err
	}
	if l.writer.active != nil {
		r.shrinkTail()
	}
	return nil
}

// listSegments returns the numbers of the segments in order, and removes
// files that a crash left half made.
func (l *Log) listSegments() ([]uint64, error) {
	names, err := l.fs.List(l.dir)
	if err != nil {
		return nil, fmt.Errorf("wal: list %s: %w", l.dir, err)
	}
	var numbers []uint64
	for _, name := range names {
		if strings.HasSuffix(name, temporarySuffix) {
			if err := l.fs.Remove(path.Join(l.dir, name)); err != nil {
				return nil, fmt.Errorf("wal: remove half-made file: %w", err)
			}
		}
		if n, ok := parseSegmentName(name); ok {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// Empty reports whether a directory holds no segment of a log: it is missing, or Open
// has never come to the end there, or what it held is gone, which Open cannot tell.
func Empty(fsys vfs.FS, dir string) (bool, error) {
	names, err := fsys.List(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("wal: list %s: %w", dir, err)
	}
	return !slices.ContainsFunc(names, func(name string) bool { return strings.Contains(name, segmentSuffix) }), nil
}

// identify finds the log's identity: in the FORMAT file, or, if that is gone
// or damaged, in a segment's head. A new directory gets one.
func (r *recovery) identify(numbers []uint64) error {
	l := r.l
	b, err := readFile(l.fs, path.Join(l.dir, formatName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("wal: read %s: %w", formatName, err)
	}
	if err == nil {
		identity, ok, err := decodeFormatFile(b)
		if err != nil {
			return err
		}
		if ok {
			l.identity = identity
			return nil
		}
	}
	if len(numbers) > 0 || err == nil {
		d := &DamageError{File: formatName, Offset: 0, Reason: "missing or damaged"}
		if !r.identityFromHeads(numbers) {
			return d
		}
		r.report(d)
		return l.writeFormat()
	}
	var id [8]byte
	source := l.opts.Entropy
	if source == nil {
		source = rand.Reader
	}
	if _, err := io.ReadFull(source, id[:]); err != nil {
		return fmt.Errorf("wal: identity of the log: %w", err)
	}
	l.identity = le.Uint64(id[:])
	return l.writeFormat()
}

func (r *recovery) identityFromHeads(numbers []uint64) bool {
	for _, n := range numbers {
		name := segmentName(n)
		f, err := r.l.fs.Open(path.Join(r.l.dir, name))
		if err != nil {
			continue
		}
		h, ok, err := readHead(f, name)
		_ = f.Close()
		if err == nil && ok && h.number == n {
			r.l.identity = h.identity
			return true
		}
	}
	return false
}

// writeFormat writes the FORMAT file whole or not at all.
func (l *Log) writeFormat() error {
	final := path.Join(l.dir, formatName)
	f, err := l.fs.Create(final + temporarySuffix)
	if err != nil {
		return fmt.Errorf("wal: write %s: %w", formatName, err)
	}
	_, err = f.WriteAt(encodeFormatFile(l.identity), 0)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = l.fs.Rename(final+temporarySuffix, final)
	}
	if err == nil {
		err = l.fs.SyncDir(l.dir)
	}
	if err != nil {
		return fmt.Errorf("wal: write %s: %w", formatName, err)
	}
	return nil
}

func readFile(fsys vfs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(size, 4096))
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		return nil, err
	}
	return b, nil
}

// readHead reads a segment's head, whatever its length.
func readHead(f vfs.File, name string) (h segmentHead, ok bool, err error) {
	size, err := f.Size()
	if err != nil {
		return h, false, err
	}
	b := make([]byte, min(size, 4096))
	if n, err := f.ReadAt(b, 0); err != nil && n < len(b) {
		return h, false, nil // unreadable is damaged
	}
	if len(b) < headFixed {
		return h, false, nil
	}
	if n := int64(le.Uint32(b[12:])); n > int64(len(b)) && n <= size {
		b = make([]byte, n)
		if got, err := f.ReadAt(b, 0); err != nil && got < len(b) {
			return h, false, nil
		}
	}
	return decodeHead(b, name)
}
