package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/id"
)

// end ends all that goes on, and holds the town against its promises.
func (t *town) end() error {
	if len(t.errs) > 0 {
		return nil
	}
	t.over = true
	t.calmDown()
	t.runUntil(t.now.Add(leaveBound), func() bool { return !t.leaving() })
	t.net.calm()
	t.net.slowest = townJitter
	t.rough = 0
	for _, n := range t.there() {
		n.clock, n.diskDelay = 0, time.Millisecond
		n.fs.SetFault(nil)
		if n.up && n.broken() {
			n.kill()
		}
		t.rise(n)
	}
	t.rec.Calm()
	// All become as wished, what nobody needs goes, and everybody falls quiet.
	limit := t.now.Add(spreadBound + idleTime + 2*time.Minute)
	t.runUntil(limit, func() bool { return len(t.errs) > 0 || t.steps%4096 == 0 && t.untidy() == "" })
	if len(t.errs) > 0 {
		return nil
	}
	if why := t.untidy(); why != "" {
		t.must(fmt.Errorf("%w: long after the last event: %s", errInvariant, why))
		return nil
	}
	for _, n := range t.nodes {
		for _, sub := range n.subs {
			sub.propose()
		}
		if n.up {
			n.work()
		}
	}
	t.runUntil(t.now.Add(bound+10*time.Second), t.agreed)
	t.rec.End()
	if !t.agreed() {
		t.describe()
	}
	t.life.finished = true
	return nil
}

// untidy says what is not as it is to be in the end; "": nothing is.
func (t *town) untidy() string {
	t.scene = nil
	sides, clean := t.sides()
	if !clean || len(sides) != 1 {
		return "not everybody reaches everybody"
	}
	for i := range t.structures {
		st := &t.structures[i]
		switch {
		case st.stage == deleting || st.stage == deleted:
			return fmt.Sprintf("structure %s is between two lives: %v", st.id, st.last)
		case st.stage == lasting && len(st.homes) > 0 && t.watch.lives(st.id) == 0:
			return fmt.Sprintf("structure %s is not born", st.id)
		}
		for _, n := range st.homes {
			if st.stage == lasting && n.subscribers(i) == 0 {
				return fmt.Sprintf("no program subscribes to %s on node %d", st.id, n.number)
			}
		}
	}
	for _, st := range t.watched() {
		g, ok := t.standingOf(st)
		if !ok {
			continue
		}
		if whole, spread := t.judge(g, sides); whole+spread != "" {
			t.tell(st)
			return fmt.Sprintf("%s: %s %s", g.Group, whole, spread)
		}
	}
	for _, n := range t.there() {
		if why := t.litter(n); why != "" {
			return fmt.Sprintf("node %d: %s", n.number, why)
		}
	}
	return ""
}

// litter says what is on a node that should not be there.
func (t *town) litter(n *node) string {
	known := make(map[uint64]bool)
	for _, l := range n.log.Groups() {
		known[l.Group] = true
	}
	groups := n.host.Groups()
	if len(groups) != len(known) {
		return fmt.Sprintf("%d replicas, and %d in its log", len(groups), len(known))
	}
	files, err := n.snaps.Groups()
	if err != nil {
		return err.Error()
	}
	for _, f := range files {
		if !known[f] {
			return fmt.Sprintf("files of local group %d, which it does not have", f)
		}
	}
	if aside := n.log.Suspects(); len(aside) > 0 {
		return fmt.Sprintf("%d replicas set aside", len(aside))
	}
	for _, s := range groups {
		g, ok := t.standingOf(s.Group.Structure)
		_, voter := g.Voters[s.Replica]
		_, learner := g.Learners[s.Replica]
		switch {
		case !ok || t.watch.died(s.Group):
			return fmt.Sprintf("a replica of %s, which is deleted", s.Group)
		case !voter && !learner:
			return fmt.Sprintf("replica %d of %s, which is not a member", s.Replica, s.Group)
		case learner && g.Options.LearnersPerDataCenter == 0 && !t.lives(n, s.Group.Structure[:]) && !standsBy(g, n):
			t.tell(s.Group.Structure)
			return fmt.Sprintf("replica %d of %s, a learner that nobody needs", s.Replica, s.Group)
		case s.Leader == 0:
			t.tell(s.Group.Structure)
			return fmt.Sprintf("replica %d of %s shows no leader", s.Replica, s.Group)
		case !s.Quiet && t.complete(g):
			t.tell(s.Group.Structure)
			return fmt.Sprintf("replica %d of %s is not quiet", s.Replica, s.Group)
		}
	}
	for _, w := range n.host.Waiting() {
		if w != catalog.ID { // a passive subscription waits for that on every node
			return fmt.Sprintf("it waits for a replica of %s", w)
		}
	}
	return ""
}

// complete reports whether all members of a group are there. With one that is lost, and
// that nobody can replace where the structure is pinned to, a group does not rest.
func (t *town) complete(g standing) bool {
	for _, members := range []map[id.Replica]id.Node{g.Voters, g.Learners} {
		for _, on := range members {
			if !slices.ContainsFunc(t.there(), func(n *node) bool { return n.id == on }) {
				return false
			}
		}
	}
	return true
}

// standsBy reports whether a learner is a copy that a group with too few voters
// keeps: it becomes one of them as soon as their number stays odd.
func standsBy(g standing, n *node) bool {
	pins := g.Options.PinnedDataCenters
	return len(g.Voters) < int(g.Options.Voters) && (len(pins) == 0 || slices.Contains(pins, n.dc))
}

// lives reports whether a program on a node subscribes to a structure.
func (t *town) lives(n *node, st []byte) bool {
	return slices.ContainsFunc(n.programs, func(i int) bool { return string(t.structures[i].id[:]) == string(st) })
}

// checkVacant holds a node that may leave against what it still has.
func (t *town) checkVacant(n *node) {
	files, err := n.snaps.Groups()
	t.must(err)
	if left := n.log.Groups(); len(left) > 0 || len(files) > 0 {
		t.broken("node %d may leave, with %d replicas and the files of %d", n.number, len(left), len(files))
	}
}

// String prints the figures.
func (f TownFigures) String() string {
	return fmt.Sprintf("%d nodes in all, %d restarts, %d replicas lost, %d voters replaced, %d times as wished, after %s at most, the slowest leave took %s",
		f.Nodes, f.Restarts, f.Lost, f.Moves, f.Settled, f.Longest.Round(time.Second), f.Slowest.Round(time.Second))
}
