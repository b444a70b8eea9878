package raftgroup

import (
	"cmp"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/placement"
)

// pick returns the node that should get a voter beside those on keep: in the
// data centers that the plan has, where the options limit them; where it
// spreads the voters most; where there is a replica already; as placement has it.
func (v *survey) pick(keep []id.Node) (best id.Node, ok bool) {
	var spread placement.Spread
	for _, n := range v.usable {
		if _, allowed := v.rank[n.ID]; !allowed || slices.Contains(keep, n.ID) || v.takesNone(n.ID) {
			continue
		}
		s := placement.SpreadOf(append(slices.Clone(keep), n.ID), v.usable)
		if !ok || v.prefer(n.ID, best, s, spread) {
			best, spread, ok = n.ID, s, true
		}
	}
	return best, ok
}

// resting returns a node that could take a voter beside those on keep, and is
// only left alone for a while because it did not get a replica when asked; one
// of which there is hope, if there is one.
func (v *survey) resting(keep []id.Node) (found id.Node, ok bool) {
	for _, n := range v.nodes {
		if !v.avoided[n.ID] || n.Leaving || slices.Contains(keep, n.ID) || v.takesNone(n.ID) {
			continue
		}
		all := v.options.Placement()
		all.Voters, all.DataCenters, all.LearnersPerDataCenter = 1, 0, 0
		alone := []placement.Node{{ID: n.ID, DataCenter: n.DataCenter, Rack: n.Rack, Capacity: n.Capacity}}
		if slices.Contains(placement.Choose(v.structure, alone, all).Voters, n.ID) && (!ok || v.hopeless[found]) {
			found, ok = n.ID, true
		}
	}
	return found, ok
}

// takesNone reports whether no voter is to be had on a node. A member there has
// stopped: until its process is started again, which brings that one back, the node
// takes no other. Or the learner there does not hear this leader, although gossip
// sees the node, or does not come any further: a link may be cut for hours, a
// snapshot may not fit, and what waits for a voter does not.
func (v *survey) takesNone(node id.Node) bool {
	for r, n := range v.members {
		if n == node && (v.stopped[r] || v.deaf[r]) {
			return true
		}
	}
	return false
}

// unseen reports whether a learner is on a node that gossip does not see, and is
// not lost: where it is, and whether it comes back, only time tells. What might
// be there already is not placed anew meanwhile. One that raft hears of is never
// lost, and no voter is made where gossip sees no node: after as long it does not count.
func (v *survey) unseen() bool {
	return slices.ContainsFunc(v.conf.GetLearners(), func(l uint64) bool {
		_, live := v.where[v.members[id.Replica(l)]]
		return !live && !v.lost[id.Replica(l)] && !v.unseenLong[id.Replica(l)]
	})
}

func (v *survey) prefer(a, b id.Node, sa, sb placement.Spread) bool {
	return cmp.Or(
		cmp.Compare(v.confined(a), v.confined(b)),
		sa.Compare(sb),
		cmp.Compare(v.readiness(a), v.readiness(b)),
		cmp.Compare(among(v.plan.Voters, a), among(v.plan.Voters, b)),
		cmp.Compare(v.rank[b], v.rank[a]),
	) > 0
}

// confined is 1 in a data center that the plan has, where the options limit
// the number of data centers, and 1 anywhere if they do not.
func (v *survey) confined(n id.Node) int {
	if dcs := int(v.options.DataCenters); dcs <= 0 || dcs >= wished(v.options) {
		return 1
	}
	for _, p := range v.plan.Voters {
		if v.where[p].DataCenter == v.where[n].DataCenter {
			return 1
		}
	}
	return 0
}

func among(nodes []id.Node, n id.Node) int {
	if slices.Contains(nodes, n) {
		return 1
	}
	return 0
}

// move spreads the voters further where that is possible, when all are well.
func (v *survey) move(d *decision) bool {
	now := v.nodesOf(v.voters)
	for _, n := range now {
		if _, well := v.rank[n]; !well {
			return false // it may be back soon
		}
	}
	old, node := v.bestMove(now)
	if old == 0 {
		return false
	}
	d.better = true
	if !v.mayMove {
		return false
	}
	what := fmt.Sprintf("the voter on node %s is better off on node %s", v.members[old], node)
	d.waits = what
	l := v.learnerOn(node)
	if l == 0 {
		d.place = append(d.place, node)
		return true
	}
	next := append(slices.DeleteFunc(slices.Clone(v.voters), func(r id.Replica) bool { return r == old }), l)
	switch {
	case !v.caughtUp[l] || !v.sound(next, false):
	case old == v.self && len(v.voters) > 1:
		d.transfer, d.why = v.successor(v.good), what
	default:
		d.swap(old, l, what)
	}
	return true
}

