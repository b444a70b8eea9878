package raftgroup

import (
	"slices"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// TestFate has the leader miss a voter: what is said of it is what is then decided.
func TestFate(t *testing.T) {
	t.Parallel()
	waits, lost := Missing{GiveUp: time.Unix(60, 0)}, Missing{Lost: true}
	for _, c := range []struct {
		name          string
		nodes, voters int
		opt           Options
		prepare       func(*scene)
		waits, lost   string
		drops         bool
	}{
		{"a node can take its place", 4, 3, Options{}, nil, "", "it is being replaced", false},
		{"none can", 3, 3, Options{}, nil, "no node can take its place", "no node can take its place", false},
		{"fewer are wished", 5, 5, Options{Voters: 3}, nil, "it is dropped, since fewer voters are wished", "it is dropped, since fewer voters are wished", true},
		{"fewer are wished, and one could take its place", 6, 5, Options{Voters: 3}, nil, "it is dropped, since fewer voters are wished", "it is dropped, since fewer voters are wished", true},
		{"fewer are wished, and one has to go besides", 6, 5, Options{Voters: 3}, func(s *scene) { s.nodes[3].Leaving = true }, "it is dropped, since fewer voters are wished", "it is dropped, since fewer voters are wished", true},
		{"a node leaves besides, and enough are left", 5, 5, Options{Voters: 5}, func(s *scene) { s.nodes[3].Leaving = true }, "it is dropped, since a node leaves too and no other can take its place", "it is dropped, since a node leaves too and no other can take its place", true},
		{"the one that could take its place has refused", 4, 3, Options{}, func(s *scene) { s.rests[sceneNode(4)] = true }, "node " + sceneNode(4).String() + " did not get a replica in its place, and is asked again", "node " + sceneNode(4).String() + " did not get a replica in its place, and is asked again", false},
	} {
		for _, isLost := range []bool{false, true} {
			s := newScene(t, 3, c.nodes, c.voters, c.opt)
			if c.prepare != nil {
				c.prepare(s)
			}
			s.dead[s.on[2]] = true
			s.lost[2] = isLost
			v := s.survey()
			d := v.decide() // which begins it
			m, want := waits, c.waits
			if isLost {
				m, want = lost, c.lost
			}
			if got := v.fate(2, m); got != want {
				t.Errorf("%s, lost %t: %q, want %q", c.name, isLost, got, want)
			}
			if !isLost {
				continue
			}
			dropped := false
			if len(d.change) > 0 {
				s.change(v, d)
				dropped = !slices.Contains(s.conf.Voters, 2) && d.replaces[2] == id.Replica(0)
			}
			if dropped != c.drops {
				t.Errorf("%s: dropped %t, change %v, waits %q", c.name, dropped, d.change, d.waits)
			}
		}
	}
}
