package raftgroup

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/placement"
)

// survey is what a leader knows when it compares the wish with the fact: its
// group's membership from the log, the nodes from gossip, and how its
// followers do from raft. decide is a pure function of it.
type survey struct {
	structure  id.Structure
	self       id.Replica
	conf       *raftpb.ConfState
	members    map[id.Replica]id.Node
	options    Options
	nodes      []Node              // live, by gossip's word; the order is that of their IDs
	avoided    map[id.Node]bool    // asked to hold a replica, and did not get one
	hopeless   map[id.Node]bool    // of these, those that were asked again and again
	refusals   map[id.Node]string  // what nodes that were asked to hold a replica said last
	stopped    map[id.Replica]bool // their node says that they have stopped
	lost       map[id.Replica]bool // gone for good, as far as anybody can tell
	active     map[id.Replica]bool // heard of lately, this one included: raft forgets once in an election time-out
	away       map[id.Replica]bool // not heard of for a while
	unheard    map[id.Replica]bool // voters not heard of for as long as a dead one is given
	deaf       map[id.Replica]bool // learners of which no voter is made for now: on live nodes, and not heard of for as long as a dead voter is given, or not a step further for long
	unseenLong map[id.Replica]bool // learners whose nodes gossip has not seen for as long, whoever else hears of them
	caughtUp   map[id.Replica]bool // active, and the log is there but for the last entries
	busy       map[id.Node]bool    // somebody subscribes there
	mayMove    bool                // a better membership has been possible for long enough
	idle       map[id.Replica]bool // learners that nobody has needed for long enough
	stray      map[id.Replica]bool // the same, for long enough where the options do not allow one
	settled    bool                // there has been nobody for a leaving voter's place for long enough

	// Derived by begin.
	voters []id.Replica
	good   []id.Replica // voters that stay
	bad    []id.Replica // voters to be replaced, the worst first, and of those that are as bad the leader last
	where  map[id.Node]Node
	usable []placement.Node // may hold a replica
	rank   map[id.Node]int  // of those that may hold one by the structure's options
	plan   placement.Plan
}

// decision is what the leader does next: any number of nodes are asked to get
// a replica, and at most one change of leadership or membership is made.
type decision struct {
	place    []id.Node
	transfer id.Replica
	change   []*raftpb.ConfChangeSingle
	replaces map[id.Replica]id.Replica // by the change: the old voter and the new one
	why      string                    // of transfer or change, for the log
	waits    string                    // why the membership is not as wished, for people; empty: it is
	open     bool                      // what is here is on its way to what is wished: only time is missing
	better   bool                      // a move would give a better spread, or fewer voters are wished
	surplus  []id.Replica              // learners that nobody needs
	alone    bool                      // nobody can take a leaving voter's place, and few would be left
}

// fewVoters is the least number that can lose one.
const fewVoters = 3

// wished is the number of voters that the options wish for: odd.
func wished(o Options) int { return max(int(o.Voters)-1+int(o.Voters)%2, 1) }

// decide compares the wish with the fact. What it changes keeps these rules:
//
//   - one change at a time: nothing while a joint change is under way;
//   - the majority of the new voters is active, and the new voters can lose as
//     many as the old ones could, unless a node leaves in order or an operator
//     wished for fewer; below three voters only when it has been clear for a
//     while that nobody can take the leaving one's place;
//   - the number of voters never falls because nodes died, and is odd if it was;
//   - who becomes a voter is a learner that has caught up.
func (v *survey) decide() decision {
	var d decision
	if isJoint(v.conf) {
		d.waits, d.open = "a membership change is under way", true
		return d
	}
	v.begin()
	_ = v.stepAside(&d) || v.shrink(&d) || v.replace(&d) || v.grow(&d) || v.move(&d)
	v.addLearners(&d)
	v.dismiss(&d)
	d.open = d.open || v.avoids()
	return d
}

// avoids reports whether a node is left alone for a while: what is best without
// it need not be when it is asked again, and nothing but time brings that up.
func (v *survey) avoids() bool {
	return slices.ContainsFunc(v.nodes, func(n Node) bool { return v.avoided[n.ID] && !n.Leaving })
}

