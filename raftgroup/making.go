package raftgroup

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// makingPiece is how much of a snapshot is written at a time: a chunk of its file.
	makingPiece = 256 << 10
	// makingAlone is how long nothing may have been appended on this node for a
	// snapshot to be made as fast as that goes.
	makingAlone = 100 * time.Millisecond
)

// making bounds how fast snapshots are made while the node's log is written:
// to hash, copy and write them takes the processor and the disk from
// everybody's changes, and their own consumer waits for nothing else.
type making struct {
	pacer
	appends atomic.Uint64 // handed to the log so far

	mu    sync.Mutex
	seen  uint64 // of appends
	since time.Time
}

// alone reports whether nothing has been appended for a while. What it does not
// know it takes for busy.
func (m *making) alone(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.appends.Load(); n != m.seen || m.since.IsZero() {
		m.seen, m.since = n, now
	}
	return now.Sub(m.since) >= makingAlone
}

// takes is how long a snapshot of so many bytes may take for being paced.
func (m *making) takes(bytes int64) time.Duration {
	if m.rate <= 0 {
		return 0
	}
	return time.Duration(float64(bytes) / float64(m.rate) * float64(time.Second))
}

// paceMaking waits until n more bytes of a snapshot may be made here.
func (h *Host) paceMaking(n int) error {
	m := &h.making
	if m.rate > 0 && m.alone(h.cfg.Clock.Now()) {
		return h.ctx.Err()
	}
	return h.pace(h.ctx, &m.pacer, n)
}
