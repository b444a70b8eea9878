package catalog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/raftgroup"
)

// How a node gets rid of replicas of what was deleted, also if it was away.
//
// A group ends by its own log. But whoever applies the end and removes its
// replica cannot tell the others any more, and the last ones may be left
// without a quorum that could commit it for them. So a node first has the
// catalog's record marked, for good, and removes its replica after that; the
// leader stays a little longer, to tell whom it can. A replica that has known no
// leader for a while, and a subscription that has waited for a replica for a
// while, ask the catalog. What the catalog says is a commit; that gossip does
// not name a structure any more means nothing here.

const (
	// askEvery is how many patiences pass between two questions about one
	// replica that has no leader, or about one structure that is waited for.
	askEvery = 3
	// consumerPatience is how many patiences the replica of a deleted structure
	// stays for subscriptions that have not been handed everything yet.
	consumerPatience = 6
	// perSweep bounds the questions and hints of one sweep: a node that has
	// lost the leaders of thousands of groups does not ask about all at once.
	perSweep = 32
)

// DeleteStructure deletes a structure: its group commits its end, then the
// record is marked. The replicas go by themselves, everywhere. Deleting what is
// deleted changes nothing. It waits until both are done or ctx ends; then the
// structure may be deleted or not, but is never half so: what has ended by its
// own log is marked by the nodes that hold it. ErrUnknown says that there was
// never such a structure, ErrCatalogUnavailable that the catalog did not answer;
// without a quorum of the group itself, the error is the engine's.
func (s *Service) DeleteStructure(ctx context.Context, structure id.Structure) error {
	// Not a lookup: a holder that is behind may not know of the newest life.
	found, err := s.command(ctx, barrierCommand{structure})
	rec := found.Record
	switch {
	case err != nil:
		return err
	case rec.Deleted != 0:
		return nil
	case !rec.Lives():
		return fmt.Errorf("structure %s: %w", structure, ErrUnknown)
	}
	ctx, cancel := s.within(ctx)
	defer cancel()
	for {
		attempt, done := s.tasks.Within(ctx, 2*s.cfg.CallTimeout)
		err := s.cfg.Engine.EndGroup(attempt, structure, rec.Incarnation.Birth, rec.Nodes()...)
		done()
		if err == nil {
			break
		}
		if s.ctx.Err() != nil {
			return ErrClosed
		}
		// The group may be gone already, and its answer lost with it.
		short, done := s.tasks.Within(s.ctx, s.cfg.CallTimeout)
		now, _, lerr := s.lookup(short, structure)
		done()
		switch {
		case lerr == nil && (now.Incarnation.Birth > rec.Incarnation.Birth || (now.Incarnation.Birth == rec.Incarnation.Birth && now.Deleted != 0)):
			return nil
		case ctx.Err() != nil:
			return err
		}
	}
	return s.Delete(ctx, structure, rec.Incarnation.Birth)
}

// afterlife is what the sweeper remembers between two sweeps: bounded by what
// this node hosts and waits for.
type afterlife struct {
	marked  map[id.Group]bool          // the catalog knows of the deletion
	ended   map[id.Group]time.Time     // since when this process has seen that it was deleted
	alone   map[id.Group]time.Time     // since when it knows no leader, or when it asked
	waiting map[id.Structure]time.Time // since when it is waited for, or when it asked
	told    map[id.Structure]*telling  // what the catalog knows of groups that are led here
	asked   map[id.Group]time.Time     // when a later life of it was asked after
	refused map[id.Group]time.Time     // when the catalog said that a group which is led here is deleted
	catalog id.Incarnation             // the newest one heard of: told holds for it alone
	unsure  map[id.Structure]bool      // what the rebuilt catalog has to be told by a commit
	budget  int                        // of questions left for this sweep
	news    uint64                     // of the engine, as of the last sweep
	settled bool                       // it found nothing to do, or to wait for
	sweeps  uint64                     // so far: telling.sweep is of the last that saw it led here
}

