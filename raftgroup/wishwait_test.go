package raftgroup

import (
	"slices"
	"testing"

	"github.com/copycat-replication/copycat/id"
)

// TestLeaveWaitsForASpare has a voter's node leave while the spare node does not
// get a replica, or is not seen: the group does not fall to one voter for that,
// unless the spare one stays away; and it stays awake.
func TestLeaveWaitsForASpare(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		prepare func(*scene, *survey)
		lowers  bool
	}{
		{"the spare one rests", func(s *scene, v *survey) {
			v.avoided = map[id.Node]bool{sceneNode(4): true}
		}, false},
		{"the spare one never gets a replica", func(s *scene, v *survey) {
			v.avoided, v.hopeless = map[id.Node]bool{sceneNode(4): true}, map[id.Node]bool{sceneNode(4): true}
		}, true},
		{"the spare one is not seen at the moment", func(s *scene, v *survey) {
			v.nodes, v.settled = v.nodes[:3], false
		}, false},
		{"the spare one stays away", func(s *scene, v *survey) { v.nodes = v.nodes[:3] }, true},
	} {
		s := newScene(t, 3, 4, 3, Options{})
		s.nodes[1].Leaving = true
		v := s.survey()
		c.prepare(s, v)
		d := v.decide()
		if lowers := len(d.change) > 0; lowers != c.lowers || !lowers && (!d.open || d.waits == "" || len(d.place) > 0) {
			t.Errorf("%s: place %v, change %v, open %v, waits %q", c.name, d.place, d.change, d.open, d.waits)
		}
	}
	s := newScene(t, 3, 5, 5, Options{Voters: 5})
	s.nodes[4].Leaving = true
	v := s.survey()
	v.settled = false
	if d := v.decide(); len(d.change) == 0 {
		t.Errorf("three of five are left, and it waits: %q", d.waits)
	}
}

// TestLeaveWaitsBetweenTwoAnswers looks at voters right after raft has begun to
// count anew who answers: the wait for a spare node goes on, and does not begin again.
func TestLeaveWaitsBetweenTwoAnswers(t *testing.T) {
	t.Parallel()
	s := newScene(t, 3, 3, 3, Options{})
	s.nodes[1].Leaving = true
	v := s.survey()
	v.settled = false
	v.active = map[id.Replica]bool{v.self: true}
	if d := v.decide(); !d.alone || len(d.change) > 0 {
		t.Errorf("alone %v, change %v, waits %q", d.alone, d.change, d.waits)
	}
}

// TestLearnerThatIsNotSeenCounts has gossip lose sight of a learner's node:
// another one is made when it is lost, not before.
func TestLearnerThatIsNotSeenCounts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		nodes  int
		voters int
		opt    Options
	}{
		{"it is to vote", 4, 1, Options{}},
		{"the options wish for it", 9, 3, Options{LearnersPerDataCenter: 1}},
	} {
		s := newScene(t, 3, c.nodes, c.voters, c.opt)
		s.settle()
		// As it was one step before the end: with learners, not voters.
		if c.voters == 1 {
			s = newScene(t, 3, c.nodes, 1, c.opt)
			s.on[2], s.on[3], s.next = s.nodes[1].ID, s.nodes[2].ID, 4
			s.conf.Learners = []uint64{2, 3}
		}
		gone := id.Replica(s.conf.Learners[len(s.conf.Learners)-1])
		s.dead[s.on[gone]] = true
		if d := s.survey().decide(); len(d.place) > 0 || len(d.change) > 0 || !d.open {
			t.Errorf("%s: not lost, and place %v, change %v, open %v", c.name, d.place, d.change, d.open)
		}
		s.lost[gone] = true
		if d := s.survey().decide(); len(d.place) == 0 {
			t.Errorf("%s: lost, and nothing is placed: %+v", c.name, d)
		}
	}
}

// TestLearnerIsIdleBetweenTwoAnswers looks at a learner that nobody needs right
// after raft has begun to count anew who answers: its idle time goes on. Of one
// that is away for longer nobody knows whether it will be needed.
func TestLearnerIsIdleBetweenTwoAnswers(t *testing.T) {
	t.Parallel()
	s := newScene(t, 3, 4, 3, Options{})
	s.on[4] = sceneNode(4)
	s.conf.Learners = []uint64{4}
	v := s.survey()
	v.active[4], v.caughtUp[4] = false, false
	if d := v.decide(); len(d.surplus) != 1 || len(d.change) != 1 {
		t.Errorf("surplus %v, change %v", d.surplus, d.change)
	}
	v = s.survey()
	v.active[4], v.caughtUp[4], v.away[4] = false, false, true
	if d := v.decide(); len(d.surplus) != 0 || len(d.change) != 0 {
		t.Errorf("of one that is away: surplus %v, change %v", d.surplus, d.change)
	}
}

// TestNodeThatIsLeftAloneIsAskedAgain has the only node for a learner, and the
// only one for a better spread, refuse a replica: the group does not rest before
// it is asked again, since nothing would wake it.
func TestNodeThatIsLeftAloneIsAskedAgain(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		nodes int
		opt   Options
	}{
		{"a learner is wished", 6, Options{LearnersPerDataCenter: 1}},
		{"a better spread is to be had", 5, Options{}},
	} {
		s := newScene(t, 3, c.nodes, 3, c.opt)
		s.nodes[2].DataCenter = "dc0"
		v := s.survey()
		v.mayMove, v.avoided = false, make(map[id.Node]bool)
		for _, n := range s.nodes[3:] {
			v.avoided[n.ID] = true
		}
		if d := v.decide(); !d.open || len(d.place) > 0 {
			t.Errorf("%s: open %t, place %v", c.name, d.open, d.place)
		}
	}
}

// TestLearnerThatDoesNotHearTheLeader has a voter to be replaced, and a learner on
// a live node that the leader has not reached for long: another node gets the voter.
// Where there is no other, the learner is used as soon as it is heard of.
func TestLearnerThatDoesNotHearTheLeader(t *testing.T) {
	t.Parallel()
	for _, spare := range []bool{true, false} {
		nodes := 4
		if spare {
			nodes = 5
		}
		s := newScene(t, 3, nodes, 3, Options{})
		s.on[4] = sceneNode(4)
		s.conf.Learners = []uint64{4}
		s.nodes[2].Leaving = true
		v := s.survey()
		v.active[4], v.caughtUp[4], v.away[4] = false, false, true
		if d := v.decide(); len(d.place) > 0 || len(d.change) > 0 || !d.open {
			t.Errorf("spare %t: not heard of for a moment: place %v, change %v, open %t", spare, d.place, d.change, d.open)
		}
		v = s.survey()
		v.active[4], v.caughtUp[4], v.away[4], v.deaf = false, false, true, map[id.Replica]bool{4: true}
		d := v.decide()
		if spare && !slices.Equal(d.place, []id.Node{sceneNode(5)}) {
			t.Errorf("not heard of for long: place %v, change %v, waits %q", d.place, d.change, d.waits)
		}
		if !spare && len(d.place) > 0 {
			t.Errorf("no other node: place %v", d.place)
		}
		if d := s.survey().decide(); len(d.replaces) != 1 || d.replaces[3] != 4 {
			t.Errorf("spare %t: heard of again: replaces %v, waits %q", spare, d.replaces, d.waits)
		}
	}
}
