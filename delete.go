package copycat

import (
	"context"
	"fmt"

	"github.com/copycat-replication/copycat/id"
)

// CreateDataStructure implements CopyCat.
func (n *node) CreateDataStructure(ctx context.Context, s *ID, opts ...AllocationOption) error {
	if err := n.named(s); err != nil {
		return err
	}
	change, err := collect(opts)
	if err != nil {
		return err
	}
	opt, err := n.newOptions(change)
	if err != nil {
		return fmt.Errorf("structure %s: %w", s, err)
	}
	if n.leaving.Load() { // it would be created, and no replica of it come here
		return fmt.Errorf("structure %s: %w", s, ErrLeaving)
	}
	ctx, cancel := n.within(ctx)
	defer cancel()
	rec, err := n.catalog.Load().Create(ctx, *s, opt, func() []id.Node { return n.place(*s, opt) })
	if err != nil {
		return n.closedIfSo(err)
	}
	if _, here := n.host.Load().Group(*s); here {
		return nil
	}
	var hint id.Node
	if nodes := rec.Nodes(); len(nodes) > 0 {
		hint = nodes[0]
	}
	return n.closedIfSo(n.host.Load().Join(*s, hint))
}

// DeleteDataStructure implements CopyCat.
func (n *node) DeleteDataStructure(ctx context.Context, s *ID) error {
	if err := n.named(s); err != nil {
		return err
	}
	ctx, cancel := n.within(ctx)
	defer cancel()
	return n.closedIfSo(n.catalog.Load().DeleteStructure(ctx, *s))
}

// DataStructure is what the catalog knows of a data structure.
type DataStructure struct {
	ID          ID
	Incarnation id.Incarnation
	Options     Options
	// Replicas are the NodeIDs where replicas are, as far as the structure's
	// leader has told the catalog: a hint, and up to 32 of them.
	Replicas []string
}

// DataStructures implements CopyCat.
func (n *node) DataStructures(ctx context.Context) ([]DataStructure, error) {
	if n.ctx.Err() != nil {
		return nil, fmt.Errorf("list data structures: %w", ErrClosed)
	}
	ctx, cancel := n.within(ctx)
	defer cancel()
	records, err := n.catalog.Load().List(ctx)
	if err != nil {
		return nil, n.closedIfSo(err)
	}
	out := make([]DataStructure, 0, len(records))
	for _, r := range records {
		d := DataStructure{ID: r.Structure, Incarnation: r.Incarnation, Options: publicOptions(r.Options)}
		where := r.Hint
		if len(where) == 0 {
			where = r.Members
		}
		d.Replicas = nodeNames(where)
		out = append(out, d)
	}
	return out, nil
}
