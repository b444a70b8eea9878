package wal

import (
	"errors"
	"fmt"
	"path"
	"sync"
	"sync/atomic"

	"github.com/copycat-replication/copycat/internal/vfs"
)

// ColdStore keeps the records of entries that moved out of the segments. The
// log does not trust it: every record has a checksum, and the manifest in
// the log alone says what must be there. Implementations are safe for
// concurrent use.
type ColdStore interface {
	// Put stores records; a record of the same key is replaced. The log calls
	// Sync before it relies on them. After an error the store may hold any
	// subset of them.
	Put(records []ColdRecord) error
	// Get returns the records of a group from lo up to hi (exclusive), in
	// order: as many as follow each other without a gap, fewer when they
	// exceed maxBytes, none if lo is missing. The caller owns them.
	Get(group, lo, hi, maxBytes uint64) ([][]byte, error)
	// Delete removes all records from one key up to another (exclusive).
	Delete(from, to ColdKey) error
	// Sync makes durable what Put and Delete have done.
	Sync() error
	Close() error
}

// ColdKey names a record. Keys are ordered by group, then by index.
type ColdKey struct{ Group, Index uint64 }

// ColdRecord is one entry, encoded; the bytes are the log's, for the call.
type ColdRecord struct {
	Key   ColdKey
	Bytes []byte
}

func compareColdKeys(a, b ColdKey) int {
	switch {
	case a == b:
		return 0
	case a.Group < b.Group || (a.Group == b.Group && a.Index < b.Index):
		return -1
	}
	return 1
}

// coldRange is a range that the manifest has given up.
type coldRange struct{ group, first, last uint64 }

// coldTier is the cold store as the log uses it: opened when first needed,
// never written again after an error, closed when nobody reads it.
type coldTier struct {
	// use is held for reading by whoever works with the store, so that Close
	// does not take its memory maps away under a reader.
	use sync.RWMutex

	mu      sync.Mutex // held while the store opens
	store   ColdStore
	own     bool // opened by the log
	closed  bool
	opens   int   // that have failed
	openErr error // of the last one

	failed atomic.Pointer[coldFailure] // of a write; who asks must not wait for the store to open

	// swept says that what no manifest names was deleted in this life, or
	// must not be. Guarded by Log.reclaimMu.
	swept bool
}

type coldFailure struct{ error }

// maxColdOpens is how often it is tried in a life to open the cold store: Badger
// leaves goroutines behind when it fails.
const maxColdOpens = 8

// coldStore returns the store for reading; the caller calls release.
func (l *Log) coldStore() (store ColdStore, release func(), err error) {
	c := &l.cold
	c.use.RLock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		c.use.RUnlock()
		return nil, nil, ErrClosed
	}
	if c.store == nil {
		if err := l.openColdLocked(); err != nil {
			c.use.RUnlock()
			return nil, nil, err
		}
	}
	return c.store, c.use.RUnlock, nil
}

// openColdLocked opens Badger; the caller holds coldTier.mu. A store that does not
// open, on a disk that is fine, is set aside, and an empty one takes its place: what
// was in it is damage, as the manifest says, and what comes goes cold again.
func (l *Log) openColdLocked() error {
	c := &l.cold
	if c.opens == maxColdOpens {
		return c.openErr
	}
	// Badger writes as it opens, through memory maps: a full disk under them kills
	// the process.
	if free, err := l.fs.Free(l.dir); err == nil && free < coldMargin {
		return fmt.Errorf("%w: %d bytes are free, the cold store is not opened below %d", ErrDiskFull, free, coldMargin)
	}
	dir := path.Join(l.dir, coldDirectoryName)
	s, err := OpenBadger(dir, l.logger)
	if err != nil {
		aside, aerr := setColdAside(dir)
		l.logger.Error("wal: cold store does not open", "dir", dir, "error", err, "aside", aside, "aside error", aerr)
		if aerr == nil {
			s, err = OpenBadger(dir, l.logger)
		}
	}
	if err != nil {
		c.opens, c.openErr = c.opens+1, fmt.Errorf("wal: open cold store: %w", err)
		return c.openErr
	}
	c.store, c.own = s, true
	return nil
}

// setColdAside renames the directory of a store that does not open, and says as what.
// It does nothing where no file can be written there: then that may be why.
func setColdAside(dir string) (string, error) {
	probe := path.Join(dir, "PROBE")
	f, err := vfs.OS{}.Create(probe)
	if err != nil {
		return "", err
	}
	_, err = f.WriteAt(make([]byte, 4096), 0)
	if err = errors.Join(err, f.Sync(), f.Close(), vfs.OS{}.Remove(probe)); err != nil {
		return "", err
	}
	for i := 1; ; i++ {
		aside := fmt.Sprintf("%s.damaged.%d", dir, i)
		if there, err := (vfs.OS{}).Exists(aside); there || err != nil {
			if err != nil {
				return "", err
			}
			continue
		}
		return aside, errors.Join(vfs.OS{}.Rename(dir, aside), vfs.OS{}.SyncDir(path.Dir(dir)))
	}
}

// coldWriter returns the store for writing, unless a write to it has failed:
// what it holds since then is unknown.
func (l *Log) coldWriter() (store ColdStore, release func(), err error) {
	if f := l.cold.failed.Load(); f != nil {
		return nil, nil, f.error
	}
	return l.coldStore()
}

func (c *coldTier) fail(err error) error {
	c.failed.CompareAndSwap(nil, &coldFailure{fmt.Errorf("wal: cold store has failed, nothing more moves to it: %w", err)})
	return c.failed.Load().error
}

func (c *coldTier) hasFailed() bool { return c.failed.Load() != nil }

func (c *coldTier) close() error {
	c.use.Lock()
	defer c.use.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.store == nil || !c.own {
		return nil
	}
	return c.store.Close()
}
