package raftgroup

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/raft/v3"

	"github.com/copycat-replication/copycat/pb/grouppb"
)

// openRetry is how long a subscription waits for its SessionOpen to be applied
// before it proposes it again, under the same nonce: a second copy that makes
// it opens a session that nobody knows, and is closed again.
const openRetry = 2 * time.Second

// attach hangs a subscription on this replica. Runs in the step.
func (g *Group) attach(sub *Subscription) {
	if g.retired {
		g.host.requeue(sub)
		return
	}
	if cause := sub.stranger(g.key); cause != nil {
		// Its session, and what it has delivered, are those of another history.
		sub.prop.abandon(sub.settle)
		sub.left = true
		sub.dismiss(fmt.Errorf("group %s: %w", g.key, cause), 0)
		return
	}
	if !sub.join(g) {
		return
	}
	sub.life = g.key.Incarnation
	if g.bySession == nil { // a detached replica needs neither
		g.bySession, g.byNonce = make(map[uint64]*Subscription), make(map[[16]byte]*Subscription)
	}
	g.subs = append(g.subs, sub)
	g.statusDirty = true
	if g.failure != nil {
		sub.report(fmt.Errorf("group %s: %w", g.key, g.failure))
	}
	if sub.nonce != ([16]byte{}) {
		g.byNonce[sub.nonce] = sub
	}
	if g.state != nil { // else when it is here: see repair
		g.takeOn(sub)
	}
	sub.notify()
}

// takeOn has a subscription go on, with the session that it brings, from the
// state of a replica on which it hangs.
func (g *Group) takeOn(sub *Subscription) {
	if g.state.deleted {
		g.dismiss(sub, ErrDeleted)
		g.maybeStartDelivery(sub)
		return
	}
	if s := sub.prop.session; s != 0 {
		// It came from a replica that was removed; the session is the group's. The
		// log from which this replica starts may have shown it its opening.
		g.bySession[s] = sub
		g.closing = slices.DeleteFunc(g.closing, func(c closing) bool { return c.session == s })
		if sub.left {
			g.closeSession(s)
		}
		switch last, live, known := g.state.sessions.last(s); {
		case live:
			sub.prop.reconcile(last, g.now, sub.settle)
		case known || s <= g.state.index:
			g.onSessionEnd(s)
		}
	}
	g.maybeStartDelivery(sub)
	if g.rn != nil && g.failure == nil {
		if sub.spent != 0 {
			g.closeSession(sub.spent)
			sub.spent = 0
		}
		g.openSession(sub)
	}
}

// openSession asks the group for a session, again and again until it has one.
func (g *Group) openSession(sub *Subscription) {
	if g.rn == nil || g.failure != nil || sub.prop.session != 0 || sub.left || g.state.deleted || (!sub.askedAt.IsZero() && g.now.Sub(sub.askedAt) < openRetry) {
		return
	}
	if sub.nonce == ([16]byte{}) {
		if err := g.host.random(sub.nonce[:]); err != nil {
			sub.report(fmt.Errorf("group %s: open session: %w", g.key, err))
			return
		}
		g.byNonce[sub.nonce] = sub
	}
	if s := g.state.sessions.opened(g.host.cfg.Node, sub.nonce); s != nil {
		// The entry that opened it was skipped here, by a snapshot that has the
		// session: asking again would open nothing.
		g.sessionOpened(sub, s.id)
		return
	}
	err := g.proposeRecord(KindSessionOpen, &grouppb.SessionOpen{Nonce: sub.nonce[:], Node: g.host.cfg.Node[:], Incarnation: g.host.cfg.Incarnation})
	if err == nil {
		sub.askedAt = g.now
	} else if !errors.Is(err, raft.ErrProposalDropped) {
		g.lastError = err
	}
}

