package raftgroup

import (
	"testing"

	"github.com/copycat-replication/copycat/id"
)

// TestSnapshotDoesNotUndoSupersede: a replica that is being set aside adopts a
// snapshot before the log store has answered. The frame of the snapshot comes
// later, and writes the replica's record too: it must not say that it is in use.
func TestSnapshotDoesNotUndoSupersede(t *testing.T) {
	t.Parallel()
	s := newStage(t, 1)
	n := s.nodes[0]
	if err := n.start(); err != nil {
		t.Fatal(err)
	}
	defer s.finish()
	g := Genesis{Group: id.Group{Structure: id.Structure{15: 1}}, Members: map[id.Replica]id.Node{1: n.id}, Token: Token{1}}
	if err := s.found(g); err != nil {
		t.Fatal(err)
	}
	s.settle()
	n.still = true
	var superseded error
	answered := false
	err := s.inStep(n, func(g *Group) {
		later := g.key.Incarnation
		later.Recovery = 1 << recoveryTag
		g.supersede(later, func(err error) { superseded, answered = err, true })
		g.snaps.adopt(g, SnapshotRef{Index: g.state.index, Term: 1}, g.state)
	})
	if err != nil {
		t.Fatal(err)
	}
	if !n.adopts() || answered {
		t.Fatalf("no snapshot is being adopted, or the answer came first: %t", answered)
	}
	n.still = false
	s.settle()
	if !answered || superseded != nil || len(n.host.Kept()) != 1 {
		t.Fatalf("superseded: %t, %v, kept %v", answered, superseded, n.host.Kept())
	}
	for _, st := range n.log.Groups() {
		rec, err := DecodeReplica(st.Meta)
		if err != nil || rec.Phase != PhaseSuperseded || rec.Snapshot.Index == 0 {
			t.Errorf("the record says %+v, %v", rec, err)
		}
	}
}
