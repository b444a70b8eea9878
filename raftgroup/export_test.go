package raftgroup

import (
	"context"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

// What tests from outside reach that no user can: things that only a fault or
// another package sets off.

// IsVacant reports whether a node that leaves could go now.
func (h *Host) IsVacant() bool { return h.isVacant() }

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

// StickJoint begins a joint change at the leader of a structure that makes
// learners of two voters, and at once the transfer of the lead to a third:
// while that is under way, raft drops the proposal that leaves the joint
// membership.
func (h *Host) StickJoint(s id.Structure, demoted [2]id.Replica, to id.Replica) error {
	g, ok := h.Group(s)
	if !ok {
		return ErrUnknownGroup
	}
	_, err := inStep(context.Background(), g, func(reply func(struct{}, error)) {
		cc := &raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{
			single(raftpb.ConfChangeAddLearnerNode, demoted[0]), single(raftpb.ConfChangeAddLearnerNode, demoted[1]),
		}}
		err := g.proposeConf(cc, [16]byte{})
		g.rn.TransferLeader(uint64(to))
		reply(struct{}{}, err)
	})
	return err
}

// AskStanding has what was a replica here ask its group what it is: its question
// may be answered long after it was asked.
func (h *Host) AskStanding(g *Group) { h.askStanding(g, nil) }

// DiscardAfter removes a prepared replica, in whose last step f is called first.
func (h *Host) DiscardAfter(token Token, f func()) error {
	h.mu.Lock()
	g := h.prepared[token].group
	h.mu.Unlock()
	_, err := h.remove(context.Background(), g, func() bool { f(); return false })
	return err
}

// Unfolded tells what this node's replica of a structure, which rests, holds of
// what only busy times need. Nothing may step it meanwhile.
func (h *Host) Unfolded(s id.Structure) (errands, duties bool) {
	g, ok := h.Group(s)
	return ok && g.errands != nil, ok && g.duties != nil
}
