package raftgroup

import "sync"

// readyQueue is the line of groups that have work. A group stands in it once
// at most, so it is bounded by their number.
type readyQueue struct {
	mu     sync.Mutex
	wake   *sync.Cond
	groups []*Group
	head   int // of groups: those before it were taken
	closed bool
}

func (q *readyQueue) put(g *Group) {
	q.mu.Lock()
	if len(q.groups) == cap(q.groups) && q.head > len(q.groups)/2 {
		n := copy(q.groups, q.groups[q.head:])
		clear(q.groups[n:])
		q.groups, q.head = q.groups[:n], 0
	}
	q.groups = append(q.groups, g)
	q.mu.Unlock()
	q.wake.Signal()
}

// take takes the first; without one it waits, or returns nil. It returns nil
// when the queue is closed.
func (q *readyQueue) take(wait bool) *Group {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.head == len(q.groups) && wait && !q.closed {
		q.wake.Wait()
	}
	if q.head == len(q.groups) || q.closed {
		return nil
	}
	g := q.groups[q.head]
	q.groups[q.head] = nil
	if q.head++; q.head == len(q.groups) {
		q.groups, q.head = q.groups[:0], 0
	}
	return g
}

func (q *readyQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.wake.Broadcast()
}

// awake has a group tick.
func (h *Host) awake(g *Group) {
	h.tickMu.Lock()
	defer h.tickMu.Unlock()
	if g.tickAt < 0 {
		g.tickAt = len(h.ticking)
		h.ticking = append(h.ticking, g)
		h.awakes.Store(int32(len(h.ticking)))
	}
}

// asleep ends the ticks of a group that falls quiet, or goes.
func (h *Host) asleep(g *Group) {
	h.tickMu.Lock()
	defer h.tickMu.Unlock()
	if g.tickAt < 0 {
		return
	}
	last := len(h.ticking) - 1
	moved := h.ticking[last]
	h.ticking[g.tickAt], moved.tickAt = moved, g.tickAt
	h.ticking[last] = nil
	h.ticking = h.ticking[:last]
	h.awakes.Store(int32(last))
	g.tickAt = -1
}
