package catalog

import (
	"errors"
	"maps"
	"reflect"
	"slices"

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

// tellAll leaves hints with the catalog about the groups that are led here, when
// their voters or their options have changed: a node that comes back after a
// long time finds the group by them, and a listing shows them. Learners come
// and go with subscribers, and are told along with the next change.
func (s *Service) tellAll(a *afterlife, groups []raftgroup.GroupStatus) error {
	for i := range groups {
		g := &groups[i]
		if !g.IsLeader || g.Joint || g.Deleted || g.Group.Structure == ID {
			continue
		}
		d := description{life: g.Group.Incarnation, voters: g.Voters, options: g.Options}
		if a.told[g.Group.Structure].equal(d) {
			continue
		}
		if a.budget--; a.budget < 0 {
			return nil
		}
		if err := s.tell(g, d); err != nil {
			if err = s.worthEnding(err, g.Group.Structure); err != nil {
				return err
			}
			continue
		}
		a.told[g.Group.Structure] = d
	}
	return nil
}

// tell leaves one hint, unless the catalog knows.
func (s *Service) tell(g *raftgroup.GroupStatus, d description) error {
	ctx, cancel := s.tasks.Within(s.ctx, 2*s.cfg.CallTimeout)
	defer cancel()
	rec, _, err := s.lookup(ctx, g.Group.Structure)
	if err != nil {
		return err
	}
	known := rec.Hint
	if known == nil {
		known = rec.Members
	}
	said := description{life: rec.Incarnation, voters: known, options: rec.Options}
	if rec.Lives() && said.life == d.life && reflect.DeepEqual(said.options, d.options) && holds(known, d.voters) {
		return nil
	}
	err = s.Describe(ctx, g.Group, g.Applied, memberHint(g), g.Options)
	if errors.Is(err, ErrDeleted) {
		return nil // the group is about to learn it
	}
	return err
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
