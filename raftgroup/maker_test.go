package raftgroup

import (
	"slices"
	"testing"
)

// TestChooseMaker asks who keeps up on the leader's node, then the others, and
// last who does not read; never a process that is gone.
func TestChooseMaker(t *testing.T) {
	t.Parallel()
	self, other, gone := nodeN(1), nodeN(2), nodeN(3)
	nodes := []Node{{ID: self, Incarnation: 5}, {ID: other, Incarnation: 2}}
	sessions := []*session{
		{id: 1, node: self, incarnation: 5},  // does not read
		{id: 2, node: other, incarnation: 2}, // elsewhere
		{id: 3, node: gone, incarnation: 1},  // its node is gone
		{id: 4, node: self, incarnation: 5},  // a little behind
		{id: 5, node: self, incarnation: 5},  // keeps up
		{id: 6, node: self, incarnation: 4},  // of an earlier process
		{id: 7, node: self, incarnation: 5},  // leaves
		{id: 8, node: other, incarnation: 1}, // of an earlier process
	}
	lag := func(s uint64) (uint64, bool) {
		return map[uint64]uint64{1: 100_000, 4: 7, 5: 0}[s], s != 7
	}
	var order []uint64
	for attempt := range uint32(6) {
		maker, ok := chooseMaker(sessions, nodes, self, attempt, lag)
		if !ok {
			t.Fatal("nobody")
		}
		order = append(order, maker)
	}
	if want := []uint64{5, 4, 2, 7, 1, 5}; !slices.Equal(order, want) {
		t.Errorf("asked %v, want %v", order, want)
	}
	if _, ok := chooseMaker(sessions[2:3], nodes, self, 0, lag); ok {
		t.Error("a node that is gone is asked")
	}
}
