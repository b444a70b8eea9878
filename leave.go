package copycat

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/copycat-replication/copycat/raftgroup"
)

// LeaveError says what is still on a node that did not get to leave. The node
// goes on; its subscriptions have ended, unless Err is ErrNoOtherNode.
type LeaveError struct {
	Structures []StructureStatus // whose replicas are still here
	Also       string            // what else it waited for, for people: "1 replica is still being removed from the disk"
	Err        error             // why it was not waited for longer
}

// Error counts what is left, and says why.
func (e *LeaveError) Error() string {
	text := fmt.Sprintf("the node has not left: %d replicas are still here", len(e.Structures))
	for i, s := range e.Structures {
		if i == 3 {
			text += ", …"
			break
		}
		name := s.ID.String()
		if s.Catalog {
			name = "the catalog"
		}
		text += fmt.Sprintf(", %s (%s)", name, s.Role)
		if s.Waits != "" {
			text += " [" + s.Waits + "]"
		}
	}
	if e.Also != "" {
		text += "; " + e.Also
	}
	return text + ": " + e.Err.Error()
}

// Unwrap makes errors.Is see why.
func (e *LeaveError) Unwrap() error { return e.Err }

// farewellTime bounds how long the last word to the other nodes may take: they
// find out by themselves that the node is gone.
const farewellTime = 5 * time.Second

// Leave implements CopyCat.
func (n *node) Leave(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(n.ctx, func() { cancel(ErrClosed) })()
	if n.ctx.Err() != nil {
		return fmt.Errorf("leave: %w", ErrClosed)
	}
	if !n.leaving.CompareAndSwap(false, true) {
		return fmt.Errorf("leave: %w", ErrLeaving)
	}
	if err := n.vacate(ctx); err != nil {
		n.leaving.Store(false)
		return err
	}
	n.log.Info("no replica is left here: leaving the cluster")
	farewell, end := context.WithTimeout(ctx, farewellTime)
	defer end()
	if err := n.gossip.Load().Leave(farewell); err != nil {
		n.log.Warn("the others were not told", "error", err)
	}
	n.Shutdown()
	return nil
}

// vacate has all replicas of this node moved, or says which are left.
func (n *node) vacate(ctx context.Context) error {
	g, h := n.gossip.Load(), n.host.Load()
	if !n.hasHeirs() && len(h.Groups()) > 0 {
		return n.leaveError(h.Groups(), "", ErrNoOtherNode)
	}
	n.log.Info("leaving: the replicas here move to other nodes", "replicas", len(h.Groups()))
	g.SetLeaving(true)
	err := h.Vacate(ctx)
	if err == nil {
		return nil
	}
	g.SetLeaving(false)
	var left *raftgroup.VacateError
	if errors.As(err, &left) {
		return n.leaveError(left.Left, left.Also, left.Err)
	}
	return fmt.Errorf("leave: %w", err)
}

// hasHeirs reports whether another node could take what is here.
func (n *node) hasHeirs() bool {
	self := n.dir.get().node
	for _, o := range n.gossip.Load().Nodes() {
		if o.ID != self && o.Alive && !o.Left {
			return true
		}
	}
	return false
}

func (n *node) leaveError(left []raftgroup.GroupStatus, also string, why error) error {
	e := &LeaveError{Also: also, Err: why}
	for _, g := range left {
		e.Structures = append(e.Structures, structureStatus(g))
	}
	return e
}
