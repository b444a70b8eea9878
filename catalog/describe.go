package catalog

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/raftgroup"
)

// description is what a leader's node has told the catalog of its group.
type description struct {
	life    id.Incarnation
	voters  map[id.Replica]id.Node
	options raftgroup.Options
}

func (d description) equal(o description) bool {
	return d.life == o.life && maps.Equal(d.voters, o.voters) && reflect.DeepEqual(d.options, o.options)
}

// telling is a description that the catalog knows.
type telling struct {
	description
	as    *raftgroup.GroupStatus // that said the same last: while it is the newest there is no news
	sweep uint64                 // of the afterlife, that last saw the group led here
}

// tellAll leaves hints with the catalog about the groups that are led here, when
// their voters or their options have changed: a node that comes back after a
// long time finds the group by them, and a listing shows them. Learners come
// and go with subscribers, and are told along with the next change. life is the
// catalog's own, as its replica here has it. What was told of groups that are not
// led here any more is forgotten. The error is the first one that ends a sweep;
// nobody is asked after it.
func (s *Service) tellAll(a *afterlife, groups iter.Seq[*raftgroup.GroupStatus], life id.Incarnation) error {
	if elsewhere := s.catalogElsewhere(); life.Less(elsewhere) {
		life = elsewhere
	}
	a.heed(life, groups)
	a.sweeps++
	now, follows := s.cfg.Clock.Now(), s.follows()
	led, said := 0, len(a.told)
	var failed error
	for g := range groups {
		if !g.IsLeader {
			continue
		}
		t := a.told[g.Group.Structure]
		if t != nil && t.sweep != a.sweeps {
			t.sweep = a.sweeps
			led++
		}
		if failed == nil && (t == nil || t.as != g) && !g.Joint && !g.Deleted && g.Group.Structure != ID {
			failed = s.tellOf(a, g, t, now, follows)
		}
	}
	if led < said {
		maps.DeleteFunc(a.told, func(_ id.Structure, t *telling) bool { return t.sweep != a.sweeps })
	}
	return failed
}

// tellOf leaves a hint about one group with news, if the catalog has to be told.
// follows says that this node can answer for the catalog: then what the catalog
// knows costs no more than the look at the group did, and is looked up for as many as
// there are. Only round trips and commits are rationed.
func (s *Service) tellOf(a *afterlife, g *raftgroup.GroupStatus, t *telling, now time.Time, follows bool) error {
	a.settled = false
	d := description{life: g.Group.Incarnation, voters: g.Voters, options: g.Options}
	if t != nil && t.equal(d) {
		t.as = g
		return nil
	}
	if at, ok := a.refused[g.Group]; ok && now.Sub(at) < askEvery*s.cfg.Patience {
		return nil
	}
	unsure := a.unsure[g.Group.Structure]
	known := follows && !unsure && s.recordHere(g.Group.Structure).says(d)
	if !known {
		if a.budget <= 0 {
			return nil
		}
		a.budget--
		if err := s.tell(g, d, unsure); err != nil {
			if errors.Is(err, ErrDeleted) {
				a.refused[g.Group] = now
				err = s.endDeleted(g.Group, err)
			}
			return s.worthEnding(err, g.Group.Structure)
		}
	}
	a.told[g.Group.Structure] = &telling{description: d, as: g, sweep: a.sweeps}
	delete(a.unsure, g.Group.Structure)
	delete(a.refused, g.Group)
	return nil
}

// recordHere is the record that the machine here has; zero if it has none.
func (s *Service) recordHere(structure id.Structure) Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec, _ := s.machine.Record(structure)
	return rec
}

// catalogElsewhere is the newest life of the catalog that other nodes tell of.
func (s *Service) catalogElsewhere() (newest id.Incarnation) {
	if d, ok := s.cfg.Directory.(incarnations); ok {
		for _, life := range d.Incarnations(ID) {
			if newest.Less(life) {
				newest = life
			}
		}
	}
	return newest
}

