package catalog

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/raftgroup"
)

// countingEngine notes what is removed and given up.
type countingEngine struct {
	*fakeEngine
	removed []id.Group
	givenUp []id.Structure
}

func (e *countingEngine) RemoveEnded(_ context.Context, g id.Group) error {
	e.removed = append(e.removed, g)
	return nil
}

func (e *countingEngine) GiveUp(s id.Structure) { e.givenUp = append(e.givenUp, s) }

// livesDirectory is a directory that a test changes.
type livesDirectory struct {
	mu    sync.Mutex
	nodes []id.Node
	life  id.Incarnation
}

func (d *livesDirectory) set(life id.Incarnation, nodes ...id.Node) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.life, d.nodes = life, nodes
}

func (d *livesDirectory) Holders(id.Structure) []id.Node {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.nodes
}

func (d *livesDirectory) Incarnations(id.Structure) map[id.Node]id.Incarnation {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make(map[id.Node]id.Incarnation)
	for _, n := range d.nodes {
		out[n] = d.life
	}
	return out
}

func (d *livesDirectory) Rebuilt() []id.Structure { return []id.Structure{ID} }

var _ incarnations = (*livesDirectory)(nil)

// trio is a node without the catalog (node 1), and two holders that know
// nothing of each other (2 and 3): one that is behind, or of an old life of the
// catalog, and one that is not.
func trio(t *testing.T, f func(t *testing.T, s *Service, e *countingEngine, d *livesDirectory, holders []*Service, engines []*fakeEngine)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network, d := fakeNetwork{}, &livesDirectory{}
		var engines []*fakeEngine
		var services []*Service
		mine := &countingEngine{fakeEngine: newFakeEngine()}
		mine.holds = false
		engines = append(engines, mine.fakeEngine, newFakeEngine(), newFakeEngine())
		for i, e := range []Engine{mine, engines[1], engines[2]} {
			node := nodeID(uint64(i + 1))
			s, err := New(Config{Node: node, Engine: e, Network: network, Directory: d, Clock: wallClock{}})
			if err != nil {
				t.Fatal(err)
			}
			network[node] = s
			services = append(services, s)
		}
		defer func() {
			for i, s := range services {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				engines[i].close()
			}
		}()
		synctest.Wait()
		f(t, services[0], mine, d, services[1:], engines[1:])
	})
}

