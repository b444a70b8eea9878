package wal

import (
	"errors"
	"fmt"
	"path"
	"slices"
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
// never written again after an error.
type coldTier struct {
	mu     sync.Mutex
	store  ColdStore
	own    bool // opened by the log
	closed bool
	failed error // of a write
	swept  bool  // what no manifest names was deleted in this life
}

func (l *Log) coldStore() (ColdStore, error) {
	c := &l.cold
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	if c.store == nil {
		s, err := OpenBadger(path.Join(l.dir, coldDirectoryName), l.logger)
		if err != nil {
			return nil, fmt.Errorf("open cold store: %w", err)
		}
		c.store, c.own = s, true
	}
	return c.store, nil
}

// coldWriter returns the store for writing, unless a write to it has failed:
// what it holds since then is unknown.
func (l *Log) coldWriter() (ColdStore, error) {
	l.cold.mu.Lock()
	err := l.cold.failed
	l.cold.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return l.coldStore()
}

func (c *coldTier) fail(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed == nil {
		c.failed = fmt.Errorf("cold store has failed, nothing more moves to it: %w", err)
	}
	return c.failed
}

func (c *coldTier) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.store == nil || !c.own {
		return nil
	}
	return c.store.Close()
}

// MemCold is a ColdStore in memory. What was put survives as long as the
// value does, so that it stands for a disk in a simulation: Crash takes what
// was not synced.
type MemCold struct {
	mu      sync.Mutex
	synced  map[ColdKey][]byte
	records map[ColdKey][]byte
	closed  bool
}

// NewMemCold returns an empty store.
func NewMemCold() *MemCold {
	return &MemCold{synced: map[ColdKey][]byte{}, records: map[ColdKey][]byte{}}
}

var errColdClosed = errors.New("wal: cold store is closed")

// Put stores copies of the records.
func (m *MemCold) Put(records []ColdRecord) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errColdClosed
	}
	for _, r := range records {
		m.records[r.Key] = slices.Clone(r.Bytes)
	}
	return nil
}

// Get returns copies.
func (m *MemCold) Get(group, lo, hi, maxBytes uint64) ([][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, errColdClosed
	}
	var list [][]byte
	total := uint64(0)
	for i := lo; i < hi; i++ {
		b, ok := m.records[ColdKey{group, i}]
		if total += uint64(len(b)); !ok || (len(list) > 0 && total > maxBytes) {
			break
		}
		list = append(list, slices.Clone(b))
	}
	return list, nil
}

// Delete removes a range.
func (m *MemCold) Delete(from, to ColdKey) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errColdClosed
	}
	for k := range m.records {
		if compareColdKeys(from, k) <= 0 && compareColdKeys(k, to) < 0 {
			delete(m.records, k)
		}
	}
	return nil
}

// Sync keeps what is there for after a Crash.
func (m *MemCold) Sync() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errColdClosed
	}
	m.synced = make(map[ColdKey][]byte, len(m.records))
	for k, v := range m.records {
		m.synced[k] = v
	}
	return nil
}

// Close makes later calls fail, until Crash or Reopen.
func (m *MemCold) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

// Crash returns a store that holds what was synced.
func (m *MemCold) Crash() *MemCold {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := NewMemCold()
	for k, v := range m.synced {
		c.synced[k], c.records[k] = v, v
	}
	return c
}

// Len returns the number of records.
func (m *MemCold) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.records)
}

// Flip changes one bit of a record, or reports that there is none.
func (m *MemCold) Flip(k ColdKey, bit int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.records[k]
	if !ok {
		return false
	}
	b = slices.Clone(b)
	b[bit/8%len(b)] ^= 1 << (bit % 8)
	m.records[k] = b
	return true
}