// catalogReborn reports whether other nodes tell of a life of the catalog that heed
// has not heard of.
func (s *Service) catalogReborn(a *afterlife) bool { return a.catalog.Less(s.catalogElsewhere()) }

// heed forgets what was told when the catalog has a new life: the replica that
// it was rebuilt from may not have had it. What is here then is told by a
// commit, since a holder of the old life may still answer lookups.
func (a *afterlife) heed(life id.Incarnation, groups iter.Seq[*raftgroup.GroupStatus]) {
	if !a.catalog.Less(life) {
		return
	}
	a.catalog = life
	clear(a.told)
	clear(a.refused)
	for g := range groups {
		if life.Recovery > 0 && g.Group.Structure != ID {
			a.unsure[g.Group.Structure] = true
		}
	}
}

// tell leaves one hint, unless the catalog knows; if what a lookup finds may be
// that of an earlier life of the catalog, in any case. ErrDeleted says that the
// group is about to learn of its deletion, or that the catalog has another life
// of the structure beside it.
func (s *Service) tell(g *raftgroup.GroupStatus, d description, unsure bool) error {
	ctx, cancel := s.tasks.Within(s.ctx, 2*s.cfg.CallTimeout)
	defer cancel()
	if !unsure {
		rec, _, err := s.lookup(ctx, g.Group.Structure)
		if err != nil {
			return err
		}
		if rec.says(d) {
			return nil
		}
	}
	if err := s.Describe(ctx, g.Group, g.Applied, memberHint(g), g.Options); err != nil {
		return fmt.Errorf("tell the catalog of group %s, which is led here: %w", g.Group, err)
	}
	return nil
}

// endDeleted commits the end of a group that is led here, if the catalog proves
// by a commit that it was deleted. A group that ends by DeleteStructure has ended
// before its record is marked; but one that an operator has rebuilt, from a
// replica that had not heard of its end, lives again, and so may one of which all
// replicas were taken for lost. refused is what the catalog said to the hint.
func (s *Service) endDeleted(g id.Group, refused error) error {
	ctx, cancel := s.tasks.Within(s.ctx, 2*s.cfg.CallTimeout)
	defer cancel()
	res, err := s.command(ctx, barrierCommand{g.Structure})
	if err != nil {
		return err
	}
	if !res.Record.Ends(g.Incarnation.Birth) {
		return refused
	}
	s.log.Error("ending a group that is led here: its structure was deleted, and this replica had not heard of it", "group", g.String())
	if err := s.cfg.Engine.EndGroup(ctx, g.Structure, g.Incarnation.Birth, s.cfg.Node); err != nil {
		return fmt.Errorf("end group %s, which was deleted: %w", g, err)
	}
	return nil
}

// says reports whether a record has what a description would tell.
func (r Record) says(d description) bool {
	known := r.Hint
	if known == nil {
		known = r.Members
	}
	return r.Lives() && r.Incarnation == d.life && reflect.DeepEqual(r.Options, d.options) && holds(known, d.voters)
}

// holds reports whether a hint names all voters.
func holds(hint, voters map[id.Replica]id.Node) bool {
	for r, n := range voters {
		if hint[r] != n {
			return false
		}
	}
	return len(voters) > 0
}

// memberHint is the voters and, as far as a hint takes them, the learners; one
// replica of a node.
func memberHint(g *raftgroup.GroupStatus) map[id.Replica]id.Node {
	out := make(map[id.Replica]id.Node)
	on := make(map[id.Node]bool)
	for _, some := range []map[id.Replica]id.Node{g.Voters, g.Learners} {
		for _, r := range slices.Sorted(maps.Keys(some)) {
			if n := some[r]; len(out) < maxHint && !on[n] && !n.IsZero() {
				out[r], on[n] = n, true
			}
		}
	}
	return out
}
