package raftgroup

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
	"github.com/copycat-replication/copycat/wal"
)

// Prepare makes this node's replica of a birth that is not decided: durable,
// not gossiped, neither voting nor electing. Doing it again changes nothing.
// Errors: ErrLeaving and ErrClosed, of a node that would soon be gone with the
// new group's vote; ErrBusy while another call prepares the same birth.
func (h *Host) Prepare(ctx context.Context, genesis Genesis) error {
	self, ok := replicaFor(genesis.Members, h.cfg.Node)
	if !ok {
		return fmt.Errorf("group %s: %w: this node is none of its first members", genesis.Group, ErrMalformedEntry)
	}
	known, err := h.beginPrepare(genesis)
	if known || err != nil {
		return err
	}
	defer h.endPrepare(genesis.Token)
	_, err = h.create(ctx, grouppb.Replica{Replica: uint64(self), Phase: grouppb.Replica_PREPARED, Genesis: genesis.encode()}, nil, nil)
	return err
}

// beginPrepare reports whether there is a replica of this token already. If
// not, nobody else makes one until endPrepare: two replicas of one ReplicaID
// would be two votes of one voter. A node that leaves makes none: what has begun
// before, Vacate waits for.
func (h *Host) beginPrepare(genesis Genesis) (known bool, err error) {
	token := genesis.Token
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, busy := h.preparing[token]; busy {
		return false, fmt.Errorf("%w: this birth is being prepared", ErrBusy)
	}
	if h.born[token] != nil {
		return true, nil
	}
	if err := h.joinableLocked(genesis.Group.Structure); err != nil {
		return false, err
	}
	h.preparing[token] = struct{}{}
	return false, nil
}

func (h *Host) endPrepare(token Token) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.preparing, token)
}

// StartPrepared starts the replica that was prepared under a token: the birth
// is decided, and born is its incarnation. Doing it again changes nothing.
func (h *Host) StartPrepared(ctx context.Context, token Token, born id.Incarnation) error {
	h.mu.Lock()
	g := h.prepared[token].group
	h.mu.Unlock()
	if g == nil {
		return nil
	}
	_, err := inStep(ctx, g, func(reply func(struct{}, error)) {
		g.becomeStarted(born, func(err error) { reply(struct{}{}, err) })
	})
	return err
}

// startDecided starts the replica that was prepared here for the very birth
// that a group has come from: the group's answer shows that it is decided. A
// second replica of the group, under another ReplicaID, would stand beside it
// when it is started after all. Nil: none was prepared.
func (h *Host) startDecided(p *place) (*Group, error) {
	born, err := decodeGenesis(p.record)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	started, prepared := h.groups[p.group], h.prepared[born.Token]
	h.mu.Unlock()
	if started != nil {
		return started, nil // meanwhile
	}
	g := prepared.group
	// A group that was rebuilt since has no place for it: it is removed by who
	// settles births.
	if g == nil || p.group.Incarnation.Recovery != 0 || !maps.Equal(prepared.Genesis.Members, born.Members) {
		return nil, nil
	}
	if err := h.StartPrepared(h.ctx, born.Token, p.group.Incarnation); err != nil {
		return nil, err
	}
	return g, nil
}

// becomeStarted turns a prepared replica into a started one: durable first.
func (g *Group) becomeStarted(born id.Incarnation, done func(error)) {
	if g.meta.Phase != grouppb.Replica_PREPARED {
		done(nil)
		return
	}
	genesis := g.genesis
	genesis.Group.Incarnation = born
	meta := g.meta
	meta.Phase = grouppb.Replica_STARTED
	data, err := encodeReplica(meta, genesis)
	if err != nil {
		done(err)
		return
	}
	g.host.log.Submit([]wal.Update{{Group: g.local, Meta: data}}, func(err error) {
		g.call(func() {
			if err == nil && g.retired { // this is its last step: it is being removed
				err = g.failure
			}
			if err != nil || g.meta.Phase != grouppb.Replica_PREPARED {
				done(err)
				return
			}
			g.meta = meta
			st, err := g.host.log.State(g.local)
			if err == nil {
				err = g.start(st, genesis)
			}
			if err == nil {
				if g.self == slices.Min(slices.Collect(maps.Keys(genesis.Members))) {
					g.firstborn = firstbornTicks
					g.leadFirst()
				}
				g.host.register(g)
			}
			done(err)
		})
	})
}

// DiscardPrepared removes the replica that was prepared under a token. The
// caller has made sure that the birth can not be decided for this token any
// more. A started replica is left alone.
func (h *Host) DiscardPrepared(ctx context.Context, token Token) error {
	h.mu.Lock()
	g := h.prepared[token].group
	h.mu.Unlock()
	if g == nil {
		return nil
	}
	_, err := h.remove(ctx, g, nil)
	return err
}

// PreparedReplica is a replica whose birth this node does not know the outcome of.
type PreparedReplica struct {
	Genesis Genesis
	Created time.Time
	group   *Group
}

// Prepared lists the replicas whose birth is not decided.
func (h *Host) Prepared() []PreparedReplica {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []PreparedReplica
	for _, p := range h.prepared {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b PreparedReplica) int { return bytes.Compare(a.Genesis.Token[:], b.Genesis.Token[:]) })
	return out
}

// Found makes the first replica of a group that this node alone decides about:
// the catalog of a new cluster. Doing it again changes nothing.
func (h *Host) Found(ctx context.Context, genesis Genesis) error {
	self, ok := replicaFor(genesis.Members, h.cfg.Node)
	if !ok || len(genesis.Members) != 1 {
		return fmt.Errorf("group %s: %w: a founded group has this node as its only member", genesis.Group, ErrMalformedEntry)
	}
	if _, ok := h.Group(genesis.Group.Structure); ok {
		return nil
	}
	_, err := h.create(ctx, grouppb.Replica{Replica: uint64(self), Phase: grouppb.Replica_STARTED, Genesis: genesis.encode()}, nil, nil)
	return err
}
