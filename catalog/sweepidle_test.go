package catalog

import (
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/raftgroup"
)

// idleEngine hosts replicas that nothing happens to.
type idleEngine struct {
	*fakeEngine
	groups  []*raftgroup.GroupStatus
	waiting []id.Structure
	aside   []id.Group
	news    uint64
	looks   int
}

func (e *idleEngine) Statuses() iter.Seq[*raftgroup.GroupStatus] {
	return func(yield func(*raftgroup.GroupStatus) bool) {
		e.looks++
		for _, g := range e.groups {
			if !yield(g) {
				return
			}
		}
	}
}

func (e *idleEngine) Holds(id.Structure) bool { return false }
func (e *idleEngine) News() uint64            { return e.news }
func (e *idleEngine) Waiting() []id.Structure { return e.waiting }
func (e *idleEngine) SetAside() []id.Group    { return e.aside }

// idleDirectory knows of the catalog's life alone, and of nothing that was rebuilt.
type idleDirectory struct{ catalog id.Incarnation }

func (*idleDirectory) Holders(id.Structure) []id.Node { return nil }
func (d *idleDirectory) Incarnations(id.Structure) map[id.Node]id.Incarnation {
	return map[id.Node]id.Incarnation{id.Node{1}: d.catalog}
}
func (*idleDirectory) Rebuilt() []id.Structure { return nil }

// idleService has n replicas, a third of them leaders, of which the catalog knows all.
func idleService(n int) (*Service, *idleEngine, *idleDirectory, *afterlife) {
	e, d := &idleEngine{}, &idleDirectory{}
	for i := range n {
		e.groups = append(e.groups, &raftgroup.GroupStatus{
			Group: id.Group{Structure: structure(uint64(i + 1)), Incarnation: id.Incarnation{Birth: uint64(i + 1)}}, IsLeader: i%3 == 0,
			Leader: 1, Voters: members(3), Options: raftgroup.Options{Voters: 3},
		})
	}
	a := newAfterlife()
	for _, g := range e.groups {
		if g.IsLeader {
			a.told[g.Group.Structure] = &telling{description: description{life: g.Group.Incarnation, voters: g.Voters, options: g.Options}}
		}
	}
	return &Service{cfg: Config{Engine: e, Directory: d, Clock: wallClock{}, Patience: 10 * time.Second}}, e, d, a
}

// TestSweepLooksAtNews: replicas are looked at when some are others than before, and
// as long as something may become due.
func TestSweepLooksAtNews(t *testing.T) {
	t.Parallel()
	s, e, d, a := idleService(6)
	looks := func(when string, want bool) {
		t.Helper()
		before := e.looks
		if err := s.sweepEnded(a); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if got := e.looks > before; got != want {
			t.Errorf("%s: it looks at the replicas: %t, want %t", when, got, want)
		}
	}
	rest := func() {
		t.Helper()
		looks("something was to be done the time before", true)
		looks("nothing was", false)
	}
	looks("at first", true)
	rest()

	e.news++
	looks("there are news", true)
	looks("they brought nothing", false)

	without := *e.groups[1]
	without.Leader = 0
	with := e.groups[1]
	e.groups[1], e.news = &without, e.news+1
	looks("a replica has lost its leader", true)
	looks("it is to be asked about", true)
	e.groups[1], e.news = with, e.news+1
	looks("it has one again", true)
	looks("and nothing is due", false)

	e.groups[1], e.news = &without, e.news+1
	looks("a replica has lost its leader once more", true)
	e.groups, e.news = append(e.groups[:1:1], e.groups[2:]...), e.news+1
	looks("it is gone", true)
	looks("nothing is left of it", false)

	other := *e.groups[0]
	other.Voters = members(2)
	other.Voters[7] = id.Node{7}
	e.groups[0], e.news = &other, e.news+1
	a.refused[other.Group] = time.Now() // so that nobody is asked
	looks("a leader has other voters", true)
	looks("the catalog is to be asked again later", true)
	a.refused = make(map[id.Group]time.Time)
	a.told[other.Group.Structure].as = e.groups[0]
	rest()

	e.waiting = []id.Structure{structure(9)}
	looks("a structure is waited for", true)
	e.waiting = nil
	rest()
	e.aside = []id.Group{{Structure: structure(9)}}
	looks("a replica was set aside", true)
	looks("it still is", true)
	e.aside = nil
	rest()
	e.groups = nil // who would have to tell the catalog anew
	d.catalog = id.Incarnation{Birth: 1}
	looks("the catalog has a life that was not heard of", true)
}

// TestSweepRationsQuestions: of as many groups as a node leads, it finds out in one
// sweep what the catalog knows, if it holds the catalog itself. What takes a round
// trip or a commit it does for some of them, and for the rest the next time.
func TestSweepRationsQuestions(t *testing.T) {
	trio(t, func(t *testing.T, s *Service, _ *countingEngine, d *livesDirectory, holders []*Service, _ []*fakeEngine) {
		holder := holders[1]
		d.set(Incarnation, holder.cfg.Node)
		const known, news = 3 * perSweep, perSweep + 8
		var groups []*raftgroup.GroupStatus
		for i := range uint64(known + news) {
			born := mustCommit(t, holder, create(i+1, i+1, 0))
			groups = append(groups, &raftgroup.GroupStatus{
				Group: born.Record.Group(), IsLeader: true, Voters: born.Record.Members, Options: born.Record.Options, Applied: 9,
			})
		}
		for _, g := range groups[known:] {
			g.Voters = map[id.Replica]id.Node{1: nodeID(0), 2: nodeID(1), 4: nodeID(3)}
		}
		sweep := func(who string, s *Service, a *afterlife, told int, commits uint64) {
			t.Helper()
			a.budget = perSweep
			before := holder.machine.Index()
			if err := s.tellAll(a, slices.Values(groups), id.Incarnation{}); err != nil {
				t.Fatal(err)
			}
			if n, c := len(a.told), holder.machine.Index()-before; n != told || c != commits {
				t.Errorf("%s: the catalog knows of %d groups, after %d commits; want %d and %d", who, n, c, told, commits)
			}
		}
		a := newAfterlife()
		sweep("a holder's first sweep", holder, a, known+perSweep, perSweep)
		sweep("its second sweep", holder, a, known+news, 8)
		sweep("its third sweep", holder, a, known+news, 0)
		for _, g := range groups[1:] {
			g.IsLeader = false
		}
		sweep("when it leads one", holder, a, 1, 0)
		for _, g := range groups {
			g.IsLeader = true
		}
		a = newAfterlife()
		sweep("who has to ask a holder", s, a, perSweep, 0)
		sweep("and once more", s, a, 2*perSweep, 0)
	})
}

// BenchmarkSweepIdle is what a node's sweep costs, which it makes every second,
// with ten thousand replicas that nothing happens to, a third of them leaders, and
// when one of them has news.
func BenchmarkSweepIdle(b *testing.B) {
	for _, news := range []uint64{0, 1} {
		b.Run(fmt.Sprintf("news=%d", news), func(b *testing.B) {
			s, e, _, a := idleService(10_000)
			b.ReportAllocs()
			for b.Loop() {
				e.news += news
				if err := s.sweepEnded(a); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
