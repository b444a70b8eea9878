package raftgroup

import (
	"context"
	"fmt"
	"slices"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
	"github.com/copycat-replication/copycat/wal"
)

// notCurrent takes a group that has ended, or was superseded, out of the way
// of what asks for its structure. Its replica stays until it is removed.
func (h *Host) notCurrent(g *Group) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.current[g.key.Structure] == g {
		delete(h.current, g.key.Structure)
	}
	h.changed = true
}

// hasEnded reports whether a replica here knows that its structure was deleted.
func (h *Host) hasEnded(s id.Structure) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, g := range h.groups {
		if key.Structure == s && g.Status().Deleted {
			return true
		}
	}
	return false
}

// RemoveEnded removes this node's replica of a group that has ended: its log and
// its snapshots. The caller has made sure, by the group's own log or by the
// catalog, that it has, and that the others can learn it without this replica.
// Subscriptions that still hang on it end with ErrDeleted: what they have not
// delivered yet is lost for them. Doing it again changes nothing.
func (h *Host) RemoveEnded(ctx context.Context, key id.Group) error {
	h.mu.Lock()
	g := h.groups[key]
	h.mu.Unlock()
	if g == nil {
		return h.removeSetAside(key)
	}
	_, err := h.remove(ctx, g, func() bool {
		for _, sub := range slices.Clone(g.subs) {
			if sub.dismissed() {
				continue
			}
			sub.takeInbox(g.now)
			sub.prop.abandon(sub.settle)
			sub.left = true
			sub.dismiss(fmt.Errorf("group %s: %w", g.key, ErrDeleted), 0)
		}
		return false
	})
	if err != nil {
		return fmt.Errorf("group %s: %w", key, err)
	}
	return nil
}

// SetAside lists the groups whose replica here the log store has set aside,
// because it cannot be proven whole: it is kept, and not used any more.
func (h *Host) SetAside() []id.Group {
	var out []id.Group
	for _, s := range h.log.Suspects() {
		if key, ok := suspectKey(s); ok && !slices.Contains(out, key) {
			out = append(out, key)
		}
	}
	return out
}

func suspectKey(s wal.Suspect) (id.Group, bool) {
	var meta grouppb.Replica
	if err := meta.Unmarshal(s.Meta); err != nil || meta.Phase != grouppb.Replica_STARTED {
		return id.Group{}, false
	}
	genesis, err := decodeGenesis(meta.Genesis)
	return genesis.Group, err == nil
}

// removeSetAside removes what is kept of replicas that were set aside.
func (h *Host) removeSetAside(key id.Group) error {
	for _, s := range h.log.Suspects() {
		if k, ok := suspectKey(s); !ok || k != key {
			continue
		}
		if err := h.write(wal.Update{Group: s.Group, Remove: true}); err != nil {
			return fmt.Errorf("group %s: remove replica %d, which was set aside: %w", key, s.Group, err)
		}
		if err := h.snaps.RemoveGroup(s.Group); err != nil {
			return fmt.Errorf("group %s: remove snapshots of replica %d, which was set aside: %w", key, s.Group, err)
		}
	}
	return nil
}

// Waiting lists the structures of which this node is to get a replica and has
// none: subscriptions wait for one, or it is being made.
func (h *Host) Waiting() []id.Structure {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []id.Structure
	for s := range h.waiting {
		out = append(out, s)
	}
	for s := range h.joining {
		if h.current[s] == nil && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b id.Structure) int { return slices.Compare(a[:], b[:]) })
	return out
}

// GiveUp ends what waits for a replica of a structure that was deleted: a join,
// and subscriptions, with ErrDeleted.
func (h *Host) GiveUp(s id.Structure) {
	h.mu.Lock()
	waiting := h.waiting[s]
	delete(h.waiting, s)
	if _, ok := h.joining[s]; ok {
		h.unwanted[s] = struct{}{}
	}
	h.mu.Unlock()
	for _, sub := range waiting {
		sub.dismiss(fmt.Errorf("structure %s: %w", s, ErrDeleted), 0)
	}
}
