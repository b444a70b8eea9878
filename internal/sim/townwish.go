package sim

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/placement"
	"github.com/copycat-replication/copycat/raftgroup"
)

// What must hold in a town, seen from above. While nothing changes (nobody comes
// or goes, no link is cut or mended, no message lost), each group of which a
// majority is on one side of the network must become as its options wish, as far
// as the nodes of that side allow:
//
//   - within wholeBound: it has a leader, and as many voters as it should have,
//     all on nodes that run, reach each other, and do not leave;
//   - within spreadBound: its voters are spread as far as they can be, in the
//     data centers that are allowed, and the learners that are wished are there.
const (
	townJitter = 500 * time.Microsecond
	graceTime  = time.Minute // the default of Config.ReplaceAfter
	// wholeBound is the grace, 30 s until everybody believes in the death and has
	// elected, and two minutes for a hundred groups to move, a few at a time.
	wholeBound = graceTime + 30*time.Second + 2*time.Minute
	// brief is how long what must be well may be amiss all the same: a move for a
	// better spread begins when it may, and takes a moment.
	brief = 15 * time.Second
	// spreadBound has a grace more for each of two moves.
	spreadBound = wholeBound + 2*(graceTime+30*time.Second)
	// idleTime is how long a learner that nobody needs may stay.
	idleTime = 5*graceTime + wholeBound
)

// standing is a group as whoever has applied most of its log has it.
type standing struct {
	raftgroup.GroupStatus
	leader *node // of the newest term; nil: nobody leads
}

// standingOf looks at a structure's group on all nodes that run. Who its members
// are, those may know best that are down: a group of which the newest members are
// gone for a while has no majority, whatever an older replica says. And what only
// a learner or a paused node knows elects nobody.
func (t *town) standingOf(st id.Structure) (g standing, ok bool) {
	term, voter := uint64(0), false
	for _, n := range t.nodes {
		if !n.up {
			continue
		}
		r, here := n.host.Group(st)
		if !here || t.watch.died(r.Key()) {
			continue
		}
		s := r.Status()
		if n.paused {
			continue
		}
		if _, votes := s.Voters[s.Replica]; !ok || votes && !voter || votes == voter && s.Applied > g.Applied {
			g.GroupStatus, ok, voter = s, true, votes
		}
		if s.IsLeader && s.Term >= term {
			g.leader, term = n, s.Term
		}
	}
	if s := t.life.newest[g.Group]; ok && s.Applied > g.Applied {
		g.Voters, g.Learners, g.Options = s.Voters, s.Learners, s.Options
		g.Joint = g.Joint || s.Joint // who has not heard of a change's end needs both majorities
	}
	return g, ok
}

// sides splits the nodes that work into those that reach each other; false: some
// links work one way only, or over others, or not well.
func (t *town) sides() (sides [][]*node, clean bool) {
	if t.rough > 0 {
		return nil, false
	}
	for _, n := range t.nodes {
		if !n.up || n.paused {
			continue
		}
		at := slices.IndexFunc(sides, func(s []*node) bool { return t.linked(n, s[0]) && t.linked(s[0], n) })
		if at < 0 {
			at = len(sides)
			sides = append(sides, nil)
		}
		sides[at] = append(sides[at], n)
	}
	for i, a := range sides {
		for _, x := range a {
			if x.doubted > 0 {
				return nil, false
			}
			for j, b := range sides {
				for _, y := range b {
					if x != y && t.linked(x, y) != (i == j) {
						return nil, false
					}
				}
			}
		}
	}
	return sides, true
}

// well reports whether a node of a side can hold replicas.
func (n *node) well() bool { return !n.leaving && n.log.Health() == nil }

// judge says what is not as wished with a group; "": nothing is. First what must
// be well within wholeBound, then what must be within spreadBound.
func (t *town) judge(g standing, sides [][]*node) (whole, spread string) {
	for _, side := range sides {
		count := 0
		for _, v := range g.Voters {
			if slices.ContainsFunc(side, func(n *node) bool { return n.id == v && n.log.Health() == nil }) {
				count++
			}
		}
		if count > len(g.Voters)/2 && !g.Joint {
			return t.judgeOn(g, side)
		}
	}
	if g.Joint && len(sides) == 1 && len(sides[0]) == len(t.there()) { // else the voters before it may be no majority
		return "its membership change is not over", ""
	}
	return "", "" // it has no majority, and waits
}

