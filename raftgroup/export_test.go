package raftgroup

import (
	"context"
	"fmt"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

// What tests from outside reach that no user can: things that only a fault or
// another package sets off.

// CommitDeleted proposes the end of a structure at its leader.
func (h *Host) CommitDeleted(s id.Structure) error {
	g, ok := h.Group(s)
	if !ok {
		return ErrUnknownGroup
	}
	_, err := inStep(context.Background(), g, func(reply func(struct{}, error)) {
		reply(struct{}{}, g.proposeRecord(KindDeleted, &grouppb.Deleted{}))
	})
	return err
}

// RemoveReplica takes this node's replica of a structure away.
func (h *Host) RemoveReplica(s id.Structure) error {
	g, ok := h.Group(s)
	if !ok {
		return ErrUnknownGroup
	}
	if gone, err := h.remove(context.Background(), g, nil); !gone || err != nil {
		return fmt.Errorf("removed: %v, %w", gone, err)
	}
	return nil
}

// Joins tells how many structures this node is trying to get a replica of.
func (h *Host) Joins() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.joining)
}
