package netproxy

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Node names a node of a rig.
type Node int

// Link says how one direction between two nodes behaves. The zero value passes
// everything on at once.
type Link struct {
	// Delay is added to everything; Jitter is the most that chance adds to it.
	// Jitter reorders datagrams, never the bytes of a connection.
	Delay, Jitter time.Duration
	// Loss and Duplicate are shares of datagrams, from 0 to 1.
	Loss, Duplicate float64
	// Rate is in bytes per second; 0: no limit.
	Rate int64
	// Cut holds connections and drops datagrams.
	Cut bool
}

// maxBacklog is how much time's worth of datagrams may wait for a capped rate;
// what comes on top is dropped, as a router's full queue does.
const maxBacklog = 500 * time.Millisecond

// line is the state of one direction.
type line struct {
	mu      sync.Mutex
	link    Link
	changed chan struct{} // closed and replaced when link changes
	free    time.Time     // when the rate lets the next byte go
	rng     *rand.Rand
}

func newLine(seed uint64, from, to Node) *line {
	return &line{changed: make(chan struct{}), rng: rand.New(rand.NewPCG(seed, uint64(from)<<32|uint64(to)))} //nolint:gosec // chance, not secrets
}

// update changes the link, and wakes whoever waits on it.
func (l *line) update(change func(*Link)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.link)
	close(l.changed)
	l.changed = make(chan struct{})
}

// look returns whether the link is cut, and a channel that closes when that
// may have changed.
func (l *line) look() (cut bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.link.Cut, l.changed
}

// due tells when size bytes that come now arrive.
func (l *line) due(now time.Time, size int) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dueLocked(now, size)
}

func (l *line) dueLocked(now time.Time, size int) time.Time {
	at := now
	if l.link.Rate > 0 {
		if l.free.After(at) {
			at = l.free
		}
		at = at.Add(time.Duration(float64(size) / float64(l.link.Rate) * float64(time.Second)))
		l.free = at
	}
	at = at.Add(l.link.Delay)
	if l.link.Jitter > 0 {
		at = at.Add(time.Duration(l.rng.Int64N(int64(l.link.Jitter) + 1)))
	}
	return at
}

// datagram tells when the copies of a datagram that comes now arrive: none if
// it is lost.
func (l *line) datagram(now time.Time, size int) (first, second time.Time, copies int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.link.Cut,
		l.link.Loss > 0 && l.rng.Float64() < l.link.Loss,
		l.link.Rate > 0 && l.free.Sub(now) > maxBacklog:
		return first, second, 0
	}
	first, copies = l.dueLocked(now, size), 1
	if l.link.Duplicate > 0 && l.rng.Float64() < l.link.Duplicate {
		second, copies = l.dueLocked(now, size), 2
	}
	return first, second, copies
}
