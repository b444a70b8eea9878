package raftgroup

import (
	"slices"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// A subscription that ends while its node has no replica leaves its session open:
// there is nobody who could close it. So does one whose replica is removed before
// it has. As long as the process lives, the group takes the session for one in
// use: it keeps a learner here, and may be asked for a snapshot. So the next
// replica of the node closes it.

// strays are the live sessions of this process that no subscription here is known
// to have, and since when. One that is about to hang on this replica brings its own
// within openRetry.
type strays map[uint64]time.Time

// tickStrays has sessions closed that nobody has any more.
func (g *Group) tickStrays() {
	var found []uint64
	of := g.state.sessions.byNode[g.host.cfg.Node]
	if of != nil && len(of.byNonce) > len(g.bySession) && !g.state.deleted {
		for nonce, s := range of.byNonce {
			if s.incarnation == g.host.cfg.Incarnation && g.bySession[s.id] == nil && g.byNonce[nonce] == nil && !g.isClosing(s.id) {
				found = append(found, s.id)
			}
		}
	}
	if len(found) == 0 {
		g.strays = nil
		return
	}
	slices.Sort(found)
	before := g.strays
	g.strays = make(strays, len(found))
	for _, session := range found {
		since, known := before[session]
		switch {
		case !known || g.host.hasSession(g.key.Structure, session):
			g.strays[session] = g.now
		case g.now.Sub(since) < openRetry:
			g.strays[session] = since
		default:
			g.log.Info("closing a session that nobody here has any more", "session", session)
			g.closeSession(session)
		}
	}
}

// hasSession reports whether a subscription here has a session.
func (h *Host) hasSession(s id.Structure, session uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for sub := range h.subs {
		if sub.cfg.Structure == s && sub.session.Load() == session && !sub.isGone() {
			return true
		}
	}
	return false
}