// onSessionOpen matches an applied SessionOpen with who asked for it.
func (g *Group) onSessionOpen(o *outcome) {
	for _, ended := range o.ended {
		g.onSessionEnd(ended)
	}
	if o.node != g.host.cfg.Node || o.repeated {
		return
	}
	sub := g.byNonce[o.nonce]
	if sub == nil && g.bySession[o.session] != nil {
		return // known from a replica that this one replaces
	}
	if sub == nil {
		if o.ok { // a late copy, or of a subscription that has gone: nobody will use it
			g.closeSession(o.session)
		}
		return
	}
	if !o.ok {
		delete(g.byNonce, o.nonce)
		sub.nonce = [16]byte{}
		sub.report(fmt.Errorf("group %s: %w", g.key, ErrTooManySessions))
		sub.askedAt = g.now // and ask again later
		return
	}
	g.sessionOpened(sub, o.session)
}

// sessionOpened gives a subscription the session that it has asked for.
func (g *Group) sessionOpened(sub *Subscription, session uint64) {
	delete(g.byNonce, sub.nonce)
	sub.nonce, sub.askedAt = [16]byte{}, time.Time{}
	sub.prop.opened(session, g.now)
	sub.session.Store(session)
	g.bySession[session] = sub
	if sub.left {
		g.closeSession(session)
	}
	if !g.state.baseSet {
		sub.wantBase()
	}
	g.maybeStartDelivery(sub)
}

// maybeStartDelivery lets a subscription's delivery begin once the group has a
// base: before that there is nothing to hand out, and the provider that brings
// the base must have returned before anything is.
func (g *Group) maybeStartDelivery(sub *Subscription) {
	if !sub.started && g.state != nil && g.state.baseSet {
		sub.startDelivery()
	}
}

// onOwnBatch settles, or goes back, by what became of an own batch.
func (g *Group) onOwnBatch(sub *Subscription, o *outcome) {
	switch o.verdict {
	case verdictCounts:
		sub.prop.counted(&o.batch, o.from, g.now, sub.settle)
		g.checkDrained(sub)
	case verdictGap:
		sub.prop.dropped(o.batch.attempt)
	case verdictUnknown:
		g.onSessionEnd(o.session)
	}
}

// onSessionEnd reacts to the end of a session that may be one of ours.
func (g *Group) onSessionEnd(session uint64) {
	g.closing = slices.DeleteFunc(g.closing, func(c closing) bool { return c.session == session })
	sub := g.bySession[session]
	if sub == nil {
		return
	}
	delete(g.bySession, session)
	last, _, known := g.state.sessions.last(session)
	lost := sub.prop.everSent
	sub.prop.ended(last, known, g.now, sub.settle)
	sub.session.Store(0)
	sub.askedAt = time.Time{}
	if !sub.left {
		g.log.Warn("session ended by the group", "session", session, "in_flight", lost)
		sub.report(fmt.Errorf("group %s: session %d: %w", g.key, session, ErrSessionEnded))
		g.openSession(sub)
	}
	g.checkDrained(sub)
}

// reconcileAll follows a jump of the apply cursor to a snapshot.
func (g *Group) reconcileAll() {
	for _, sub := range g.subs {
		session := sub.prop.session
		if session == 0 {
			continue
		}
		last, live, _ := g.state.sessions.last(session)
		if !live {
			g.onSessionEnd(session)
			continue
		}
		sub.prop.reconcile(last, g.now, sub.settle)
		g.checkDrained(sub)
	}
	// SessionOpens of ours may stand in what was skipped.
	for _, s := range g.state.sessions.sorted() {
		if s.node == g.host.cfg.Node && g.bySession[s.id] == nil {
			g.onSessionOpen(&outcome{kind: KindSessionOpen, session: s.id, nonce: s.nonce, node: s.node, ok: true})
		}
	}
	for _, sub := range g.subs {
		g.maybeStartDelivery(sub)
	}
}

