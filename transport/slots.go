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

// take takes a slot for a node, if it may have one more.
func (s *slots) take(node id.Node) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken >= s.limit || s.by[node] >= max(s.limit/2, 1) {
		return false
	}
	s.taken++
	s.by[node]++
	return true
}

// give gives a slot back.
func (s *slots) give(node id.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken--
	if s.by[node]--; s.by[node] == 0 {
		delete(s.by, node)
	}
}
