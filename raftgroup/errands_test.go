package raftgroup

import (
	"testing"

	"go.etcd.io/raft/v3"

	"github.com/copycat-replication/copycat/id"
)

// restingGroup is a follower that has fallen quiet, as far as fold looks at it.
func restingGroup() *Group {
	g := &Group{self: 2, lead: 1}
	g.unfold()
	return g
}

func TestRestingFollowerFolds(t *testing.T) {
	t.Parallel()
	g := restingGroup()
	if g.haste.led != 1 {
		t.Fatalf("the last leader is %d, want 1", g.haste.led)
	}
	held, previous := SnapshotRef{Index: 9, Term: 2}, SnapshotRef{Index: 4, Term: 1}
	g.files.name(held, previous)
	g.snaps.held, g.snaps.previous, g.snaps.adopting, g.snaps.lastTold = held, previous, held, t0
	g.foldIn(3)
	if g.errands != nil || g.duties != nil {
		t.Fatal("something is left")
	}
	g.unfold()
	if g.snaps.held != held || g.snaps.previous != previous || g.haste.led != 1 {
		t.Fatalf("held %v, previous %v, led by %d", g.snaps.held, g.snaps.previous, g.haste.led)
	}
}

// TestWhatMattersIsNotFolded: each of these would be lost.
func TestWhatMattersIsNotFolded(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Group){
		"a session that closes":         func(g *Group) { g.closing = []closing{{session: 1}} },
		"a call that waits":             func(g *Group) { g.waiters = map[[16]byte]waiter{{1}: {}} },
		"where a replica spoke from":    func(g *Group) { g.seen = map[id.Replica]id.Node{3: {1}} },
		"an append that is relayed":     func(g *Group) { g.relaying = make([]relayed, 1) },
		"a read":                        func(g *Group) { g.reads = make([]*reading, 1) },
		"an outsider that was told":     func(g *Group) { g.outsiders = outsiders{3: t0} },
		"a change under way":            func(g *Group) { g.swap.old = 3 },
		"another leader than the last":  func(g *Group) { g.haste.led = 3 },
		"a leader doubted in this term": func(g *Group) { g.haste.term = 3 },
		"a snapshot that is fetched":    func(g *Group) { g.snaps.fetching = true },
		"a snapshot that is wanted":     func(g *Group) { g.snaps.wanted.Index = 7 },
		"a snapshot that was made":      func(g *Group) { g.snaps.made.Index = 7 },
		"a snapshot that is adopted":    func(g *Group) { g.snaps.adopting.Index = 7 },
		"a snapshot not named yet":      func(g *Group) { g.snaps.held.Index = 7 },
	} {
		g := restingGroup()
		change(g)
		if g.foldIn(3); g.errands == nil {
			t.Errorf("%s is lost", name)
		}
	}
	g := restingGroup()
	g.role, g.leader.leading = raft.StateLeader, true
	if g.foldIn(3); g.duties == nil {
		t.Error("a leader's duties are lost")
	}
}
