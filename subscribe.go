package copycat

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/raftgroup"
)

// NewDataStructureID implements CopyCat.
func (n *node) NewDataStructureID() (*ID, error) {
	s, err := id.NewStructure(time.Now(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make data structure ID: %w", err)
	}
	return &s, nil
}

// AllocateNewDataStructure implements CopyCat.
func (n *node) AllocateNewDataStructure(opts ...AllocationOption) (*ID, error) {
	change, err := collect(opts)
	if err != nil {
		return nil, err
	}
	s, err := n.NewDataStructureID()
	if err != nil {
		return nil, err
	}
	if err := n.birth(*s, change); err != nil {
		return nil, err
	}
	return s, nil
}

// birth has a structure created, or finds it created, and joins it. It does
// not wait for the catalog any longer once the directory names a holder: a node
// that has just come up may be asked for a structure before gossip has told it
// of any, and the catalog may have no quorum.
func (n *node) birth(s id.Structure, change raftgroup.OptionsChange) error {
	opt, err := n.newOptions(change)
	if err != nil {
		return fmt.Errorf("structure %s: %w", s, err)
	}
	if n.leaving.Load() { // it would be created, and no replica of it come here
		return fmt.Errorf("structure %s: %w", s, ErrLeaving)
	}
	_, err, _ = n.births.Do(s.String(), func() (any, error) {
		ctx, cancel := context.WithTimeout(n.ctx, n.cfg.JoinTimeout)
		defer cancel()
		found := n.watchHolder(ctx, cancel, s)
		record, err := n.catalog.Load().Birth(ctx, s, opt, func() []id.Node { return n.place(s, opt) })
		cancel()
		hint := <-found
		switch {
		case err != nil && (hint.IsZero() || errors.Is(err, ErrDeleted)):
			return nil, err
		case err == nil && len(record.Nodes()) > 0:
			hint = record.Nodes()[0]
		}
		if _, here := n.host.Load().Group(s); here {
			return nil, nil
		}
		return nil, n.host.Load().Join(s, hint)
	})
	if err != nil && n.ctx.Err() != nil {
		return fmt.Errorf("structure %s: %w: %w", s, ErrClosed, err)
	}
	return err
}

// watchHolder ends a wait as soon as the directory names a node that holds the
// structure. The channel gives that node, or none once ctx has ended.
func (n *node) watchHolder(ctx context.Context, cancel context.CancelFunc, s id.Structure) <-chan id.Node {
	found := make(chan id.Node, 1)
	go func() {
		defer close(found)
		g := n.gossip.Load()
		for {
			changed := g.Changed()
			if holders := (directory{g}).Holders(s); len(holders) > 0 {
				found <- holders[0]
				cancel()
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return found
}

// SubscribeToDataStructureWithStringID implements CopyCat.
func (n *node) SubscribeToDataStructureWithStringID(text string, provider SnapshotProvider) (chan<- []byte, <-chan []byte, <-chan error, SnapshotConsumer, error) {
	s, err := ParseID(text)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	return n.SubscribeToDataStructure(s, provider)
}

// SubscribeToDataStructure implements CopyCat.
func (n *node) SubscribeToDataStructure(s *ID, provider SnapshotProvider) (chan<- []byte, <-chan []byte, <-chan error, SnapshotConsumer, error) {
	sub, err := n.subscribe(s, provider)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	return sub.Propose(), sub.Commits(), sub.Errors(), sub.Consume, nil
}

func (n *node) subscribe(s *ID, provider SnapshotProvider) (*raftgroup.Subscription, error) {
	switch {
	case s == nil || s.IsZero():
		return nil, fmt.Errorf("%w: no data structure ID", ErrMalformedID)
	case *s == catalog.ID:
		return nil, fmt.Errorf("%w: %s is CopyCat's own catalog", ErrMalformedID, s)
	case provider == nil:
		return nil, fmt.Errorf("structure %s: %w", s, ErrNoProvider)
	case n.ctx.Err() != nil:
		return nil, fmt.Errorf("structure %s: %w", s, ErrClosed)
	}
	h := n.host.Load()
	// What is here may be removed at any moment, and the directory may err: where
	// there is no replica, the subscription itself has one got.
	if _, here := h.Group(*s); !here && len((directory{n.gossip.Load()}).Holders(*s)) == 0 {
		if err := n.birth(*s, raftgroup.OptionsChange{}); err != nil {
			return nil, err
		}
	}
	return h.Subscribe(raftgroup.SubscriptionConfig{
		Structure: *s, Provider: raftgroup.Provider(provider), Join: true,
		MaxProposal: n.cfg.MaxProposalBytes, Window: n.cfg.WindowBytes, ProposalTimeout: n.cfg.ProposalTimeout,
	})
}
