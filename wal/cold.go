package wal

import (
	"fmt"
	"path"
	"sync"
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

	mu     sync.Mutex // held while the store opens
	store  ColdStore
	own    bool // opened by the log
	closed bool
	failed error // of a write

	// swept says that what no manifest names was deleted in this life, or
	// must not be. Guarded by Log.reclaimMu.
	swept bool
}

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
		s, err := OpenBadger(path.Join(l.dir, coldDirectoryName), l.logger)
		if err != nil {
			c.use.RUnlock()
			return nil, nil, fmt.Errorf("wal: open cold store: %w", err)
		}
		c.store, c.own = s, true
	}
	return c.store, c.use.RUnlock, nil
}

// coldWriter returns the store for writing, unless a write to it has failed:
// what it holds since then is unknown.
func (l *Log) coldWriter() (store ColdStore, release func(), err error) {
	l.cold.mu.Lock()
	err = l.cold.failed
	l.cold.mu.Unlock()
	if err != nil {
		return nil, nil, err
	}
	return l.coldStore()
}

func (c *coldTier) fail(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed == nil {
		c.failed = fmt.Errorf("wal: cold store has failed, nothing more moves to it: %w", err)
	}
	return c.failed
}

func (c *coldTier) hasFailed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed != nil
}

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