func newAfterlife() *afterlife {
	return &afterlife{
		marked: make(map[id.Group]bool), ended: make(map[id.Group]time.Time), alone: make(map[id.Group]time.Time), asked: make(map[id.Group]time.Time),
		waiting: make(map[id.Structure]time.Time), told: make(map[id.Structure]*telling),
		refused: make(map[id.Group]time.Time), unsure: make(map[id.Structure]bool),
	}
}

// sweepEnded removes what was deleted, and asks about what may have been. The
// error is that of a catalog which does not answer. It looks at every replica,
// every second, of which there may be ten thousand that do nothing: so it makes
// nothing of its own for one that is as it should be, asks nobody about it, and does
// not even look while there are no news.
func (s *Service) sweepEnded(a *afterlife) error {
	now, news := s.cfg.Clock.Now(), s.cfg.Engine.News() // before the statuses, which may have more
	rebuilt, waiting, aside := s.rebuilt(), s.cfg.Engine.Waiting(), s.cfg.Engine.SetAside()
	quiet := len(rebuilt)+len(waiting)+len(aside) == 0
	if quiet && a.settled && a.news == news && !s.catalogReborn(a) {
		return nil
	}
	a.budget, a.news, a.settled = perSweep, news, quiet
	err := s.lookAtAll(a, now, rebuilt, waiting, aside)
	if err != nil || a.pending() {
		a.settled = false
	}
	return err
}

// pending reports whether something has a time at which it is due.
func (a *afterlife) pending() bool {
	return len(a.marked)+len(a.ended)+len(a.alone)+len(a.waiting)+len(a.asked)+len(a.refused)+len(a.unsure) > 0
}

func (s *Service) lookAtAll(a *afterlife, now time.Time, rebuilt map[id.Structure]bool, waiting []id.Structure, aside []id.Group) error {
	groups := s.cfg.Engine.Statuses()
	a.forget(groups, waiting, aside)
	var catalog id.Incarnation // of the replica of the catalog here
	for g := range groups {
		if g.Group.Incarnation.Birth == 0 {
			continue
		}
		var err error
		if rebuilt[g.Group.Structure] {
			if err = s.yield(a, g.Group, now); err != nil {
				s.log.Warn("not known whether a replica was superseded", "group", g.Group.String(), "error", err)
				err = nil
			}
		}
		if g.Group.Structure == ID {
			if catalog.Less(g.Group.Incarnation) {
				catalog = g.Group.Incarnation
			}
			continue
		}
		switch {
		case g.Deleted:
			a.settled = false
			err = s.bury(a, g, now)
		case (g.Leader == 0 || g.Alone) && due(a.alone, g.Group, now, s.cfg.Patience):
			err = s.inquire(a, g.Group)
		case g.Leader != 0 && !g.Alone:
			delete(a.alone, g.Group)
		}
		if err = s.worthEnding(err, g.Group.Structure); err != nil {
			return err
		}
	}
	for _, g := range aside {
		if due(a.alone, g, now, s.cfg.Patience) {
			if err := s.worthEnding(s.inquire(a, g), g.Structure); err != nil {
				return err
			}
		}
	}
	for _, w := range waiting {
		if !due(a.waiting, w, now, s.cfg.Patience) {
			continue
		}
		if err := s.worthEnding(s.inquireWaiting(a, w), w); err != nil {
			return err
		}
	}
	return s.tellAll(a, groups, catalog)
}

// due reports whether something has lasted for the patience, and counts from
// anew then, so that it is not due again at once.
func due[K comparable](since map[K]time.Time, key K, now time.Time, patience time.Duration) bool {
	at, ok := since[key]
	switch {
	case !ok:
		since[key] = now
		return false
	case now.Sub(at) < patience:
		return false
	}
	since[key] = now.Add((askEvery - 1) * patience)
	return true
}