func (v *survey) begin() {
	v.where = make(map[id.Node]Node, len(v.nodes))
	for _, n := range v.nodes {
		v.where[n.ID] = n
		if !n.Leaving && !v.avoided[n.ID] {
			v.usable = append(v.usable, placement.Node{ID: n.ID, DataCenter: n.DataCenter, Rack: n.Rack, Capacity: n.Capacity})
		}
	}
	var order []id.Node
	v.plan, order = placement.Rank(v.structure, v.usable, v.options.Placement())
	v.rank = make(map[id.Node]int, len(order))
	for i, n := range order {
		v.rank[n] = i
	}
	for _, r := range v.conf.GetVoters() {
		v.voters = append(v.voters, id.Replica(r))
	}
	slices.Sort(v.voters)
	for _, r := range v.voters {
		if v.badness(r) == 0 {
			v.good = append(v.good, r)
		} else {
			v.bad = append(v.bad, r)
		}
	}
	// Of two that are as bad the leader comes last: it cannot be replaced before
	// another one can lead. Where it is the worst, one less bad leads first.
	slices.SortStableFunc(v.bad, func(a, b id.Replica) int {
		return cmp.Or(cmp.Compare(v.badness(b), v.badness(a)), cmp.Compare(v.leads(a), v.leads(b)))
	})
}

func (v *survey) leads(r id.Replica) int {
	if r == v.self {
		return 1
	}
	return 0
}

// badness says how much a voter is to be replaced; 0: it stays.
func (v *survey) badness(r id.Replica) int {
	n, live := v.where[v.members[r]]
	_, allowed := v.rank[n.ID]
	switch {
	case v.lost[r]:
		return 3
	case live && n.Leaving:
		return 2
	case live && !allowed && !v.avoided[n.ID]:
		return 1 // the options were changed: it is not to be there
	}
	return 0
}

// learnerOn returns the learner on a node, the newest if there are several.
func (v *survey) learnerOn(node id.Node) (found id.Replica) {
	for _, l := range v.conf.GetLearners() {
		if r := id.Replica(l); v.members[r] == node && !v.lost[r] {
			found = max(found, r)
		}
	}
	return found
}

// readiness ranks what is on a node: a learner that has caught up is better
// than one that has not, which is better than none.
func (v *survey) readiness(node id.Node) int {
	switch l := v.learnerOn(node); {
	case l == 0:
		return 0
	case !v.caughtUp[l]:
		return 1
	}
	return 2
}

func (v *survey) nodesOf(replicas []id.Replica) []id.Node {
	out := make([]id.Node, 0, len(replicas))
	for _, r := range replicas {
		out = append(out, v.members[r])
	}
	return out
}

// sound reports whether a majority of the new voters is active, and, unless
// fewer are meant to be, they can lose as many as the old ones could.
func (v *survey) sound(next []id.Replica, fewer bool) bool {
	slack := func(voters []id.Replica) int {
		n := 0
		for _, r := range voters {
			if v.active[r] && !v.lost[r] {
				n++
			}
		}
		return n - (len(voters)/2 + 1)
	}
	margin := slack(next)
	return margin >= 0 && (fewer || margin >= slack(v.voters))
}

// successor picks who should lead instead of this replica: one of those voters,
// which has what has been committed.
func (v *survey) successor(of []id.Replica) id.Replica {
	for _, node := range placement.Leaders(v.structure, v.nodesOf(of), v.usable, v.options.Placement()) {
		for _, r := range of {
			if r != v.self && v.members[r] == node && v.caughtUp[r] {
				return r
			}
		}
	}
	return 0
}

// stepAside hands the lead over before this replica has to go: to a voter that
// stays; without one, to one that has to go less than this one does.
func (v *survey) stepAside(d *decision) bool {
	for least := range v.badness(v.self) {
		var of []id.Replica
		for _, r := range v.voters {
			if v.badness(r) == least {
				of = append(of, r)
			}
		}
		if d.transfer = v.successor(of); d.transfer != 0 {
			d.why = "this node is not to hold the replica any more"
			d.waits, d.open = v.fault(v.self)+": it is handing over the lead", true
			return true
		}
	}
	return false
}

