package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

// What an operator, or the catalog, asks of a whole group: through whichever
// node leads it, by a committed entry.

// operatePause is the pause after a round of asking that found no leader.
const (
	operatePause    = 100 * time.Millisecond
	maxOperatePause = 2 * time.Second
)

// Alter changes options of a structure, by a committed entry of its group, and
// returns them as they are then. hints are nodes that may hold a replica. It
// goes on trying until the context ends. Errors: ErrInvalidOptions; ErrDeleted,
// when a node says that the structure has ended and none is found that leads
// it, which leaves open whether it was created anew since: the catalog knows;
// ErrUnknownGroup or ErrNotLeader wrapped beside the context's error, when no
// leader was found. After the context's error the change may still happen.
func (h *Host) Alter(ctx context.Context, s id.Structure, change OptionsChange, hints ...id.Node) (Options, error) {
	var resp grouppb.AlterResponse
	req := &grouppb.AlterRequest{Structure: s[:], Change: change.encode([16]byte{})}
	if err := h.askGroup(ctx, s, hints, methodAlter, req, &resp); err != nil {
		return Options{}, fmt.Errorf("alter structure %s: %w", s, err)
	}
	return DecodeOptions(resp.Options), nil
}

// EndGroup commits the end of the incarnation of a structure that was born at
// birth: nothing counts after it, and its subscriptions end with ErrDeleted.
// The replicas are left to be removed (RemoveEnded). Doing it again changes
// nothing. It goes on trying until the context ends; errors as for Alter.
func (h *Host) EndGroup(ctx context.Context, s id.Structure, birth uint64, hints ...id.Node) error {
	req := &grouppb.DeleteRequest{Structure: s[:], Birth: birth}
	err := h.askGroup(ctx, s, hints, methodDelete, req, &grouppb.DeleteResponse{})
	if err != nil && !errors.Is(err, ErrDeleted) {
		return fmt.Errorf("delete structure %s, born at %d: %w", s, birth, err)
	}
	return nil
}

// askGroup asks the leader of a structure's group, wherever it is.
func (h *Host) askGroup(ctx context.Context, s id.Structure, hints []id.Node, method uint16, req, resp protoMessage) error {
	for pause := operatePause; ; pause = min(2*pause, maxOperatePause) {
		err := h.askAround(ctx, s, hints, method, req, resp)
		if err == nil || errors.Is(err, ErrInvalidOptions) || errors.Is(err, ErrDeleted) {
			return err
		}
		if h.ctx.Err() != nil {
			return errors.Join(ErrClosed, err)
		}
		wait, cancel := h.tasks.Within(ctx, pause)
		_ = h.tasks.Await(wait, nil) // ends with the pause, or with the caller's patience
		cancel()
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
	}
}

// askAround asks once who may lead: this node, whom its replica follows, who
// is hinted at, who gossip says holds a replica, and whom those point to.
func (h *Host) askAround(ctx context.Context, s id.Structure, hints []id.Node, method uint16, req, resp protoMessage) error {
	var next, tried []id.Node
	if g, ok := h.Group(s); ok {
		next = append(next, g.Status().LeaderNode)
	}
	next = append(append(append(next, h.cfg.Node), hints...), h.dir.Holders(s)...)
	errs := []error{fmt.Errorf("no leader reached: %w", ErrUnknownGroup)}
	for len(next) > 0 && len(tried) < 16 && ctx.Err() == nil {
		node := next[0]
		next = next[1:]
		if node.IsZero() || slices.Contains(tried, node) {
			continue
		}
		tried = append(tried, node)
		err := h.ask(ctx, node, method, req, resp)
		var nl *notLeader
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errGone):
			// Of this life; the structure may have been created anew since, and
			// another node may lead that.
			err = errors.Join(ErrDeleted, err)
		case errors.Is(err, ErrInvalidOptions):
			return err
		case errors.As(err, &nl):
			next = append([]id.Node{nl.leader}, next...)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// find returns the newest replica here of the life that began with a birth,
// also if it has ended.
func (h *Host) find(s id.Structure, birth uint64) (*Group, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var found *Group
	for key, g := range h.groups {
		if key.Structure == s && key.Incarnation.Birth == birth && (found == nil || found.key.Incarnation.Less(key.Incarnation)) {
			found = g
		}
	}
	return found, found != nil
}

func (h *Host) serveAlter(ctx context.Context, request []byte) (protoMessage, error) {
	var req grouppb.AlterRequest
	if err := req.Unmarshal(request); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadMessage, err)
	}
	s, err := id.StructureFromBytes(req.Structure)
	if err != nil {
		return nil, err
	}
	change, err := decodeChange(req.Change)
	if err != nil {
		return nil, err
	}
	g, ok := h.Group(s)
	switch {
	case !ok && h.hasEnded(s):
		return nil, fmt.Errorf("structure %s: %w: %w", s, errGone, ErrDeleted)
	case !ok:
		return nil, fmt.Errorf("structure %s: %w", s, ErrUnknownGroup)
	}
	return inStep(ctx, g, func(reply func(protoMessage, error)) { g.alterStep(change, reply) })
}

// alterStep has a change of options committed.
func (g *Group) alterStep(change OptionsChange, reply func(protoMessage, error)) {
	if err := g.requireLeader(); err != nil {
		reply(nil, err)
		return
	}
	if err := change.Apply(g.state.options).Check(); err != nil {
		reply(nil, fmt.Errorf("group %s: %w", g.key, err))
		return
	}
	g.commitRecord(KindOptions, func(nonce [16]byte) protoMessage { return change.encode(nonce) }, func(o outcome, err error) {
		if err == nil && !o.ok {
			err = fmt.Errorf("group %s: %w: they do not go with what was changed meanwhile", g.key, ErrInvalidOptions)
		}
		reply(&grouppb.AlterResponse{Options: g.state.options.Encode()}, err)
	})
}

func (h *Host) serveDelete(ctx context.Context, request []byte) (protoMessage, error) {
	var req grouppb.DeleteRequest
	if err := req.Unmarshal(request); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadMessage, err)
	}
	s, err := id.StructureFromBytes(req.Structure)
	if err != nil {
		return nil, err
	}
	g, ok := h.find(s, req.Birth)
	if !ok {
		return nil, fmt.Errorf("structure %s, born at %d: %w", s, req.Birth, ErrUnknownGroup)
	}
	return inStep(ctx, g, g.deleteStep)
}

// deleteStep has the end of the structure committed.
func (g *Group) deleteStep(reply func(protoMessage, error)) {
	if g.state != nil && g.state.deleted {
		reply(&grouppb.DeleteResponse{}, nil) // applied here, so it is committed, whoever leads
		return
	}
	if err := g.requireLeader(); err != nil {
		reply(nil, err)
		return
	}
	g.commitRecord(KindDeleted, func(nonce [16]byte) protoMessage { return &grouppb.Deleted{Nonce: nonce[:]} }, func(_ outcome, err error) {
		reply(&grouppb.DeleteResponse{}, err)
	})
}

// commitRecord proposes a record and has done called when it is applied.
func (g *Group) commitRecord(kind Kind, body func(nonce [16]byte) protoMessage, done func(outcome, error)) {
	var nonce [16]byte
	if err := g.host.random(nonce[:]); err != nil {
		done(outcome{}, err)
		return
	}
	g.await(nonce, done)
	if err := g.proposeRecord(kind, body(nonce)); err != nil {
		delete(g.waiters, nonce)
		done(outcome{}, err)
	}
}