func (t *town) judgeOn(g standing, side []*node) (whole, spread string) {
	if g.leader == nil || !slices.Contains(side, g.leader) {
		return "nobody leads it", ""
	}
	opt := g.Options.Placement()
	var nodes []placement.Node
	for _, n := range side {
		if n.well() {
			nodes = append(nodes, placement.Node{ID: n.id, DataCenter: n.dc, Rack: n.rack, Capacity: 1})
		}
	}
	most := opt
	most.Voters, most.LearnersPerDataCenter = len(nodes)|1, 0
	allowed := placement.Choose(g.Group.Structure, nodes, most).Voters
	plan := placement.Choose(g.Group.Structure, nodes, opt)
	var voters, bad []id.Node
	for _, r := range replicas(g.Voters) {
		v := g.Voters[id.Replica(r)]
		voters = append(voters, v)
		if why := t.unfit(g, id.Replica(r), v, side); why != "" && len(voters) > 0 {
			bad = append(bad, v)
			whole = fmt.Sprintf("voter %d on node %d %s", r, t.byID[v].number, why)
		} else if !slices.Contains(allowed, v) {
			bad = append(bad, v)
			spread = fmt.Sprintf("voter %d is not to be on node %d", r, t.byID[v].number)
		}
	}
	spare := len(slices.DeleteFunc(slices.Clone(allowed), func(n id.Node) bool { return slices.Contains(voters, n) }))
	target := placement.VoterTarget(len(allowed), int(g.Options.Voters))
	switch {
	case len(bad) > spare: // nobody can take their place
		return "", ""
	case whole != "":
		return whole, spread
	case len(voters) < target:
		return fmt.Sprintf("%d voters, and should have %d", len(voters), target), ""
	case len(voters) > target && len(voters) > int(g.Options.Voters):
		spread = fmt.Sprintf("%d voters, and should have %d", len(voters), target)
	case len(plan.Voters) == len(voters) && placement.Better(voters, plan.Voters, nodes):
		spread = fmt.Sprintf("its voters could be spread further: %s, not %s", placement.SpreadOf(plan.Voters, nodes), placement.SpreadOf(voters, nodes))
	}
	if spread == "" {
		spread = t.judgeLearners(g, nodes, allowed, voters)
	}
	return "", spread
}

// unfit says why a voter cannot stay where it is.
func (t *town) unfit(g standing, r id.Replica, where id.Node, side []*node) string {
	n := t.byID[where]
	switch {
	case n.gone:
		return "is gone"
	case !n.up:
		return "is down"
	case !slices.Contains(side, n):
		return "is cut off"
	case n.leaving:
		return "leaves"
	}
	local, here := n.host.Group(g.Group.Structure)
	switch {
	case !here:
		return "is not there"
	case local.Status().Failed:
		return "has stopped"
	case local.Status().Replica != r:
		return fmt.Sprintf("is not there: replica %d is", local.Status().Replica)
	}
	return ""
}

// judgeLearners says which learners that are wished are missing.
func (t *town) judgeLearners(g standing, nodes []placement.Node, allowed, voters []id.Node) string {
	per := int(g.Options.LearnersPerDataCenter)
	for _, dc := range t.centers {
		have, room := 0, 0
		for _, n := range nodes {
			if n.DataCenter != dc || !slices.Contains(allowed, n.ID) {
				continue
			}
			for _, l := range g.Learners {
				if l == n.ID {
					have++
				}
			}
			if !slices.Contains(voters, n.ID) {
				room++
			}
		}
		if have < min(per, room) {
			return fmt.Sprintf("%d learners in %s, and %d wished", have, dc, per)
		}
	}
	return ""
}

// watched lists what the wish is asked of: the structures that live, and the
// catalog.
func (t *town) watched() (out []id.Structure) {
	for i := range t.structures {
		if t.structures[i].stage == lasting {
			out = append(out, t.structures[i].id)
		}
	}
	return append(out, catalog.ID)
}

// observe looks, now and then, whether all is as wished, and how long it took.
func (t *town) observe() {
	if t.life.finished {
		return
	}
	t.after(2*time.Second, t.observe)
	if t.life.well && t.life.seen == t.steady && t.now.Sub(t.life.looked) < 20*time.Second {
		return
	}
	t.life.seen, t.life.looked = t.steady, t.now
	for _, n := range t.nodes {
		if sick := n.up && n.log.Health() != nil; sick != n.sick { // since then its replicas are to be replaced
			n.sick, t.steady = sick, t.now
		}
	}
	sides, clean := t.sides()
	if !clean {
		t.steady, t.life.well = t.now, false
		return
	}
	well := true
	for _, st := range t.watched() {
		g, ok := t.standingOf(st)
		if !ok {
			continue
		}
		first, known := t.life.first[g.Group]
		if !known {
			t.life.first[g.Group], first = t.now, t.now
		}
		since := t.steady
		if first.After(since) {
			since = first
		}
		whole, spread := t.judge(g, sides)
		lasted := t.now.Sub(since)
		amiss, known := t.life.amiss[g.Group]
		if whole == "" {
			delete(t.life.amiss, g.Group)
		} else if !known {
			t.life.amiss[g.Group], amiss = t.now, t.now
		}
		switch {
		case whole != "" && lasted > wholeBound && t.now.Sub(amiss) > brief:
			t.complain(g, lasted, whole)
		case spread != "" && lasted > spreadBound:
			t.complain(g, lasted, spread)
		}
		if whole != "" {
			t.life.whole = max(t.life.whole, lasted)
		}
		if whole+spread != "" {
			well = false
			t.life.Longest = max(t.life.Longest, lasted)
		}
	}
	if well && !t.life.well {
		t.life.Settled++
	}
	t.life.well = well
}

