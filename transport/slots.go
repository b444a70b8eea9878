package transport

import (
	"sync"

	"github.com/copycat-replication/copycat/id"
)

// slots bounds what is under way for other nodes: in all, and for one node half
// of that. So one whose handlers hang, or that takes no answers, or asks for too
// much, leaves room for everybody else.
type slots struct {
	limit int

	mu    sync.Mutex
	taken int
	by    map[id.Node]int // no zeros
}

func newSlots(limit int) *slots { return &slots{limit: limit, by: make(map[id.Node]int)} }

// take takes n slots for a node, if it may have that many more.
func (s *slots) take(node id.Node, n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken+n > s.limit || s.by[node]+n > max(s.limit/2, 1) {
		return false
	}
	s.taken += n
	s.by[node] += n
	return true
}

// give gives slots back.
func (s *slots) give(node id.Node, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken -= n
	if s.by[node] -= n; s.by[node] == 0 {
		delete(s.by, node)
	}
}
