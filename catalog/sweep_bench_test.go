package catalog

import (
	"iter"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/raftgroup"
)

// idleEngine hosts replicas that nothing happens to.
type idleEngine struct {
	*fakeEngine
	groups []*raftgroup.GroupStatus
}

func (e *idleEngine) Statuses() iter.Seq[*raftgroup.GroupStatus] {
	return func(yield func(*raftgroup.GroupStatus) bool) {
		for _, g := range e.groups {
			if !yield(g) {
				return
			}
		}
	}
}

func (e *idleEngine) Waiting() []id.Structure { return nil }
func (e *idleEngine) SetAside() []id.Group    { return nil }

// idleDirectory knows of nothing that was rebuilt.
type idleDirectory struct{}

func (idleDirectory) Holders(id.Structure) []id.Node                       { return nil }
func (idleDirectory) Incarnations(id.Structure) map[id.Node]id.Incarnation { return nil }
func (idleDirectory) Rebuilt() []id.Structure                              { return nil }

// BenchmarkSweepIdle is what a node's sweep costs, which it makes every second,
// with ten thousand replicas that nothing happens to, a third of them leaders.
func BenchmarkSweepIdle(b *testing.B) {
	e := &idleEngine{}
	for i := range 10_000 {
		e.groups = append(e.groups, &raftgroup.GroupStatus{
			Group: id.Group{Structure: structure(uint64(i + 1)), Incarnation: id.Incarnation{Birth: uint64(i + 1)}}, IsLeader: i%3 == 0,
			Leader: 1, Voters: members(3), Options: raftgroup.Options{Voters: 3},
		})
	}
	s := &Service{cfg: Config{Engine: e, Directory: idleDirectory{}, Clock: wallClock{}, Patience: 10 * time.Second}}
	a := newAfterlife()
	for _, g := range e.groups {
		if g.IsLeader {
			a.told[g.Group.Structure] = &telling{description: description{life: g.Group.Incarnation, voters: g.Voters, options: g.Options}}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := s.sweepEnded(a); err != nil {
			b.Fatal(err)
		}
	}
}
