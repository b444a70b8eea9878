package raftgroup

import (
	"fmt"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/vfs"
)

// TestWhoRestsShowsItsLeader has a replica hear of its leader, and be offered rest,
// between two of its ticks: they come late where much is to be done, as on a node
// that starts, and ride on other steps. What it showed until then, that it is
// alone, is not what it goes to rest with: nothing would come to set it right. Nor
// does its leader, which looks after its group twice a second, rest with the word
// that it misses it.
func TestWhoRestsShowsItsLeader(t *testing.T) {
	t.Parallel()
	for phase := range 5 { // of the leader's duties, which come with every fifth tick
		t.Run(fmt.Sprint("a voter that starts ", phase), func(t *testing.T) {
			t.Parallel()
			s, late := newStage(t, 3), 2
			shownAtRest(t, s, late, 3, func() {
				s.nodes[late].crash(vfs.KeepAll)
				s.pass(10*time.Second + time.Duration(phase)*100*time.Millisecond) // the others have nothing to do but to wait for it
				if err := s.nodes[late].start(); err != nil {
					t.Fatal(err)
				}
				s.nodes[late].host.Tick()
				for s.nodes[late].host.Step() {
				}
			})
		})
	}
	t.Run("a learner that was cut off", func(t *testing.T) {
		t.Parallel()
		s, late := newStage(t, 2), 1
		shownAtRest(t, s, late, 1, func() {
			n := s.nodes[late]
			n.Go(func() {
				if err := n.host.Join(s.genesis.Group.Structure, s.nodes[0].id); err != nil {
					t.Error(err)
				}
			})
			for try := 0; try < 100 && (n.replica(s) == nil || n.replica(s).Status().Role != "learner"); try++ {
				s.pass(100 * time.Millisecond)
			}
			s.cuts = []link{{from: 1, to: 2}, {from: 2, to: 1}}
			s.pass(lonelyTime + 5*time.Second)
			s.cuts = nil
		})
	})
}

// replica is a node's; nil: it has none.
func (n *stageNode) replica(s *stage) *Group {
	g, _ := n.host.Group(s.genesis.Group.Structure)
	return g
}

// shownAtRest has a group with some voters born, and wants a node whose ticks are
// late to rest with its leader in its status, after what happens has left it alone.
func shownAtRest(t *testing.T, s *stage, late, voters int, happens func()) {
	defer s.finish()
	s.tune = func(c *Config) { c.ElectionTicks = 0 } // the default
	g := Genesis{Group: id.Group{Structure: id.Structure{15: 1}}, Members: make(map[id.Replica]id.Node), Token: Token{1}, Options: Options{Voters: uint32(voters), LearnersPerDataCenter: uint32(len(s.nodes) - voters)}}
	for i, n := range s.nodes {
		if err := n.start(); err != nil {
			t.Fatal(err)
		}
		if i < voters {
			g.Members[id.Replica(i+1)] = n.id
		}
	}
	if err := s.found(g); err != nil {
		t.Fatal(err)
	}
	s.pass(2 * time.Second)
	if s.leader() != s.nodes[0] {
		t.Fatal("node 1 does not lead")
	}
	happens()
	r := s.nodes[late].replica(s)
	if r == nil || !r.Status().Alone || r.Status().Leader != 0 {
		t.Fatalf("the replica is not alone: %+v", r)
	}
	known := func(when string) {
		t.Helper()
		if st := r.Status(); st.Quiet && (st.Alone || st.Leader != 1 || st.LeaderNode != s.nodes[0].id) {
			t.Fatalf("%s: a replica rests, and shows leader %d, alone: %t", when, st.Leader, st.Alone)
		}
		if st := s.nodes[0].replica(s).Status(); !st.IsLeader || st.Quiet && len(st.Missing) > 0 {
			t.Fatalf("%s: node 1 leads: %t; it rests, and misses %v", when, st.IsLeader, st.Missing)
		}
	}
	for range 100 { // ticks of the others
		s.now = s.now.Add(100 * time.Millisecond)
		for i, n := range s.nodes {
			if i != late {
				n.host.Tick()
			}
		}
		s.settle()
		known("before its next tick")
	}
	s.pass(time.Minute)
	if st := r.Status(); !st.Quiet {
		t.Fatalf("the replica does not rest: %+v", st)
	}
	known("in the end")
}
