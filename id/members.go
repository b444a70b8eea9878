package id

import (
	"encoding/binary"
	"maps"
	"slices"
	"sync"
)

// maxMemberSets bounds what a MemberSets remembers. A node of a small cluster
// meets a handful of sets, however many groups it has; beyond the bound it
// begins anew, and sets are shared a little less.
const maxMemberSets = 1024

// MemberSets makes one map of equal ones: most of thousands of groups have the
// same members, in one of a few orders. The zero value is ready to use, by
// several goroutines. It changes nothing that can be seen but how much memory is
// used.
type MemberSets struct {
	mu   sync.Mutex
	sets map[string]map[Replica]Node
}

// Share returns a map that equals members: members itself, or one that was given
// before. Neither may be changed from then on. A nil map stays one.
func (s *MemberSets) Share(members map[Replica]Node) map[Replica]Node {
	if members == nil {
		return nil
	}
	var buf [8 * (8 + len(Node{}))]byte
	key := buf[:0]
	for _, r := range slices.Sorted(maps.Keys(members)) {
		node := members[r]
		key = append(binary.BigEndian.AppendUint64(key, uint64(r)), node[:]...)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if same := s.sets[string(key)]; same != nil {
		return same
	}
	if s.sets == nil || len(s.sets) >= maxMemberSets {
		s.sets = make(map[string]map[Replica]Node)
	}
	s.sets[string(key)] = members
	return members
}
