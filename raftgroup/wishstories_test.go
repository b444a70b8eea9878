package raftgroup

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/placement"
)

// TestDecideStories tells what is decided in the cases that users meet.
func TestDecideStories(t *testing.T) {
	t.Parallel()
	voters := func(s *scene) (out []int) {
		for _, r := range s.conf.Voters {
			n := s.on[id.Replica(r)]
			out = append(out, int(binary.BigEndian.Uint64(n[8:])))
		}
		slices.Sort(out)
		return out
	}
	for _, c := range []struct {
		name     string
		nodes    int
		voters   int
		opt      Options
		prepare  func(*scene)
		want     []int
		learners int
		waits    string
	}{
		{"three nodes grow to three voters", 3, 1, Options{}, func(*scene) {}, []int{1, 2, 3}, 0, ""},
		{"two nodes: a voter and a learner", 2, 1, Options{}, func(*scene) {}, []int{1}, 1, "too few nodes"},
		{"a lost voter is replaced", 4, 3, Options{}, func(s *scene) { s.dead[sceneNode(2)], s.lost[2] = true, true }, []int{1, 3, 4}, 0, ""},
		{"a voter that died just now is not", 4, 3, Options{}, func(s *scene) { s.dead[sceneNode(2)] = true }, []int{1, 2, 3}, 0, ""},
		{"a lost voter without a candidate stays", 3, 3, Options{}, func(s *scene) { s.dead[sceneNode(2)], s.lost[2] = true, true }, []int{1, 2, 3}, 0, "no node can take its place"},
		{"a ghost is replaced on its own node", 3, 3, Options{}, func(s *scene) { s.lost[2] = true }, []int{1, 2, 3}, 0, ""},
		{"two of five lost", 7, 5, Options{Voters: 5}, func(s *scene) {
			for _, n := range []int{2, 4} {
				s.dead[sceneNode(n)], s.lost[id.Replica(n)] = true, true
			}
		}, []int{1, 3, 5, 6, 7}, 0, ""},
		{"a leaving node is replaced", 4, 3, Options{}, func(s *scene) { s.nodes[1].Leaving = true }, []int{1, 3, 4}, 0, ""},
		{"the leader's node leaves", 4, 3, Options{}, func(s *scene) { s.nodes[0].Leaving = true }, []int{2, 3, 4}, 0, ""},
		{"three nodes, one leaves: one voter, one learner", 3, 3, Options{}, func(s *scene) { s.nodes[2].Leaving = true }, []int{1}, 1, "too few nodes"},
		{"five voters, one leaves: three and a learner", 5, 5, Options{Voters: 5}, func(s *scene) { s.nodes[4].Leaving = true }, []int{1, 2, 3}, 1, "too few nodes"},
		{"one leaves while one is dead: the number stays", 3, 3, Options{}, func(s *scene) {
			s.nodes[2].Leaving, s.dead[sceneNode(2)] = true, true
		}, []int{1, 2, 3}, 0, "waiting for replica 2"},
		{"a lone voter leaves", 2, 1, Options{Voters: 1}, func(s *scene) { s.nodes[0].Leaving = true }, []int{2}, 0, ""},
		{"the last node leaves", 1, 1, Options{}, func(s *scene) { s.nodes[0].Leaving = true }, []int{1}, 0, "no node can take its place"},
		{"the nodes of all voters leave", 6, 3, Options{}, func(s *scene) {
			for i := range 3 {
				s.nodes[i].Leaving = true
			}
		}, []int{4, 5, 6}, 0, ""},
		{"an operator has it moved elsewhere", 6, 3, Options{}, func(s *scene) {
			for i := range 3 {
				s.nodes[i].DataCenter = "old"
			}
			s.opt.PinnedDataCenters = []string{"dc0", "dc1", "dc2"}
		}, []int{4, 5, 6}, 0, ""},
		{"one of two in the wrong place leads, and its node leaves: that goes first", 4, 3, Options{}, func(s *scene) {
			s.nodes[0].Leaving = true
			for i := range 3 {
				s.nodes[i].DataCenter = "old"
			}
			s.opt.PinnedDataCenters = []string{"dc0"}
		}, []int{2, 3, 4}, 0, "the options do not allow it on node 00000000000000000000000002: no node can take its place; the structure is pinned to dc0"},
		{"a node leaves, and another voter is not where it should be", 3, 3, Options{}, func(s *scene) {
			s.nodes[2].Leaving = true
			s.opt.PinnedDataCenters = []string{"dc0"}
		}, []int{1}, 0, "1 voters of 3 wished: too few nodes"},
		{"a node leaves, and all voters are not where they should be", 5, 5, Options{Voters: 5}, func(s *scene) {
			s.nodes[0].Leaving = true
			s.opt.PinnedDataCenters = []string{"elsewhere"}
		}, []int{2, 3, 4}, 0, "no node can take its place; the structure is pinned to elsewhere"},
		{"one of five leaves while one is lost: three", 5, 5, Options{Voters: 5}, func(s *scene) {
			s.nodes[4].Leaving, s.dead[sceneNode(2)], s.lost[2] = true, true, true
		}, []int{1, 3, 4}, 0, "3 voters of 5 wished: too few nodes"},
		{"two of five leave while one is lost: none of three could be lost", 5, 5, Options{Voters: 5}, func(s *scene) {
			s.nodes[3].Leaving, s.nodes[4].Leaving, s.dead[sceneNode(2)], s.lost[2] = true, true, true, true
		}, []int{1, 2, 3, 4, 5}, 0, "replica 2 is lost, with node 00000000000000000000000002 or its log there: no node can take its place"},
		{"one of three leaves while one is lost: it waits", 3, 3, Options{}, func(s *scene) {
			s.nodes[2].Leaving, s.dead[sceneNode(2)], s.lost[2] = true, true, true
		}, []int{1, 2, 3}, 0, "replica 2 is lost, with node 00000000000000000000000002 or its log there: no node can take its place"},
		{"the same, and an operator wishes for one", 3, 3, Options{}, func(s *scene) {
			s.nodes[2].Leaving, s.dead[sceneNode(2)], s.lost[2] = true, true, true
			s.opt.Voters = 1
		}, []int{1}, 0, ""},
		{"two of five are lost, and an operator wishes for three", 5, 5, Options{Voters: 5}, func(s *scene) {
			for _, n := range []int{2, 4} {
				s.dead[sceneNode(n)], s.lost[id.Replica(n)] = true, true
			}
			s.opt.Voters = 3
		}, []int{1, 3, 5}, 0, ""},
		{"three of seven are lost, and an operator wishes for five: one lost one stays", 7, 7, Options{Voters: 7}, func(s *scene) {
			for _, n := range []int{2, 4, 6} {
				s.dead[sceneNode(n)], s.lost[id.Replica(n)] = true, true
			}
			s.opt.Voters = 5
		}, []int{1, 2, 3, 5, 7}, 0, "replica 2 is lost, with node 00000000000000000000000002 or its log there: no node can take its place"},
		{"one is lost, a spare is there, and an operator wishes for fewer: nothing is copied", 6, 5, Options{Voters: 5}, func(s *scene) {
			s.dead[sceneNode(2)], s.lost[2] = true, true
			s.opt.Voters = 3
		}, []int{1, 3, 5}, 0, ""},
		{"an operator wishes for fewer, and elsewhere: a spare one there comes first", 6, 5, Options{Voters: 5}, func(s *scene) {
			for i := range 5 {
				s.nodes[i].DataCenter = "old"
			}
			s.opt.Voters, s.opt.PinnedDataCenters = 1, []string{"dc2"}
		}, []int{6}, 0, ""},
		{"an operator wishes for fewer, and where there is no node", 5, 5, Options{Voters: 5}, func(s *scene) {
			s.opt.Voters, s.opt.PinnedDataCenters = 3, []string{"elsewhere"}
		}, []int{1, 2, 3}, 0, "no node can take its place; the structure is pinned to elsewhere"},
		{"the lost one's data center is not allowed any more, and one voter is wished", 4, 3, Options{}, func(s *scene) {
			s.dead[sceneNode(2)], s.lost[2], s.dead[sceneNode(4)] = true, true, true
			s.opt.Voters, s.opt.PinnedDataCenters = 1, []string{"dc0", "dc2"}
		}, []int{1}, 0, ""},
		{"two of five leave, no other node is there, one is lost, and an operator wishes for three", 5, 5, Options{Voters: 5}, func(s *scene) {
			s.nodes[3].Leaving, s.nodes[4].Leaving, s.dead[sceneNode(2)], s.lost[2] = true, true, true, true
			s.opt.Voters = 3
		}, []int{1}, 1, "1 voters of 3 wished: too few nodes"},
		{"an operator wishes for fewer", 5, 5, Options{Voters: 5}, func(s *scene) { s.opt.Voters = 3 }, []int{1, 3, 5}, 0, ""},
		{"a better spread is used", 6, 3, Options{}, func(s *scene) {
			for i := range 3 {
				s.nodes[i].DataCenter = "dc0"
			}
		}, nil, 0, ""},
		{"a learner that nobody needs goes", 4, 3, Options{}, func(s *scene) {
			s.on[4], s.next = s.nodes[3].ID, 5
			s.conf.Learners = []uint64{4}
		}, []int{1, 2, 3}, 0, ""},
		{"a learner that somebody uses stays", 4, 3, Options{}, func(s *scene) {
			s.on[4], s.next, s.busy[s.nodes[3].ID] = s.nodes[3].ID, 5, true
			s.conf.Learners = []uint64{4}
		}, []int{1, 2, 3}, 1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, 3, c.nodes, c.voters, c.opt)
			c.prepare(s)
			s.settle()
			d := s.survey().decide()
			if got := voters(s); c.want != nil && !slices.Equal(got, c.want) {
				s.fail("voters on %v, want %v", got, c.want)
			}
			if c.want == nil {
				if spread := placement.SpreadOf(s.voterNodes(), s.places()); spread.PairsInDataCenter > 0 {
					s.fail("spread %s", spread)
				}
			}
			if len(s.conf.Learners) != c.learners || !strings.Contains(d.waits, c.waits) || (c.waits == "") != (d.waits == "") {
				s.fail("%d learners, want %d; waits %q, want %q", len(s.conf.Learners), c.learners, d.waits, c.waits)
			}
		})
	}
}
