package copycat

import (
	"context"
	"errors"
	"fmt"
	"time"

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
	var hints []id.Node
	for pause := alterPause; ; pause = min(2*pause, alterAttempt) {
		// Gossip's hints may be old: after a while the catalog is asked too.
		attempt, done := context.WithTimeout(ctx, alterAttempt)
		_, err = n.host.Load().Alter(attempt, *s, change, hints...)
		done()
		if err == nil || errors.Is(err, ErrInvalidOptions) {
			return n.closedIfSo(err)
		}
		if gone := errors.Is(err, ErrDeleted); ctx.Err() != nil {
			if gone {
				err = fmt.Errorf("structure %s: %w: a node says that it was deleted, and the catalog has not confirmed it", s, ctx.Err())
			}
			return n.closedIfSo(err)
		}
		// That a replica has ended, or that a holder of the catalog knows of no
		// life, may be behind a new creation: a commit of the catalog tells.
		lookup, done := context.WithTimeout(ctx, alterAttempt)
		rec, lerr := n.catalog.Load().Confirm(lookup, *s)
		done()
		switch {
		case errors.Is(lerr, ErrUnknownStructure), errors.Is(lerr, ErrDeleted), errors.Is(lerr, ErrClosed):
			return n.closedIfSo(lerr)
		case lerr == nil:
			hints = rec.Nodes()
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// alterPause is the first pause between two attempts: what was created anew is
// led within an election.
const alterPause = 100 * time.Millisecond

// alterAttempt is how long a group's leader is looked for before the catalog is
// asked where the group is: longer than an election.
const alterAttempt = 3 * time.Second

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