// bestMove finds the move of one voter, towards the plan, that gains most.
func (v *survey) bestMove(now []id.Node) (old id.Replica, to id.Node) {
	best := now
	opt := v.options.Placement()
	for _, r := range v.voters {
		if slices.Contains(v.plan.Voters, v.members[r]) {
			continue
		}
		for _, n := range v.plan.Voters {
			if slices.Contains(now, n) {
				continue
			}
			then := slices.Clone(now)
			then[slices.Index(then, v.members[r])] = n
			if placement.Better(best, then, v.usable) || v.preferred(best, then, opt) {
				best, old, to = then, r, n
			}
		}
	}
	return old, to
}

// preferred reports whether a move gives the data center where the leader
// should be a voter, and costs no spread.
func (v *survey) preferred(now, then []id.Node, opt placement.Options) bool {
	if opt.PreferredDataCenter == "" || placement.Better(then, now, v.usable) {
		return false
	}
	there := func(nodes []id.Node) bool {
		return slices.ContainsFunc(nodes, func(n id.Node) bool { return v.where[n].DataCenter == opt.PreferredDataCenter })
	}
	return there(then) && !there(now)
}

// addLearners asks for the learners that the options wish for in each data center.
// One whose node rests counts: it is there.
func (v *survey) addLearners(d *decision) {
	per := v.options.Placement().LearnersPerDataCenter
	if per <= 0 {
		return
	}
	have := make(map[string]int)
	taken := slices.Concat(v.nodesOf(v.voters), d.place)
	for _, n := range v.nodes {
		if !n.Leaving && v.learnerOn(n.ID) != 0 {
			have[n.DataCenter]++
			taken = append(taken, n.ID)
		}
	}
	byRank := slices.Clone(v.usable)
	slices.SortFunc(byRank, func(a, b placement.Node) int {
		return cmp.Or(cmp.Compare(among(v.plan.Learners, b.ID), among(v.plan.Learners, a.ID)), cmp.Compare(v.rank[a.ID], v.rank[b.ID]))
	})
	for _, n := range byRank {
		_, allowed := v.rank[n.ID]
		if allowed && have[n.DataCenter] < per && !slices.Contains(taken, n.ID) {
			if v.unseen() {
				d.open = true
				return
			}
			have[n.DataCenter]++
			d.place = append(d.place, n.ID)
		}
	}
}

// dismiss removes a learner that is gone, has to go, or that nobody needs. One
// where the options allow no replica stays for the subscriptions there, which
// would only get another one; that they are there, shows after a while. As long as
// the group is not as wished, one that could vote stays: where there are too few
// nodes for another odd number, it is a copy more, and the next voter.
func (v *survey) dismiss(d *decision) {
	settled := d.waits == "" && !d.better && d.change == nil && d.transfer == 0
	per := v.options.Placement().LearnersPerDataCenter
	kept := make(map[string]int)
	for _, l := range v.conf.GetLearners() {
		r := id.Replica(l)
		n, live := v.where[v.members[r]]
		_, allowed := v.rank[n.ID]
		why := ""
		switch {
		case v.lost[r]:
			why = "it is gone"
		case live && n.Leaving:
			why = "its node leaves"
		case live && !allowed && !v.avoided[n.ID]:
			if !v.busy[n.ID] {
				d.surplus = append(d.surplus, r)
			}
			if v.stray[r] {
				why = "it is not to be there"
			}
		case !settled || v.away[r] || v.busy[n.ID]: // one that raft has just not heard of is idle all the same
		case kept[n.DataCenter] < per:
			kept[n.DataCenter]++
		default:
			d.surplus = append(d.surplus, r)
			if v.idle[r] {
				why = "nobody needs it"
			}
		}
		if why != "" && d.change == nil && d.transfer == 0 {
			d.change = []*raftpb.ConfChangeSingle{single(raftpb.ConfChangeRemoveNode, r)}
			d.why = fmt.Sprintf("learner %d on node %s: %s", r, v.members[r], why)
		}
	}
}
