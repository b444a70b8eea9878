package raftgroup

import (
	"slices"
	"strings"
	"testing"

	"github.com/copycat-replication/copycat/id"
)

// unheard has the leader of a scene not hear of a voter whose node lives: for a
// moment, or for as long as a dead one is given.
func unheard(s *scene, r id.Replica, long bool) *survey {
	v := s.survey()
	v.active[r], v.caughtUp[r], v.away[r] = false, false, true
	v.unheard = map[id.Replica]bool{r: long}
	return v
}

// TestLeaveBesideAVoterThatIsNotHeard has a voter's node leave, with no other to
// take its place, while the leader does not hear of another voter, whose node lives.
// It waits for that one as for one that comes back; after as long as a dead one is
// given, the group goes on with fewer if those that are heard can lose one more.
// If not, it says what has to be looked at.
func TestLeaveBesideAVoterThatIsNotHeard(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		voters int
		long   bool
		lowers bool
	}{
		{"five, for a moment", 5, false, false},
		{"five, for long", 5, true, true},
		{"three, for a moment", 3, false, false},
		{"three, for long", 3, true, false},
	} {
		s := newScene(t, 3, c.voters, c.voters, Options{Voters: uint32(c.voters)})
		s.nodes[c.voters-1].Leaving = true
		v := unheard(s, 2, c.long)
		d := v.decide()
		if lowers := len(d.change) > 0; lowers != c.lowers {
			t.Errorf("%s: change %v, waits %q", c.name, d.change, d.waits)
		}
		if !c.lowers && !strings.Contains(d.waits, "waiting for replica 2") || c.long && !c.lowers && !strings.Contains(d.waits, "does not hear of it") {
			t.Errorf("%s: waits %q", c.name, d.waits)
		}
		if c.lowers {
			s.change(v, d)
			if slices.Contains(s.conf.Voters, 2) || len(s.conf.Voters) != 3 {
				t.Errorf("%s: voters %v", c.name, s.conf.Voters)
			}
		}
	}
	// Its node is not seen either: it is dead, and will be lost, or comes back.
	s := newScene(t, 3, 5, 5, Options{Voters: 5})
	s.nodes[4].Leaving = true
	v := unheard(s, 2, true)
	v.nodes = slices.DeleteFunc(slices.Clone(v.nodes), func(n Node) bool { return n.ID == sceneNode(2) })
	if d := v.decide(); len(d.change) > 0 || !strings.Contains(d.waits, "waiting for replica 2") {
		t.Errorf("of one that is not seen: change %v, waits %q", d.change, d.waits)
	}
}

// TestFewerVotersBesideOneThatIsNotHeard has an operator wish for fewer voters
// while one is not heard: it is the first to go, after a while.
func TestFewerVotersBesideOneThatIsNotHeard(t *testing.T) {
	t.Parallel()
	for _, long := range []bool{false, true} {
		s := newScene(t, 3, 5, 5, Options{Voters: 3})
		v := unheard(s, 2, long)
		d := v.decide()
		if !long && (len(d.change) > 0 || !strings.Contains(d.waits, "waiting for replica 2")) || long && len(d.change) == 0 {
			t.Errorf("for long %t: change %v, waits %q", long, d.change, d.waits)
		}
		if long && len(d.change) > 0 {
			if s.change(v, d); slices.Contains(s.conf.Voters, 2) {
				t.Errorf("voters %v", s.conf.Voters)
			}
		}
	}
}

// TestLearnerThatIsNoHelpIsNamed has a voter lost, and only a learner to take its
// place of which none is made for now.
func TestLearnerThatIsNoHelpIsNamed(t *testing.T) {
	t.Parallel()
	s := newScene(t, 3, 4, 3, Options{})
	s.on[4] = sceneNode(4)
	s.conf.Learners = []uint64{4}
	s.dead[s.on[2]], s.lost[2] = true, true
	v := s.survey()
	v.caughtUp[4], v.deaf = false, map[id.Replica]bool{4: true}
	want := "no node can take its place; replica 4 on node " + sceneNode(4).String() + " does not hear the leader, or does not catch up"
	if d := v.decide(); !strings.HasSuffix(d.waits, want) || len(d.place)+len(d.change) > 0 {
		t.Errorf("waits %q, place %v, change %v", d.waits, d.place, d.change)
	}
}

// TestLearnerThatOnlyRaftHears has gossip not see a learner's node, for good, and
// raft hear of it: it is never lost, and the group grows without it after a while.
func TestLearnerThatOnlyRaftHears(t *testing.T) {
	t.Parallel()
	for _, long := range []bool{false, true} {
		s := newScene(t, 3, 4, 1, Options{})
		s.on[2], s.on[3], s.next = sceneNode(2), sceneNode(3), 4
		s.conf.Learners = []uint64{2, 3}
		v := s.survey()
		v.nodes = slices.DeleteFunc(slices.Clone(v.nodes), func(n Node) bool { return n.ID == sceneNode(3) })
		v.unseenLong = map[id.Replica]bool{3: long}
		d := v.decide()
		if placed := slices.Equal(d.place, []id.Node{sceneNode(4)}); placed != long || len(d.change) > 0 || !d.open {
			t.Errorf("for long %t: place %v, change %v, open %t", long, d.place, d.change, d.open)
		}
	}
}