// takeInboxes moves what subscriptions propose into their windows.
func (g *Group) takeInboxes() {
	for _, sub := range g.subs {
		sub.takeInbox(g.now)
		if g.state.deleted {
			sub.prop.abandon(sub.settle)
		}
		g.checkDrained(sub)
	}
}

// propose sends what waits, batch by batch.
func (g *Group) propose() {
	if g.lead == raft.None || g.stalled || g.failure != nil {
		return
	}
	for _, sub := range g.subs {
		for sub.prop.unsent() > 0 && g.state.baseSet {
			if len(g.appends) >= maxAppendsInFlight && !sub.prop.fills(maxBatchBytes) {
				// The next batch collects while the disk works. A follower's does
				// too: as much as it appends is under way already, and what it
				// forwards meanwhile would be an entry for each few proposals.
				break
			}
			n, err := g.proposeNext(&sub.prop)
			if n == 0 || err != nil {
				break // nothing left; or raft is full or has no leader, and the next tick tries again
			}
			sub.prop.accepted(n, g.now)
			if g.isLeader() && len(g.appends) < maxAppendsInFlight {
				break // let it out to the disk before the next is packed
			}
		}
	}
}

// layouts are the buffers in which leaders lay out large batches: raft copies
// what is proposed to its leader, so that they are free again at once.
var layouts = sync.Pool{New: func() any { return new([]byte) }}

// pooledBytes is the size from which a batch is laid out in such a buffer.
const pooledBytes = 16 << 10

// proposeNext proposes the next batch of a proposer, of n proposals.
func (g *Group) proposeNext(p *proposer) (n int, err error) {
	// What is forwarded is kept by raft until it is sent. And raft may have
	// stepped down in this very step, without having said so yet.
	if !g.isLeader() || !p.fills(pooledBytes) || g.rn.BasicStatus().RaftState != raft.StateLeader {
		data, n := p.next(nil, maxBatchBytes)
		if n == 0 {
			return 0, nil
		}
		return n, g.proposeData(data)
	}
	box := layouts.Get().(*[]byte)
	data, n := p.next(*box, maxBatchBytes)
	if n > 0 {
		err = g.proposeData(data)
		if cap(data) <= 2*maxBatchBytes {
			*box = data[:0]
		}
	}
	layouts.Put(box)
	return n, err
}

// tickSessions drives everything of sessions that waits for time to pass.
func (g *Group) tickSessions() {
	for _, sub := range g.subs {
		sub.prop.expireUnsent(g.now, sub.settle)
		sub.prop.tick(g.now)
		g.openSession(sub)
		if sub.baseReady && !g.state.baseSet && sub.prop.session != 0 && g.now.Sub(sub.baseAt) >= openRetry {
			sub.baseAt = g.now
			if err := g.proposeRecord(KindBase, &grouppb.Base{Session: sub.prop.session, Data: sub.base}); err != nil {
				g.lastError = err
			}
		}
		if g.state.baseSet {
			sub.base, sub.baseReady = nil, false
		}
	}
	g.tickStrays()
	g.retryClosing()
}

// closing is a session of this node that nobody uses any more.
type closing struct {
	session uint64
	tried   time.Time
}

// closeSession has a session closed in the log, now or when that is possible.
func (g *Group) closeSession(session uint64) {
	if !g.isClosing(session) {
		g.closing = append(g.closing, closing{session: session})
	}
}

func (g *Group) isClosing(session uint64) bool {
	return slices.ContainsFunc(g.closing, func(c closing) bool { return c.session == session })
}

func (g *Group) retryClosing() {
	g.closing = slices.DeleteFunc(g.closing, func(c closing) bool {
		_, live, _ := g.state.sessions.last(c.session)
		return !live && c.session <= g.state.index // else this replica has not seen it open yet
	})
	for i := range g.closing {
		c := &g.closing[i]
		if g.lead == raft.None || g.now.Sub(c.tried) < openRetry || c.session > g.state.index {
			continue
		}
		c.tried = g.now
		if err := g.proposeRecord(KindSessionClose, &grouppb.SessionClose{Session: c.session}); err != nil {
			g.log.Debug("session not closed, will try again", "session", c.session, "error", err)
		}
	}
}

