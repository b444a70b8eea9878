package raftgroup

import (
	"cmp"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/placement"
)

// shrink lowers the number of voters where an operator wished for fewer. While
// all voters are well there is no hurry: like a move it waits, and a mistake can
// be undone. Where one has to be replaced, it need not be if enough others stay;
// and where too few stay and nobody can join them, those that had to go the
// least stay for now. So fewer voters can always be wished, whatever is lost.
func (v *survey) shrink(d *decision) bool {
	want, why := wished(v.options), "fewer voters are wished"
	if len(v.voters) <= want {
		return false
	}
	d.better = true
	if len(v.bad) == 0 {
		near := slices.DeleteFunc(slices.Clone(v.voters), v.cutOff)
		return v.mayMove && (v.awaits(d, why, near) || v.lower(d, want, why))
	}
	if len(v.good) < want && v.replaceable() {
		return false
	}
	return v.lower(d, want, why)
}

// replaceable reports whether a node can get a voter in place of one that has to
// go, now, or when it has been asked again.
func (v *survey) replaceable() bool {
	_, ok := v.pick(v.nodesOf(v.good))
	if ok {
		return true
	}
	node, rests := v.resting(v.nodesOf(v.good))
	return rests && !v.hopeless[node]
}

// leave lowers the number of voters when a node leaves in order and nobody can
// take its place: to as many as the leaving ones alone make necessary. With
// another voter lost, or cut off from this leader, it does so only if those that
// are left can lose one more; else it waits for that one: what the leaving one has
// might be the only other copy that is whole. Where few would be left, that must have been so
// for a while: gossip may have lost sight of a spare node for a moment, and one
// voter loses everything with its node.
func (v *survey) leave(d *decision) bool {
	stay, there, cut := v.remaining()
	want, why := placement.VoterTarget(len(stay), wished(v.options)), "a node leaves, and no other can take its place"
	missing := len(there) < len(stay)
	switch {
	case len(stay) == len(v.voters) || len(there) == 0:
		return false
	case missing && min(len(there), want) <= want/2+1:
		return v.awaits(d, why, cut)
	}
	// Whether somebody is heard at this very look has no say in it: raft counts anew
	// in each election time-out, and looks that always fall behind that would begin
	// the wait again for ever.
	d.alone = want < fewVoters && want < len(v.voters)
	if v.awaits(d, why, there) {
		return true
	}
	if d.alone && !v.settled {
		d.waits, d.open = why+"; waiting for one that may come", true
		return true
	}
	return v.lower(d, want, why)
}

// remaining lists the voters whose nodes do not leave; of these, those that are
// not lost, and can be counted on; and those that are cut off from this leader.
func (v *survey) remaining() (stay, there, cut []id.Replica) {
	for _, r := range v.voters {
		switch bad := v.badness(r); {
		case bad == 2:
			continue
		case v.cutOff(r):
			cut = append(cut, r)
		case bad < 2: // 1: the options do not allow it, and yet nobody can take its place
			there = append(there, r)
		}
		stay = append(stay, r)
	}
	return stay, there, cut
}

// cutOff reports whether this leader has not heard of a voter for as long as a
// dead one is given, although gossip sees its node: a link may be cut for hours.
func (v *survey) cutOff(r id.Replica) bool {
	_, live := v.where[v.members[r]]
	return live && v.unheard[r] && !v.active[r] && !v.lost[r]
}

// awaits has a change wait as long as one of those voters is not there, which may be back soon.
func (v *survey) awaits(d *decision, why string, voters []id.Replica) bool {
	for _, r := range voters {
		_, live := v.where[v.members[r]]
		if live && v.active[r] {
			continue
		}
		d.waits = fmt.Sprintf("%s; waiting for replica %d", why, r)
		if live && v.away[r] {
			d.waits += fmt.Sprintf(": the leader does not hear of it, and its node %s lives", v.members[r])
		}
		return true
	}
	return false
}

// lower keeps want of the voters, makes learners of the others that could stay,
// and removes those that are not to be there.
func (v *survey) lower(d *decision, want int, why string) bool {
	better := slices.DeleteFunc(slices.Clone(v.voters), func(r id.Replica) bool { return v.badness(r) >= v.badness(v.self) })
	if len(better) > 0 {
		d.open = true
		if !slices.ContainsFunc(better, func(r id.Replica) bool { return v.active[r] }) {
			return v.awaits(d, why, better)
		}
		d.waits = why + "; another replica has to lead first"
		return true
	}
	keep := v.keep(want)
	if !v.sound(keep, true) {
		d.open = true
		return v.awaits(d, why, keep)
	}
	for _, r := range v.voters {
		switch {
		case slices.Contains(keep, r):
		case slices.Contains(v.good, r):
			d.change = append(d.change, single(raftpb.ConfChangeAddLearnerNode, r))
		default:
			d.change = append(d.change, single(raftpb.ConfChangeRemoveNode, r))
		}
	}
	d.why, d.waits = why, why
	return true
}

// keep picks the voters that stay when there are to be fewer: the leader, and
// those that have to go the least, of them those that are there, and of them
// those that spread the voters most.
func (v *survey) keep(want int) []id.Replica {
	missing := func(r id.Replica) int {
		if v.active[r] {
			return 0
		}
		return 1
	}
	keep := []id.Replica{v.self}
	for len(keep) < want {
		var best id.Replica
		for _, r := range v.voters {
			if slices.Contains(keep, r) {
				continue
			}
			spread := func(r id.Replica) placement.Spread {
				return placement.SpreadOf(append(v.nodesOf(keep), v.members[r]), v.usable)
			}
			worse := 0
			if best != 0 {
				worse = cmp.Or(cmp.Compare(v.badness(r), v.badness(best)), cmp.Compare(missing(r), missing(best)))
			}
			if best == 0 || worse < 0 || worse == 0 && v.prefer(v.members[r], v.members[best], spread(r), spread(best)) {
				best = r
			}
		}
		keep = append(keep, best)
	}
	return keep
}
