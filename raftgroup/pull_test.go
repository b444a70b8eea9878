package raftgroup

import (
	"testing"

	"github.com/copycat-replication/copycat/id"
)

// TestPullNeedsMostForLong: the lead goes where most proposals come from, after
// that has been so for a while, and nowhere for less.
func TestPullNeedsMostForLong(t *testing.T) {
	t.Parallel()
	a, b, c, gone := id.Node{1}, id.Node{2}, id.Node{3}, id.Node{4}
	centers := map[id.Node]string{a: "east", b: "west", c: "west"}
	cases := []struct {
		name   string
		counts map[id.Node]uint64 // with each look
		to     string
	}{
		{"all from another", map[id.Node]uint64{b: 5}, "west"},
		{"from two nodes of another", map[id.Node]uint64{a: 3, b: 3, c: 3}, "west"},
		{"all from the leader's own", map[id.Node]uint64{a: 5}, ""},
		{"half and half", map[id.Node]uint64{a: 5, b: 5}, ""},
		{"just too few", map[id.Node]uint64{a: 41, b: 59}, ""},
		{"most from nodes that nobody knows", map[id.Node]uint64{gone: 50, b: 50}, ""},
		{"nothing", nil, ""},
	}
	for _, x := range cases {
		var p pull
		for i := range 3 * pullLooks {
			for node, n := range x.counts {
				p.count(node, n)
			}
			to, move := p.look(centers, "east")
			if want := x.to != "" && i >= pullLooks-1; move != want || to != x.to {
				t.Fatalf("%s: look %d: to %q, %v", x.name, i, to, move)
			}
		}
	}
}

// TestPullPauses: a structure in which little is proposed is not forgotten
// between two proposals, and a burst from elsewhere does not move it.
func TestPullPauses(t *testing.T) {
	t.Parallel()
	a, b := id.Node{1}, id.Node{2}
	centers := map[id.Node]string{a: "east", b: "west"}
	var p pull
	moved := false
	for i := range pullLooks {
		p.count(b, 1)
		_, moved = p.look(centers, "east")
		for range 100 { // nothing is proposed
			if _, move := p.look(centers, "east"); move {
				t.Fatalf("moves in a pause after %d proposals", i+1)
			}
		}
	}
	if !moved {
		t.Errorf("after %d proposals from there: %+v", pullLooks, p)
	}
	p = pull{}
	for i := range 10 * pullLooks {
		p.count(a, 100)
		if i%(2*pullLooks) == 0 {
			p.count(b, 5000)
		}
		if to, move := p.look(centers, "east"); move {
			t.Fatalf("look %d: bursts move the lead to %s", i, to)
		}
	}
	if len(p.weights) != 2 {
		t.Errorf("weights %v", p.weights)
	}
	for range 400 {
		p.count(a, 1)
		p.look(centers, "east")
	}
	if len(p.weights) != 1 {
		t.Errorf("what is long ago still weighs: %v", p.weights)
	}
}