// rebuilt lists the structures of which a later life may be elsewhere. A life is
// later than another of the same birth by its recovery number alone.
func (s *Service) rebuilt() map[id.Structure]bool {
	d, ok := s.cfg.Directory.(incarnations)
	if !ok {
		return nil
	}
	var out map[id.Structure]bool
	for _, structure := range d.Rebuilt() {
		if out == nil {
			out = make(map[id.Structure]bool)
		}
		out[structure] = true
	}
	return out
}

// forget drops what is not here any more. Most of it is empty most of the time,
// and then costs nothing.
func (a *afterlife) forget(groups iter.Seq[*raftgroup.GroupStatus], waiting []id.Structure, aside []id.Group) {
	if len(a.waiting) > 0 {
		wanted := make(map[id.Structure]bool)
		for _, w := range waiting {
			wanted[w] = true
		}
		maps.DeleteFunc(a.waiting, func(w id.Structure, _ time.Time) bool { return !wanted[w] })
	}
	if len(a.marked)+len(a.ended)+len(a.alone)+len(a.asked)+len(a.refused)+len(a.unsure) == 0 {
		return
	}
	here, hosted := make(map[id.Group]bool), make(map[id.Structure]bool)
	for g := range groups {
		here[g.Group], hosted[g.Group.Structure] = true, true
	}
	maps.DeleteFunc(a.marked, func(g id.Group, _ bool) bool { return !here[g] })
	maps.DeleteFunc(a.ended, func(g id.Group, _ time.Time) bool { return !here[g] })
	maps.DeleteFunc(a.asked, func(g id.Group, _ time.Time) bool { return !here[g] })
	maps.DeleteFunc(a.refused, func(g id.Group, _ time.Time) bool { return !here[g] })
	maps.DeleteFunc(a.unsure, func(w id.Structure, _ bool) bool { return !hosted[w] })
	for _, g := range aside {
		here[g] = true
	}
	maps.DeleteFunc(a.alone, func(g id.Group, _ time.Time) bool { return !here[g] })
}

// worthEnding passes on only the error that ends a sweep.
func (s *Service) worthEnding(err error, about id.Structure) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrCatalogUnavailable), errors.Is(err, ErrClosed):
		return err
	}
	s.log.Error("replica of a structure that may be deleted is left for now", "structure", about.String(), "error", err)
	return nil
}

// bury marks the record of a group that has ended, and removes the replica when
// nobody needs it here any more.
func (s *Service) bury(a *afterlife, g *raftgroup.GroupStatus, now time.Time) error {
	since, known := a.ended[g.Group]
	if !known {
		a.ended[g.Group], since = now, now
	}
	ctx, cancel := s.tasks.Within(s.ctx, 2*s.cfg.CallTimeout)
	defer cancel()
	if !a.marked[g.Group] {
		if a.budget--; a.budget < 0 {
			return nil
		}
		err := s.Delete(ctx, g.Group.Structure, g.Group.Incarnation.Birth)
		if errors.Is(err, ErrUnknown) {
			// A rebuilt catalog that has lost the birth: it has to know both.
			if err = s.Describe(ctx, g.Group, g.Applied, memberHint(g), g.Options); err == nil {
				err = s.Delete(ctx, g.Group.Structure, g.Group.Incarnation.Birth)
			}
		}
		if err != nil {
			return err
		}
		a.marked[g.Group] = true
	}
	lasted := now.Sub(since)
	if g.IsLeader && lasted < s.cfg.Patience {
		return nil
	}
	if g.Subscriptions > 0 && lasted < consumerPatience*s.cfg.Patience {
		return nil
	}
	return s.removeEnded(ctx, g.Group)
}

