package wal

import (
	"errors"
	"maps"
	"slices"
	"sync"
)

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

// Close makes later calls fail, for good; what was synced is in Crash.
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

// Keys lists the records, by group and index.
func (m *MemCold) Keys() []ColdKey {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Keys(m.records), compareColdKeys)
}

// Flip changes one bit of a record, for good, or reports that there is none.
func (m *MemCold) Flip(k ColdKey, bit int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.records[k]
	if !ok {
		return false
	}
	rotten := slices.Clone(b)
	rotten[bit/8%len(b)] ^= 1 << (bit % 8)
	m.records[k] = rotten
	if s, ok := m.synced[k]; ok && slices.Equal(s, b) {
		m.synced[k] = rotten // it is the same place
	}
	return true
}
