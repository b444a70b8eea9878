package raftgroup

import (
	"context"
	"fmt"
	"slices"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
	"github.com/copycat-replication/copycat/wal"
)

// Lives asks a node for the incarnation of the replica of a structure that it
// runs; zero if it has none. What a node says of itself is no hint of gossip's:
// a replica is started by a birth that was committed, or by an operator.
func (h *Host) Lives(ctx context.Context, node id.Node, s id.Structure) (id.Incarnation, error) {
	resp, err := h.askLives(ctx, node, s)
	return id.Incarnation{Birth: resp.Birth, Recovery: resp.Recovery}, err
}

// Keeps is Lives of a replica that may have stopped: it may run again when its
// node has been started anew, and be rebuilt from.
func (h *Host) Keeps(ctx context.Context, node id.Node, s id.Structure) (id.Incarnation, error) {
	resp, err := h.askLives(ctx, node, s)
	if resp.HeldBirth == 0 {
		return id.Incarnation{Birth: resp.Birth, Recovery: resp.Recovery}, err
	}
	return id.Incarnation{Birth: resp.HeldBirth, Recovery: resp.HeldRecovery}, err
}

func (h *Host) askLives(ctx context.Context, node id.Node, s id.Structure) (resp grouppb.LivesResponse, _ error) {
	if err := h.ask(ctx, node, methodLives, &grouppb.LivesRequest{Structure: s[:]}, &resp); err != nil {
		return grouppb.LivesResponse{}, fmt.Errorf("structure %s: ask node %s what lives there: %w", s, node, err)
	}
	return resp, nil
}

func (h *Host) serveLives(request []byte) (protoMessage, error) {
	var req grouppb.LivesRequest
	if err := req.Unmarshal(request); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadMessage, err)
	}
	s, err := id.StructureFromBytes(req.Structure)
	if err != nil {
		return nil, err
	}
	resp := &grouppb.LivesResponse{}
	held := func(g *Group) {
		resp.HeldBirth, resp.HeldRecovery = g.key.Incarnation.Birth, g.key.Incarnation.Recovery
	}
	for _, g := range h.restarting() {
		if g.key.Structure == s {
			held(g)
		}
	}
	if g, ok := h.Group(s); ok {
		if held(g); !g.Status().Failed {
			resp.Birth, resp.Recovery = resp.HeldBirth, resp.HeldRecovery
		}
	}
	return resp, nil
}

// Supersede sets this node's replica of a group aside, since an operator has
// rebuilt the group from another one: durable first, then it stops for good. It
// is kept for the operator, log, snapshots and all, and not used any more.
// Its subscriptions end with ErrRebuilt. Doing it again changes nothing.
func (h *Host) Supersede(ctx context.Context, key id.Group, by id.Incarnation) error {
	if !key.Incarnation.Less(by) || key.Incarnation.Birth != by.Birth {
		return fmt.Errorf("group %s: %w: %s is no later life of it", key, errRefused, by)
	}
	h.mu.Lock()
	g := h.groups[key]
	h.mu.Unlock()
	if g == nil {
		return nil
	}
	_, err := inStep(ctx, g, func(reply func(struct{}, error)) { g.supersede(by, func(err error) { reply(struct{}{}, err) }) })
	return err
}

func (g *Group) supersede(by id.Incarnation, done func(error)) {
	meta := g.meta
	meta.Version, meta.Phase = supersededVersion, grouppb.Replica_SUPERSEDED
	data, err := encodeReplica(meta, g.genesis)
	if err != nil {
		done(err)
		return
	}
	// From here on, not from the answer: a snapshot that is adopted meanwhile
	// writes the record too, behind this.
	was := g.meta
	g.meta.Version, g.meta.Phase = meta.Version, meta.Phase
	g.host.log.Submit([]wal.Update{{Group: g.local, Meta: data}}, func(err error) {
		g.call(func() {
			if err == nil {
				g.becomeSuperseded(by)
			} else {
				g.meta.Version, g.meta.Phase = was.Version, was.Phase
			}
			done(err)
		})
	})
}

// becomeSuperseded is the last step of a replica that is kept and not used.
func (g *Group) becomeSuperseded(by id.Incarnation) {
	g.log.Error("this replica was superseded: the group was rebuilt from another one; it is set aside, and kept", "by", by.String())
	for _, sub := range slices.Clone(g.subs) {
		sub.takeInbox(g.now)
		sub.prop.abandon(sub.settle)
		sub.left = true
		sub.dismiss(fmt.Errorf("group %s: %w as %s", g.key, ErrRebuilt, by), 0)
	}
	g.host.drop(g)
	g.host.keep(g.key)
	g.retire()
	g.host.watch.wake(g)
	g.host.asleep(g)
}

// Warn reports an error to the subscriptions that hang on this node's replica of
// a group. They go on; with none, or no replica, it is dropped.
func (h *Host) Warn(key id.Group, err error) {
	h.mu.Lock()
	g := h.groups[key]
	h.mu.Unlock()
	if g == nil {
		return
	}
	g.call(func() {
		for _, sub := range g.subs {
			sub.report(err)
		}
	})
}

// keep notes a replica that is kept and not used.
func (h *Host) keep(key id.Group) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Contains(h.kept, key) {
		h.kept = append(h.kept, key)
	}
}

// Kept lists the groups of which this node keeps a replica that was superseded.
func (h *Host) Kept() []id.Group {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.kept)
}
