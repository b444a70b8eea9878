package raftgroup

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/placement"
)

// TestDecideReachesTheWish lets decisions run out from random scenes: nodes
// that leave, are dead, or refuse replicas; voters that are lost, or just not
// there; learners; and an operator who has altered pins, data centers and the
// number of voters. In the end the group is as wished, or what is missing cannot
// be had, and it says so, with the name of who is in the way. No way there takes
// the group below its quorum (see scene.change), or in a circle.
func TestDecideReachesTheWish(t *testing.T) {
	t.Parallel()
	ends := map[string]int{}
	for seed := range uint64(2500) {
		s := randomScene(t, seed)
		if !s.quorate() {
			continue // an operator's case
		}
		s.elect()
		born, start := len(s.conf.Voters), s.leavers()
		s.runOut()
		ends[s.judge(born, start)]++
	}
	for _, end := range []string{"as wished", "too few nodes", "nobody for a lost one", "nobody for a leaving one", "nobody for a misplaced one", "one is away"} {
		if ends[end] < 20 {
			t.Errorf("only %d scenes end with %s: the test says little", ends[end], end)
		}
	}
	t.Log(ends)
}

func randomScene(t *testing.T, seed uint64) *scene {
	r := newScene(t, seed, 1, 1, Options{}).rng
	voters := 1 + 2*r.IntN(3)
	s := newScene(t, seed, voters+r.IntN(5), voters, Options{Voters: uint32(voters)})
	s.rng = r
	s.lead = id.Replica(1 + r.IntN(voters))
	for i, n := range s.nodes {
		s.nodes[i].Leaving = r.IntN(3) == 0
		s.deny[n.ID] = r.IntN(8) == 0
		if i >= voters && r.IntN(4) == 0 {
			s.on[s.next] = n.ID
			s.conf.Learners = append(s.conf.Learners, uint64(s.next))
			s.lost[s.next] = r.IntN(5) == 0
			s.next++
		}
		switch v := id.Replica(i + 1); {
		case i >= voters || v == s.lead:
		case r.IntN(5) == 0:
			s.lost[v], s.dead[n.ID] = true, r.IntN(2) == 0
		case r.IntN(15) == 0:
			s.dead[n.ID] = true // not for long enough
		}
	}
	if r.IntN(3) == 0 {
		s.opt.PinnedDataCenters = []string{fmt.Sprint("dc", r.IntN(4))}
		if r.IntN(2) == 0 {
			s.opt.PinnedDataCenters = append(s.opt.PinnedDataCenters, fmt.Sprint("dc", r.IntN(3)))
		}
	}
	if r.IntN(4) == 0 {
		s.opt.Voters = uint32(1 + 2*r.IntN(3))
	}
	if r.IntN(4) == 0 {
		s.opt.DataCenters = uint32(1 + r.IntN(2))
	}
	return s
}

// runOut lets everything catch up and the decisions run out, and fails if the
// voters come back to nodes where they have been.
func (s *scene) runOut() {
	s.t.Helper()
	been := map[string]bool{}
	for last := ""; ; {
		s.slow = map[id.Replica]bool{}
		now := s.standing()
		if now != last && been[now] {
			s.fail("it has been at %s before", now)
		}
		been[now], last = true, now
		if !s.step() && !s.rested() {
			return
		}
		if len(s.told) > 100 {
			s.fail("no end of changes")
		}
	}
}

// standing is where the voters are, and which of them are lost.
func (s *scene) standing() string {
	var at []string
	for _, r := range s.conf.Voters {
		at = append(at, fmt.Sprint(s.on[id.Replica(r)], s.lost[id.Replica(r)]))
	}
	slices.Sort(at)
	return strings.Join(at, " ")
}

func (s *scene) node(r id.Replica) (n Node, live bool) {
	i := slices.IndexFunc(s.nodes, func(n Node) bool { return n.ID == s.on[r] })
	return s.nodes[i], !s.dead[s.nodes[i].ID]
}

