package raftgroup

import (
	"slices"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

// Which replicas a host has: by group, by structure, by birth, and in order.

// register makes a group known to the host, and attaches the subscriptions
// that waited for it. Of two replicas of one group, the one that was made last
// counts: see twinLocked.
func (h *Host) register(g *Group) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !g.listed {
		// Others walk the slice without the lock, and never look behind its end.
		g.listed, h.ordered = true, append(h.ordered, g)
		h.news.Add(1)
	}
	h.born[g.genesis.Token] = g
	if g.meta.Phase == grouppb.Replica_PREPARED {
		h.prepared[g.genesis.Token] = PreparedReplica{Genesis: g.genesis, Created: time.Unix(0, g.meta.Created), group: g}
		return
	}
	delete(h.prepared, g.genesis.Token)
	h.awake(g)
	cur := h.groups[g.key]
	h.twins = h.twins || cur != nil && cur != g
	if cur == nil || cur.self <= g.self {
		h.groups[g.key] = g
	}
	if cur := h.current[g.key.Structure]; cur == nil || cur.key.Incarnation.Less(g.key.Incarnation) || cur.key == g.key {
		h.current[g.key.Structure] = h.groups[g.key]
	}
	still := h.waiting[g.key.Structure][:0]
	for _, s := range h.waiting[g.key.Structure] {
		if !g.call(func() { g.attach(s) }) {
			still = append(still, s)
		}
	}
	if h.waiting[g.key.Structure] = still; len(still) == 0 {
		delete(h.waiting, g.key.Structure)
	}
	h.changed = true
}

// drop takes a group off the host's lists.
func (h *Host) drop(g *Group) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropped = true
	h.news.Add(1)
	if g.listed = false; h.born[g.genesis.Token] == g {
		delete(h.born, g.genesis.Token)
	}
	if h.prepared[g.genesis.Token].group == g {
		delete(h.prepared, g.genesis.Token)
	}
	twin := h.twinLocked(g)
	if h.groups[g.key] == g {
		if delete(h.groups, g.key); twin != nil {
			h.groups[g.key] = twin
		}
	}
	if h.current[g.key.Structure] == g {
		if delete(h.current, g.key.Structure); twin != nil && !twin.Status().Deleted {
			h.current[g.key.Structure] = twin
		}
	}
	h.changed = true
}

// twinLocked finds another started replica of a group, the one that was made
// last. There is one only if the log of a replica could not be removed, the node
// got another one, and has started again since: both are found. The group has
// removed one of them, and that one goes when it asks for its standing.
func (h *Host) twinLocked(g *Group) (twin *Group) {
	if !h.twins {
		return nil
	}
	for _, o := range h.replicasLocked() {
		if o != g && o.key == g.key && h.prepared[o.genesis.Token].group != o && (twin == nil || twin.self < o.self) {
			twin = o
		}
	}
	return twin
}

// runsAgain finds the replica that uses the log of one that was retired: the same
// one, which has started again since. Nil: there is none.
func (h *Host) runsAgain(g *Group) *Group {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, o := range h.replicasLocked() {
		if o.local == g.local && o != g {
			return o
		}
	}
	return nil
}

// replicasLocked lists the replicas that are here, oldest first. It may be walked
// without the lock. Those that were dropped since the last time are taken out here,
// so that as many can go together as a node has.
func (h *Host) replicasLocked() []*Group {
	if h.dropped {
		h.dropped = false
		h.ordered = slices.DeleteFunc(slices.Clone(h.ordered), func(o *Group) bool { return !o.listed })
	}
	return h.ordered
}

// requeue has a subscription wait for a replica again.
func (h *Host) requeue(s *Subscription) {
	if !s.leave() || s.dismissed() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.isGone() { // it has ended meanwhile, and looked for itself in the line before this
		return
	}
	if g := h.current[s.cfg.Structure]; g != nil && g.call(func() { g.attach(s) }) {
		return
	}
	h.waiting[s.cfg.Structure] = append(h.waiting[s.cfg.Structure], s)
}

func replicaFor(members map[id.Replica]id.Node, node id.Node) (id.Replica, bool) {
	for r, n := range members {
		if n == node {
			return r, true
		}
	}
	return 0, false
}
