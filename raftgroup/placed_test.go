package raftgroup_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

// The method of a leader that asks a node to get a replica, and its answers.
const (
	methodPlace        = 3
	codeOK      uint32 = 0
	codeRefused uint32 = 3
	codeBusy    uint32 = 6
)

// askToHost asks a node, as the leader on another does, to get a replica.
func askToHost(t *testing.T, node, leader *rig.Node, s id.Structure) uint32 {
	t.Helper()
	data, err := (&grouppb.PlaceRequest{Structure: s[:]}).Marshal()
	if err == nil {
		data, err = node.Host.HandleCall(context.Background(), leader.ID, methodPlace, data)
	}
	var a grouppb.Answer
	if err == nil {
		err = a.Unmarshal(data)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a.Code
}

// TestPlacedInVain has leaders ask a node for replicas of groups that then lose
// their quorum for good: they take its few places for a while, not for ever.
func TestPlacedInVain(t *testing.T) {
	t.Parallel()
	const places = 8
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 2, 24)
		c.Nodes[0].Start()
		next := uint64(100)
		asked := func() uint32 {
			next++
			return askToHost(t, c.Nodes[0], c.Nodes[1], rig.Structure(next))
		}
		for range places {
			if code := asked(); code != codeOK {
				t.Fatalf("code %d", code)
			}
		}
		if code := asked(); code != codeBusy {
			t.Fatalf("one more: code %d, want busy", code)
		}
		c.Wait(2*time.Minute, "a place for another", func() bool { return asked() == codeOK })
		c.StopAll()
	})
}