func (s *scene) allows(n Node) bool {
	return len(s.opt.PinnedDataCenters) == 0 || slices.Contains(s.opt.PinnedDataCenters, n.DataCenter)
}

func (s *scene) leavers() (n int) {
	for _, r := range s.conf.Voters {
		if node, live := s.node(id.Replica(r)); live && node.Leaving {
			n++
		}
	}
	return n
}

// judge says how a scene has ended, of a group that began with so many voters,
// so many of them on leaving nodes; and fails if it need not have ended so.
func (s *scene) judge(born, leavers int) string {
	s.t.Helper()
	var lost, leaving, misplaced, away, well []id.Replica
	for _, v := range s.conf.Voters {
		r := id.Replica(v)
		switch n, live := s.node(r); {
		case s.lost[r]:
			lost = append(lost, r)
		case !live:
			away = append(away, r)
		case n.Leaving:
			leaving = append(leaving, r)
		case !s.allows(n):
			misplaced = append(misplaced, r)
		default:
			well = append(well, r)
		}
	}
	free := 0 // nodes that could have another voter
	for _, n := range s.nodes {
		here := slices.ContainsFunc(slices.Concat(well, away), func(r id.Replica) bool { return s.on[r] == n.ID })
		learns := slices.ContainsFunc(s.conf.Learners, func(l uint64) bool { return s.on[id.Replica(l)] == n.ID && !s.lost[id.Replica(l)] })
		if !s.dead[n.ID] && !n.Leaving && s.allows(n) && !here && (learns || !s.deny[n.ID]) {
			free++
		}
	}
	voters, want := len(s.conf.Voters), wished(s.opt)
	waits := s.survey().decide().waits
	tells := func(of []id.Replica, text string) bool {
		return strings.Contains(waits, text) && slices.ContainsFunc(of, func(r id.Replica) bool { return strings.Contains(waits, fmt.Sprintf("replica %d ", r)) })
	}
	bad := slices.Concat(lost, leaving, misplaced)
	if least := placement.VoterTarget(min(born, want)-leavers, want); voters < least {
		s.fail("%d voters are left, and nobody but %d leavers made less than %d necessary", voters, leavers, least)
	}
	switch {
	case voters%2 == 0:
		s.fail("%d voters", voters)
	case waits == "" && (voters != want || len(bad) > 0):
		s.fail("it says that all is as wished: lost %v, leaving %v, misplaced %v", lost, leaving, misplaced)
	case len(away) > 0 && strings.Contains(waits, "waiting for replica "):
		if !slices.ContainsFunc(away, func(r id.Replica) bool { return strings.HasSuffix(waits, fmt.Sprint("waiting for replica ", r)) }) {
			s.fail("it waits for one that is there: %q", waits)
		}
		return "one is away"
	case voters > want:
		s.fail("%d voters, %d wished: %q", voters, want, waits)
	case len(bad) > 0 && free > 0:
		s.fail("lost %v, leaving %v, misplaced %v, and there are %d nodes: %q", lost, leaving, misplaced, free, waits)
	case len(bad) > 0 && !tells(bad, "no node can take its place") && !tells(bad, "did not get one in its place"):
		s.fail("lost %v, leaving %v, misplaced %v, and it says %q", lost, leaving, misplaced, waits)
	case len(lost) > 0:
		return "nobody for a lost one"
	case len(leaving) > 0 && len(misplaced)+len(well)+len(away) > 0:
		s.fail("%v could go, and leave the others: %q", leaving, waits)
	case len(leaving) > 0:
		return "nobody for a leaving one"
	case len(misplaced) > 0:
		return "nobody for a misplaced one"
	case placement.VoterTarget(voters+free, want) != voters:
		s.fail("%d voters, and %d nodes more: %q", voters, free, waits)
	case voters < want && !strings.Contains(waits, "too few nodes"):
		s.fail("%d voters of %d, and it says %q", voters, want, waits)
	case voters < want:
		return "too few nodes"
	case waits != "":
		s.fail("all is as wished, and it says %q", waits)
	}
	return "as wished"
}
