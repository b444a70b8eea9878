package raftgroup

import (
	"fmt"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// waiter is told when the record with its nonce is applied.
type waiter struct {
	until time.Time
	done  func(outcome, error)
}

// apply moves the apply cursor over committed entries and tells raft so.
func (g *Group) apply(m *raftpb.Message) {
	for _, e := range m.GetEntries() {
		o, err := g.state.apply(e)
		if err == nil {
			g.tail.add(e.GetIndex(), len(e.GetData()))
			g.react(&o)
			err = g.failure
		}
		if err != nil {
			g.applied.Store(g.state.index) // what has been settled is to be delivered
			g.fail(err)
			return
		}
	}
	g.applied.Store(g.state.index)
	g.answerReads()
	g.tellSubscriptions(m.GetEntries())
	for _, r := range m.GetResponses() {
		if err := g.rn.Step(r); err != nil {
			g.log.Debug("raft refused its own response", "type", r.GetType().String(), "error", err)
		}
	}
}

// react does what an applied entry asks of this replica.
func (g *Group) react(o *outcome) {
	switch o.kind {
	case KindBatch:
		g.leader.pull.onBatch(g, o)
		if sub := g.bySession[o.session]; sub != nil {
			g.onOwnBatch(sub, o)
		}
	case KindSessionOpen:
		g.onSessionOpen(o)
	case KindSessionClose, KindSessionExpire:
		if o.ok {
			g.onSessionEnd(o.session)
		}
	case KindSnapshotAnnounce:
		if o.ok {
			g.snaps.onAnnounced(g, o.announce, o.node)
		}
	case KindReplicaIntent, KindIntentAbandon:
		g.answer(o)
	case KindDeleted:
		if o.ok {
			g.onDeleted()
		}
		g.answer(o)
	case KindRebuilt:
		g.onRebuilt(o)
	case KindOptions:
		g.statusDirty = true
		g.answer(o)
	case KindNone:
		if o.conf != nil {
			g.onConfChange(o)
		}
		g.answer(o)
	}
}

func (g *Group) onConfChange(o *outcome) {
	got := g.rn.ApplyConfChange(o.conf)
	if !equalConf(got, g.state.conf) {
		g.fail(fmt.Errorf("%w: membership of raft %v and of the log %v differ", ErrGroupFailed, got, g.state.conf))
		return
	}
	g.statusDirty, g.leader.changing = true, time.Time{}
	g.noteMembers(o)
	if g.isLeader() && o.conf.AsV2().LeaveJoint() {
		g.leader.confirm = true
		g.confirmEnd()
	}
	g.tellRemoved(o)
	g.log.Info("membership changed", "index", o.index, "voters", got.GetVoters(), "learners", got.GetLearners(), "outgoing", got.GetVotersOutgoing())
	g.host.hostedChanged()
}

// answer tells whoever waits for the record with this nonce.
func (g *Group) answer(o *outcome) {
	if o.nonce == ([16]byte{}) {
		return
	}
	if w, ok := g.waiters[o.nonce]; ok {
		delete(g.waiters, o.nonce)
		w.done(*o, nil)
	}
}
