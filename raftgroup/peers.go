package raftgroup

import (
	"errors"

	"github.com/copycat-replication/copycat/id"
)

// HandleMessages takes messages from the network. It never blocks.
func (h *Host) HandleMessages(from id.Node, batch []Message) {
	for _, m := range batch {
		h.HandleMessage(from, m)
	}
}

// HandleMessage takes one message from the network. It never blocks.
func (h *Host) HandleMessage(from id.Node, m Message) {
	if m.Group == (id.Group{}) {
		if err := h.handleNode(from, m.Payload); err != nil && !errors.Is(err, ErrBusy) {
			h.complain(h.cfg.Logger, from, "message refused", "error", err)
		}
		return
	}
	g := h.replica(m.Group)
	if g == nil {
		return // a replica that is not here, or not any more: raft's senders live with loss
	}
	if err := g.receive(from, m); err != nil && !errors.Is(err, ErrBusy) {
		h.complain(g.log, from, "message refused", "error", err)
	}
}

// PeerUp hears that a node is connected, perhaps as a new process: what it was
// doing for us before is void.
func (h *Host) PeerUp(node id.Node, incarnation uint64) {
	h.watch.heard(node, incarnation)
	h.refusals.heard(node)
	h.mu.Lock()
	groups := h.replicasLocked()
	h.mu.Unlock()
	for _, g := range groups {
		if !g.status.Load().Quiet {
			g.call(func() { g.leader.onPeerUp(g, node, incarnation) })
		}
	}
}

// PeerDown hears that the connection with a node broke: what was sent on it
// may be lost. Leaders there get their proposals again, followers there are
// probed instead of streamed to.
func (h *Host) PeerDown(node id.Node) {
	h.watch.doubt(node)
	h.mu.Lock()
	groups := h.replicasLocked()
	h.mu.Unlock()
	led := make(map[id.Node]bool) // by a leader there, with this node: who else votes
	for _, g := range groups {
		st := g.status.Load()
		if st.LeaderNode == node && st.Voter {
			for _, voter := range st.Voters {
				led[voter] = true
			}
		}
		if !st.Quiet { // nothing of theirs was on its way
			g.call(func() { g.onPeerDown(node) })
		}
	}
	if len(led) > 0 && h.refusals.broke(node) {
		h.probe(node)
		delete(led, node)
		delete(led, h.cfg.Node)
		h.connect(led)
	}
}

// onPeerDown reacts to a broken connection.
func (g *Group) onPeerDown(node id.Node) {
	if g.rn == nil || g.failure != nil {
		return
	}
	r, ok := g.state.replicaOn(node)
	switch {
	case !ok:
	case g.isLeader():
		g.rn.ReportUnreachable(uint64(r))
	case g.lead == uint64(r):
		for _, sub := range g.subs {
			sub.prop.rewind()
		}
	}
}