// replace has a voter that is gone, or has to go, replaced by a new one.
func (v *survey) replace(d *decision) bool {
	if len(v.bad) == 0 {
		return false
	}
	old := v.bad[0]
	what := v.fault(old)
	node, ok := v.pick(v.nodesOf(v.good))
	if !ok {
		node, rests := v.resting(v.nodesOf(v.good))
		switch {
		case rests && !v.hopeless[node]:
			d.waits, d.open = what+": node "+node.String()+" did not get a replica, and is asked again: "+v.refusals[node], true
		case v.leave(d):
		case rests:
			d.waits, d.open = what+": node "+node.String()+" did not get one in its place, again and again: "+v.refusals[node], true
		default:
			d.waits = what + ": no node can take its place" + v.confinement() + v.unready()
		}
		return true
	}
	l := v.learnerOn(node)
	if l == 0 {
		d.place = append(d.place, node)
		d.waits = what + ": node " + node.String() + " is getting a replica"
		return true
	}
	next := append(slices.DeleteFunc(slices.Clone(v.voters), func(r id.Replica) bool { return r == old }), l)
	if !v.caughtUp[l] || !v.sound(next, false) {
		d.waits, d.open = fmt.Sprintf("%s: replica %d is catching up", what, l), true
		return true
	}
	if old == v.self && len(v.voters) > 1 {
		d.waits, d.open = what+": it leads, and nobody else can at present", true
		return true
	}
	d.swap(old, l, what)
	return true
}

// confinement says, for people, which nodes the options leave.
func (v *survey) confinement() string {
	if pins := v.options.PinnedDataCenters; len(pins) > 0 {
		return "; the structure is pinned to " + strings.Join(pins, ", ")
	}
	return ""
}

// unready says, for people, which learners could take a voter's place, did they
// hear the leader, or catch up.
func (v *survey) unready() (text string) {
	for _, l := range v.conf.GetLearners() {
		if r := id.Replica(l); v.deaf[r] {
			text += fmt.Sprintf("; replica %d on node %s does not hear the leader, or does not catch up", r, v.members[r])
		}
	}
	return text
}

// fault says, for people, why a voter is to be replaced.
func (v *survey) fault(r id.Replica) string {
	node := v.members[r]
	switch {
	case v.lost[r] && v.stopped[r]:
		return fmt.Sprintf("replica %d has stopped on node %s, whose status says why", r, node)
	case v.lost[r]:
		return fmt.Sprintf("replica %d is lost, with node %s or its log there", r, node)
	case v.badness(r) == 2:
		return fmt.Sprintf("replica %d has to go: node %s leaves", r, node)
	}
	return fmt.Sprintf("replica %d has to go: the options do not allow it on node %s", r, node)
}

func (d *decision) swap(old, by id.Replica, why string) {
	d.change = []*raftpb.ConfChangeSingle{single(raftpb.ConfChangeAddNode, by), single(raftpb.ConfChangeRemoveNode, old)}
	d.replaces = map[id.Replica]id.Replica{old: by}
	d.why, d.waits = why, why
}

func single(t raftpb.ConfChangeType, r id.Replica) *raftpb.ConfChangeSingle {
	return &raftpb.ConfChangeSingle{Type: t.Enum(), NodeId: new(uint64(r))}
}

// grow asks for the replicas that are missing, and makes voters of those that
// have caught up when that makes an odd number.
func (v *survey) grow(d *decision) bool {
	missing := wished(v.options) - len(v.voters)
	if missing <= 0 {
		return false
	}
	keep := v.nodesOf(v.voters)
	var ready []id.Replica
	found := 0
	for range missing {
		node, ok := v.pick(keep)
		if !ok {
			break
		}
		keep = append(keep, node)
		found++
		switch l := v.learnerOn(node); {
		case l == 0 && v.unseen():
		case l == 0:
			d.place = append(d.place, node)
		case v.caughtUp[l]:
			ready = append(ready, l)
		}
	}
	d.waits = fmt.Sprintf("%d voters of %d wished", len(v.voters), wished(v.options))
	need := placement.VoterTarget(len(v.voters)+found, int(v.options.Voters)) - len(v.voters)
	if need <= 0 {
		d.waits += ": too few nodes"
		_, d.open = v.resting(keep)
		return len(d.place) > 0
	}
	d.open = true
	if len(ready) >= need && v.sound(append(slices.Clone(v.voters), ready[:need]...), false) {
		for _, r := range ready[:need] {
			d.change = append(d.change, single(raftpb.ConfChangeAddNode, r))
		}
		d.why = "the group can have more voters"
	}
	return true
}
