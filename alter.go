package copycat

import (
	"context"
	"errors"
	"fmt"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/id"
)

// AlterDataStructure implements CopyCat.
func (n *node) AlterDataStructure(ctx context.Context, s *ID, opts ...AllocationOption) error {
	if err := n.named(s); err != nil {
		return err
	}
	change, err := collect(opts)
	if err != nil {
		return err
	}
	ctx, cancel := n.within(ctx)
	defer cancel()
	hints, err := n.whereabouts(ctx, *s)
	if err != nil {
		return err
	}
	_, err = n.host.Load().Alter(ctx, *s, change, hints...)
	return n.closedIfSo(err)
}

// whereabouts says where a structure may be found that neither this node nor
// gossip knows: the catalog's record has its members. A structure that is known
// needs no catalog.
func (n *node) whereabouts(ctx context.Context, s id.Structure) ([]id.Node, error) {
	if _, here := n.host.Load().Group(s); here {
		return nil, nil
	}
	if len((directory{n.gossip.Load()}).Holders(s)) > 0 {
		return nil, nil
	}
	rec, err := n.catalog.Load().Lookup(ctx, s)
	if err != nil {
		return nil, n.closedIfSo(err)
	}
	return rec.Nodes(), nil
}

// named refuses what is no data structure of a user's.
func (n *node) named(s *ID) error {
	switch {
	case s == nil || s.IsZero():
		return fmt.Errorf("%w: no data structure ID", ErrMalformedID)
	case *s == catalog.ID:
		return fmt.Errorf("%w: %s is CopyCat's own catalog", ErrMalformedID, s)
	case n.ctx.Err() != nil:
		return fmt.Errorf("structure %s: %w", s, ErrClosed)
	}
	return nil
}

// within bounds a caller's context by the node's life.
func (n *node) within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(n.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// closedIfSo says ErrClosed about what the end of this node cut short.
func (n *node) closedIfSo(err error) error {
	if err != nil && n.ctx.Err() != nil && !errors.Is(err, ErrClosed) {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return err
}