func (t *town) complain(g standing, lasted time.Duration, what string) {
	t.must(fmt.Errorf("%w: %s, for %s after anything changed: %s", errInvariant, g.Group, lasted, what))
	t.tell(g.Group.Structure)
}

// tell keeps where everybody stands with one structure.
func (t *town) tell(st id.Structure) {
	for _, n := range t.nodes {
		where := fmt.Sprintf("node %d.%d in %s/%s", n.number, n.life, n.dc, n.rack)
		switch {
		case n.gone:
			continue
		case !n.up:
			t.scene = append(t.scene, where+" is down")
			continue
		}
		if n.leaving {
			where += ", leaving"
		}
		if n.paused {
			where += ", paused"
		}
		g, here := n.host.Group(st)
		if !here {
			t.scene = append(t.scene, where+" has no replica; it sees "+t.seenBy(n))
			continue
		}
		s := g.Status()
		t.scene = append(t.scene, fmt.Sprintf("%s: replica %d %s of %v and %v, joint %t, term %d, leader %d, commit %d, applied %d, quiet %t, options %+v; %s; %v; it sees %s",
			where, s.Replica, s.Role, s.Voters, s.Learners, s.Joint, s.Term, s.Leader, s.Commit, s.Applied, s.Quiet, s.Options, n.host.WhyAwake(st), s.LastError, t.seenBy(n)))
	}
}

func (t *town) seenBy(n *node) string {
	var out []string
	for _, o := range t.nodes {
		if v := n.sees[o]; v != nil && v.alive {
			out = append(out, fmt.Sprintf("%d.%d", o.number, v.life))
		}
	}
	return strings.Join(out, " ")
}

// membership holds a membership that was not seen before against the rules of
// changing one: an odd number of voters, never fewer because nodes died, and
// never one of which the majority is gone for good.
func (t *town) membership(s raftgroup.GroupStatus) {
	before, known := t.life.voters[s.Group]
	if known && s.Applied <= before.applied || s.Joint {
		return
	}
	count := len(s.Voters)
	t.life.voters[s.Group] = electorate{applied: s.Applied, count: count}
	if known && count == before.count {
		return
	}
	left := 0
	for _, v := range s.Voters {
		if !t.byID[v].gone {
			left++
		}
	}
	switch {
	case count%2 == 0:
		t.broken("%s has %d voters as of %d", s.Group, count, s.Applied)
	case left <= count/2:
		t.broken("%s has %d voters as of %d, and %d of them are gone for good", s.Group, count, s.Applied, count-left)
	case known && count < before.count && count < int(s.Options.Voters) && t.now.Sub(t.left) > time.Minute && !t.leaving():
		t.broken("%s has %d voters as of %d, and had %d, while nobody left in order", s.Group, count, s.Applied, before.count)
	}
}

// electorate is how many voters a group has.
type electorate struct {
	applied uint64
	count   int
}

// leaving reports whether a node leaves in order.
func (t *town) leaving() bool {
	return slices.ContainsFunc(t.nodes, func(n *node) bool { return n.up && n.leaving })
}

// canLose reports whether every group can live without some nodes, for good:
// with those that are gone already, they are no majority of its voters, and no
// change of them is on its way.
func (t *town) canLose(nodes []*node) bool {
	if len(nodes) == 0 {
		return false
	}
	gone := func(v id.Node) bool { return t.byID[v].gone || slices.Contains(nodes, t.byID[v]) }
	for _, n := range t.there() {
		if !n.up {
			return false // what it knows of memberships may be newer
		}
		for _, s := range n.host.Groups() {
			if t.watch.died(s.Group) {
				continue
			}
			left := 0
			for _, v := range s.Voters {
				if !gone(v) {
					left++
				}
			}
			if s.Role == "prepared" || s.Joint || s.Voters == nil || left <= len(s.Voters)/2 || t.changeIn(n, s) {
				return false
			}
		}
	}
	return true
}

// changeIn reports whether a node's log has a membership change that is not applied.
func (t *town) changeIn(n *node, s raftgroup.GroupStatus) bool {
	for key, r := range t.watch.locals {
		if key.node != n.number || r.group != s.Group || r.last <= s.Applied {
			continue
		}
		entries, err := n.log.Entries(key.group, s.Applied+1, r.last+1, 1<<30)
		if err != nil {
			return true
		}
		for _, e := range entries {
			if e.GetType() != raftpb.EntryNormal {
				return true
			}
		}
	}
	return false
}

func passing(err error) bool {
	for _, p := range []error{
		catalog.ErrCatalogUnavailable, catalog.ErrNoNodes, catalog.ErrDeleted, catalog.ErrClosed, raftgroup.ErrClosed, raftgroup.ErrLeaving, raftgroup.ErrBusy,
	} {
		if errors.Is(err, p) {
			return true
		}
	}
	return false
}

func joined(errs []error) error { return errors.Join(errs...) }