// inquire asks the catalog about a replica that nobody leads.
func (s *Service) inquire(a *afterlife, g id.Group) error {
	if a.budget--; a.budget < 0 {
		return nil
	}
	ctx, cancel := s.tasks.Within(s.ctx, 2*s.cfg.CallTimeout)
	defer cancel()
	rec, _, err := s.lookup(ctx, g.Structure)
	switch born := rec.Incarnation.Birth; {
	case err != nil:
		return err
	case born == g.Incarnation.Birth && rec.Lives() && g.Incarnation.Less(rec.Incarnation):
		// The leader of what was rebuilt has told the catalog of it, once: all that
		// there was of that life may be lost, and this be a later rebuilding.
		return s.yieldTo(ctx, g, rec)
	case rec.Ends(g.Incarnation.Birth):
		return s.removeEnded(ctx, g)
	case born > g.Incarnation.Birth:
		// The catalog was rebuilt in between, and may have lost that this one
		// lives: that another one was born is no proof of its deletion.
		err := fmt.Errorf("group %s: %w: born at %d; kept for the operator", g, raftgroup.ErrOtherLife, born)
		s.cfg.Engine.Warn(g, err)
		return err
	}
	return nil
}

// yieldTo sets a replica here aside if one of the nodes where the catalog's record
// of a later life places it says that it runs that, or a later one.
func (s *Service) yieldTo(ctx context.Context, g id.Group, rec Record) error {
	var errs []error
	for _, node := range rec.Nodes() {
		if node == s.cfg.Node || ctx.Err() != nil {
			continue
		}
		found, err := s.cfg.Engine.Lives(ctx, node, g.Structure)
		switch {
		case err != nil:
			errs = append(errs, err)
		case found.Birth == g.Incarnation.Birth && g.Incarnation.Less(found):
			return s.cfg.Engine.Supersede(ctx, g, found)
		}
	}
	s.log.Warn("a replica without a leader is kept in use: the catalog has a later life of its group, and no node that runs it was found",
		"group", g.String(), "later", rec.Incarnation.String(), "error", errors.Join(errs...))
	return nil
}

// yield sets a replica here aside if gossip names a node with a later life of
// the same group, and that node says so itself: then an operator has rebuilt the
// group from another replica.
func (s *Service) yield(a *afterlife, g id.Group, now time.Time) error {
	d, ok := s.cfg.Directory.(incarnations)
	if !ok {
		return nil
	}
	for node, life := range d.Incarnations(g.Structure) {
		if node == s.cfg.Node || life.Birth != g.Incarnation.Birth || !g.Incarnation.Less(life) {
			continue
		}
		if at, asked := a.asked[g]; asked && now.Sub(at) < time.Second {
			return nil
		}
		if a.budget--; a.budget < 0 {
			return nil
		}
		a.asked[g] = now
		ctx, cancel := s.tasks.Within(s.ctx, s.cfg.CallTimeout)
		defer cancel()
		found, err := s.cfg.Engine.Lives(ctx, node, g.Structure)
		if err != nil || found.Birth != g.Incarnation.Birth || !g.Incarnation.Less(found) {
			return err
		}
		return s.cfg.Engine.Supersede(ctx, g, found)
	}
	return nil
}

func (s *Service) removeEnded(ctx context.Context, g id.Group) error {
	s.log.Info("removing the replica of a structure that was deleted", "group", g.String())
	if err := s.cfg.Engine.RemoveEnded(ctx, g); err != nil {
		return fmt.Errorf("remove the replica of a deleted structure: %w", err)
	}
	return nil
}

// inquireWaiting asks the catalog about a structure that is waited for.
func (s *Service) inquireWaiting(a *afterlife, w id.Structure) error {
	if a.budget--; a.budget < 0 || w == ID {
		return nil
	}
	ctx, cancel := s.tasks.Within(s.ctx, 2*s.cfg.CallTimeout)
	defer cancel()
	rec, _, err := s.lookup(ctx, w)
	if err != nil || rec.Deleted == 0 {
		return err
	}
	// A holder that is behind may not know of a life after the deletion.
	now, err := s.command(ctx, barrierCommand{w})
	if err == nil && now.Record.Deleted != 0 {
		s.log.Info("not waiting any more for a structure that was deleted", "structure", w.String())
		s.cfg.Engine.GiveUp(w)
	}
	return err
}