// checkDrained lets a subscription whose propose channel was closed finish:
// all it sent is settled, so its last commit is at or before the apply cursor.
func (g *Group) checkDrained(sub *Subscription) {
	if !sub.draining() || sub.left || len(sub.prop.window) > 0 {
		return
	}
	sub.left = true
	if s := sub.prop.session; s != 0 {
		g.closeSession(s)
	}
	// What it owes may lie ahead of this replica, if an earlier one has settled it.
	owed := sub.owed.Load()
	switch {
	case g.failure != nil:
		owed = max(owed, g.applied.Load()) // nothing more comes here
	case g.state != nil:
		owed = max(owed, g.state.index)
	}
	sub.drained(owed)
}

// settleStopped serves subscriptions of a replica that does not run. One that
// stopped will not settle anything any more: what is not known to be committed
// is reported, and a subscription that leaves is let go.
func (g *Group) settleStopped() {
	for _, sub := range g.subs {
		sub.takeInbox(g.now)
		if g.failure != nil {
			g.giveUp(sub)
		}
		g.checkDrained(sub)
	}
}

// giveUp reports all that a subscription of a replica that has stopped has in its
// window. If there was anything, its session is of no use any more: the numbers
// go on behind what was given up, and to the log that would be a gap for good.
// The replica may be mended, or another one come, and then the session is closed.
func (g *Group) giveUp(sub *Subscription) {
	if len(sub.prop.window) == 0 {
		return
	}
	sub.prop.abandon(sub.settle)
	if s := sub.prop.session; s != 0 {
		delete(g.bySession, s)
		sub.prop.opened(0, g.now)
		sub.session.Store(0)
		sub.spent = s
	}
}

// retire is the last step of a replica that is removed: its subscriptions wait
// for another one.
func (g *Group) retire() {
	g.retired = true
	g.failure = fmt.Errorf("group %s: %w", g.key, ErrUnknownGroup)
	m := &g.mailbox
	m.mu.Lock()
	m.closed = true
	late := m.events
	m.events = nil
	m.mu.Unlock()
	for _, sub := range g.subs {
		g.host.requeue(sub)
	}
	g.subs = nil
	for _, e := range late { // subscriptions on their way, and who waits for an answer
		if e.call != nil {
			e.call()
		}
	}
	for n, w := range g.waiters {
		delete(g.waiters, n)
		w.done(outcome{}, g.failure)
	}
}

// detach takes a subscription that is done off this replica.
func (g *Group) detach(sub *Subscription) {
	g.statusDirty = true
	g.subs = slices.DeleteFunc(g.subs, func(s *Subscription) bool { return s == sub })
	delete(g.byNonce, sub.nonce)
	if s := sub.prop.session; s != 0 {
		delete(g.bySession, s)
		g.closeSession(s)
	}
}

// onDeleted reacts to the end of the structure itself: what was committed is
// delivered, and then its subscriptions end. The replica stays until its node
// has made sure that the others know (Host.RemoveEnded).
func (g *Group) onDeleted() {
	g.log.Info("data structure deleted", "index", g.state.index)
	for _, sub := range g.subs {
		g.dismiss(sub, ErrDeleted)
	}
	g.statusDirty = true
	g.host.notCurrent(g)
}

// dismiss ends a subscription because of what became of its structure.
func (g *Group) dismiss(sub *Subscription, cause error) {
	sub.takeInbox(g.now)
	last, _, known := g.state.sessions.last(sub.prop.session)
	sub.prop.ended(last, known, g.now, sub.settle)
	sub.prop.abandon(sub.settle)
	sub.left = true
	sub.dismiss(fmt.Errorf("group %s: %w", g.key, cause), g.state.index)
}
