package sim

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/raftgroup"
)

// TestDeleteDuringAPartition tells of a structure that is deleted while one of
// its nodes is cut off, and created anew before that node comes back: which
// must not bring the old life with it, nor vote in the new one as the old one.
func TestDeleteDuringAPartition(t *testing.T) {
	var story []string
	tell := func(format string, args ...any) { story = append(story, fmt.Sprintf(format, args...)) }
	s, end, err := newSim(Plan{Seed: 3, Nodes: 3, Groups: 1, Faults: []int{}}, Options{})
	defer end()
	if err != nil {
		t.Fatal(err)
	}
	s.structures[0].born, s.structures[0].since = true, 0
	s.structures[0].id[15] = 99 // not the one that was there from the start
	st := &s.structures[0]
	pass := func(d time.Duration) { s.runUntil(s.now.Add(d), nil) }
	on := func(n *node, f func(context.Context) error) error {
		ctx, cancel := tasks{n}.Within(context.Background(), 20*time.Second)
		defer cancel()
		return s.wait(n, "no answer", func() error { return f(ctx) })
	}
	held := func() string {
		var lives []string
		for _, n := range s.nodes {
			life := "nothing"
			if g, here := n.host.Group(st.id); here {
				life = map[bool]string{true: "the first life", false: "the second life"}[g.Key().Incarnation.Birth == firstBirth(s, st)]
			}
			lives = append(lives, fmt.Sprintf("node %d has %s", n.number, life))
		}
		return strings.Join(lives, ", ")
	}
	options := raftgroup.Options{Voters: 3, SnapshotEntries: 100}
	all := s.nodes[0].pick
	pass(20 * time.Second) // the catalog grows

	tell("created: %v", on(s.nodes[0], func(ctx context.Context) error {
		_, err := s.nodes[0].svc.Create(ctx, st.id, options, all)
		return err
	}))
	pass(5 * time.Second)
	tell("%s", held())
	for _, n := range s.nodes {
		s.must(n.subscribe(0))
		n.work()
	}
	pass(3 * time.Second)

	heal := s.isolate(s.nodes[2])
	tell("node 3 is cut off")
	tell("deleted: %v", on(s.nodes[0], func(ctx context.Context) error { return s.nodes[0].svc.DeleteStructure(ctx, st.id) }))
	tell("deleted again: %v", on(s.nodes[1], func(ctx context.Context) error { return s.nodes[1].svc.DeleteStructure(ctx, st.id) }))
	pass(40 * time.Second)
	tell("%s", held())
	late := on(s.nodes[1], func(ctx context.Context) error {
		_, err := s.nodes[1].svc.Birth(ctx, st.id, options, all)
		return err
	})
	tell("a late subscriber brings it back: %t", !errors.Is(late, catalog.ErrDeleted))
	tell("created anew: %v", on(s.nodes[0], func(ctx context.Context) error {
		_, err := s.nodes[0].svc.Create(ctx, st.id, options, all)
		return err
	}))
	pass(5 * time.Second)
	tell("%s", held())

	heal()
	tell("node 3 is back")
	pass(60 * time.Second)
	s.quiet = true
	for range 20 {
		for _, n := range s.nodes {
			s.populateNode(n, true)
		}
		pass(time.Second)
	}
	tell("%s", held())
	tell("subscribed on every node: %t, all agree: %t", s.everywhere(), s.agreed())

	want := `created: <nil>
node 1 has the first life, node 2 has the first life, node 3 has the first life
node 3 is cut off
deleted: <nil>
deleted again: <nil>
node 1 has nothing, node 2 has nothing, node 3 has the first life
a late subscriber brings it back: false
created anew: <nil>
node 1 has the second life, node 2 has the second life, node 3 has the first life
node 3 is back
node 1 has the second life, node 2 has the second life, node 3 has the second life
subscribed on every node: true, all agree: true`
	if got := strings.Join(story, "\n"); got != want {
		t.Errorf("the story is\n%s\n\nand should be\n%s", got, want)
	}
	if err := errors.Join(s.errs...); err != nil {
		t.Error(err)
	}
}

func firstBirth(s *Sim, st *structure) uint64 {
	first := uint64(0)
	for birth, rec := range s.watch.births {
		if rec.Structure == st.id && (first == 0 || birth < first) {
			first = birth
		}
	}
	return first
}