func mustCommit(t *testing.T, s *Service, c command) Result {
	t.Helper()
	res, err := s.commit(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// TestRebuiltCatalogIsTold: what a leader has told the old catalog, it tells the
// rebuilt one too, though nothing has changed and a holder of the old life still
// answers.
func TestRebuiltCatalogIsTold(t *testing.T) {
	trio(t, func(t *testing.T, s *Service, _ *countingEngine, d *livesDirectory, holders []*Service, engines []*fakeEngine) {
		old, rebuilt := holders[0], holders[1]
		mustCommit(t, old, advanceCommand{by: 10})
		mustCommit(t, rebuilt, advanceCommand{by: recoveryGap})
		g := raftgroup.GroupStatus{
			Group: id.Group{Structure: structure(5), Incarnation: id.Incarnation{Birth: 7}}, IsLeader: true,
			Voters: members(3), Applied: 20, Options: raftgroup.Options{Voters: 3},
		}
		groups := slices.Values([]*raftgroup.GroupStatus{&g})
		d.set(Incarnation, old.cfg.Node)
		a := newAfterlife()
		tell := func() {
			t.Helper()
			a.budget = perSweep
			if err := s.tellAll(a, groups, id.Incarnation{}); err != nil {
				t.Fatal(err)
			}
		}
		tell()
		if rec, _, err := old.localRecord(structure(5)); err != nil || rec.Group() != g.Group {
			t.Fatalf("the old catalog has %+v, %v", rec, err)
		}
		engines[0].set(func() { engines[0].deaf = true }) // the old life has no quorum any more
		d.set(id.Incarnation{Birth: Incarnation.Birth, Recovery: 1 << 16}, old.cfg.Node, rebuilt.cfg.Node)
		tell()
		if rec, _, err := rebuilt.localRecord(structure(5)); err != nil || rec.Group() != g.Group {
			t.Fatalf("the rebuilt catalog has %+v, %v", rec, err)
		}
		index := rebuilt.machine.Index()
		if tell(); rebuilt.machine.Index() != index {
			t.Error("told again without need")
		}
		// Another life beside the one that is led here is nothing to pass over.
		other := g
		other.Group = id.Group{Structure: structure(6), Incarnation: id.Incarnation{Birth: 8}}
		d.set(id.Incarnation{Birth: Incarnation.Birth, Recovery: 1 << 16}, rebuilt.cfg.Node)
		if res := mustCommit(t, rebuilt, create(6, 1, rebuilt.machine.Index())); res.Outcome != Created {
			t.Fatal(res.Outcome)
		}
		if err := s.tell(&other, description{life: other.Group.Incarnation, voters: other.Voters, options: other.Options}, false); !errors.Is(err, ErrDeleted) {
			t.Errorf("told of a life before the catalog's: %v", err)
		}
	})
}

// TestBirthInTheLostTailIsKept: a structure that was born in the part of the log
// that the rebuilt catalog has lost, and then once more, keeps its replicas.
func TestBirthInTheLostTailIsKept(t *testing.T) {
	trio(t, func(t *testing.T, s *Service, e *countingEngine, d *livesDirectory, holders []*Service, _ []*fakeEngine) {
		rebuilt := holders[1]
		d.set(Incarnation, rebuilt.cfg.Node)
		mustCommit(t, rebuilt, advanceCommand{by: recoveryGap})
		res := mustCommit(t, rebuilt, create(5, 1, rebuilt.machine.Index()))
		if res.Outcome != Created {
			t.Fatal(res.Outcome)
		}
		a := newAfterlife()
		a.budget = perSweep
		lost := id.Group{Structure: structure(5), Incarnation: id.Incarnation{Birth: 100}}
		if err := s.inquire(a, lost); err == nil || len(e.removed) > 0 {
			t.Errorf("born at %d, and again at %d: %v, removed %v", lost.Incarnation.Birth, res.Index, err, e.removed)
		}
		ended := id.Group{Structure: structure(5), Incarnation: id.Incarnation{Birth: res.Index - 1}}
		if err := s.inquire(a, ended); err != nil || !slices.Equal(e.removed, []id.Group{ended}) {
			t.Errorf("what was deleted before: %v, removed %v", err, e.removed)
		}
	})
}

// TestGiveUpIsConfirmed: a holder that is behind says that a structure was
// deleted, which has been created anew since.
func TestGiveUpIsConfirmed(t *testing.T) {
	trio(t, func(t *testing.T, s *Service, e *countingEngine, d *livesDirectory, holders []*Service, engines []*fakeEngine) {
		behind, fresh := holders[0], holders[1]
		for _, h := range holders {
			born := mustCommit(t, h, create(5, 1, 0))
			mustCommit(t, h, deleteCommand{structure(5), born.Index})
		}
		next := create(5, 2, fresh.machine.Index())
		next.strict, next.after = true, 1
		again := mustCommit(t, fresh, next)
		if again.Outcome != Created {
			t.Fatal(again.Outcome)
		}
		engines[0].set(func() { engines[0].deaf = true })
		d.set(Incarnation, behind.cfg.Node, fresh.cfg.Node)
		a := newAfterlife()
		for range 2 { // whichever is asked first
			a.budget = perSweep
			if err := s.inquireWaiting(a, structure(5)); err != nil {
				t.Fatal(err)
			}
		}
		if len(e.givenUp) > 0 {
			t.Error("given up what was created anew")
		}
		mustCommit(t, fresh, deleteCommand{structure(5), again.Index})
		if err := s.inquireWaiting(a, structure(5)); err != nil || len(e.givenUp) != 1 {
			t.Errorf("what is deleted: %v, given up %v", err, e.givenUp)
		}
	})
}

// TestBirthIsConfirmed: a holder that is behind says that a structure was
// deleted, which has been created anew since, or that it lives, which has been
// deleted since. Neither is what a caller is told.
func TestBirthIsConfirmed(t *testing.T) {
	trio(t, func(t *testing.T, s *Service, e *countingEngine, d *livesDirectory, holders []*Service, engines []*fakeEngine) {
		behind, fresh := holders[0], holders[1]
		ask := func(what string, check func()) {
			t.Helper()
			for range 2 { // whichever is asked first
				check()
				if t.Failed() {
					t.Fatal(what)
				}
			}
		}
		pick := func() []id.Node { return []id.Node{s.cfg.Node} }
		var born uint64
		for _, h := range holders {
			born = mustCommit(t, h, create(5, 1, 0)).Index
			mustCommit(t, h, deleteCommand{structure(5), born})
		}
		next := create(5, 2, fresh.machine.Index())
		next.strict, next.after = true, born
		again := mustCommit(t, fresh, next)
		engines[0].set(func() { engines[0].deaf = true })
		d.set(Incarnation, behind.cfg.Node, fresh.cfg.Node)
		ask("created anew", func() {
			if rec, err := s.Confirm(t.Context(), structure(5)); err != nil || rec.Incarnation.Birth != again.Index {
				t.Errorf("confirmed as %+v, %v", rec, err)
			}
			if rec, err := s.Birth(t.Context(), structure(5), raftgroup.Options{}, pick); err != nil || rec.Incarnation.Birth != again.Index {
				t.Errorf("a late subscriber: %+v, %v", rec, err)
			}
		})
		engines[0].set(func() { engines[0].deaf = false })
		live := create(6, 3, fresh.machine.Index())
		for _, h := range holders {
			live.basis = h.machine.Index()
			mustCommit(t, h, live)
		}
		rec, _ := fresh.machine.Record(structure(6))
		mustCommit(t, fresh, deleteCommand{structure(6), rec.Incarnation.Birth})
		engines[0].set(func() { engines[0].deaf = true })
		ask("deleted", func() {
			if _, err := s.Confirm(t.Context(), structure(6)); !errors.Is(err, ErrDeleted) {
				t.Errorf("confirmed: %v", err)
			}
			if _, err := s.Confirm(t.Context(), structure(7)); !errors.Is(err, ErrUnknown) {
				t.Errorf("what never was: %v", err)
			}
		})
		if rec, err := s.Create(t.Context(), structure(6), raftgroup.Options{}, pick); err != nil || rec.Structure != structure(6) {
			t.Errorf("created anew what a holder that is behind takes for living: %v", err)
		}
	})
}

// TestAdvanceForgetsCreatesUnderWay: their tokens may have been abandoned in what was lost.
func TestAdvanceForgetsCreatesUnderWay(t *testing.T) {
	t.Parallel()
	m := NewMachine()
	mustApply(t, m, barrierCommand{})
	data, err := RecoveryCommand(0, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Apply(data); err != nil {
		t.Fatal(err)
	}
	if res := mustApply(t, m, create(1, 1, 1)); res.Outcome != Stale {
		t.Errorf("a create from before came to %s", res.Outcome)
	}
	if res := mustApply(t, m, create(1, 2, m.Index())); res.Outcome != Created {
		t.Errorf("a create from after came to %s", res.Outcome)
	}
}
