package raftgroup

import (
	"fmt"

	"github.com/copycat-replication/copycat/id"
)

// Manual is a subscription without goroutines: a simulation, which runs
// everything on one thread, offers it proposals and takes commits from it. It
// runs the same window, delivery and rendezvous as a Subscription.
type Manual struct {
	s       *Subscription
	d       deliverer
	begun   bool
	offered *Group // where the base was offered
	base    []byte
	based   bool
	ended   bool
}

// SubscribeManually adds a subscription that the caller drives.
func (h *Host) SubscribeManually(cfg SubscriptionConfig) (*Manual, error) {
	s, err := h.subscribe(cfg, func(s *Subscription) { s.manual = true })
	if err != nil {
		return nil, err
	}
	return &Manual{s: s, d: deliverer{sub: s}}, nil
}

// Offer proposes p, unless the window is full or p is refused (the error says
// so): then it is not taken over.
func (m *Manual) Offer(p []byte) error {
	select {
	case <-m.s.halt:
		return m.s.why()
	default:
	}
	switch {
	case p == nil:
		return ErrNilProposal
	case len(p) > m.s.cfg.MaxProposal:
		return ErrProposalTooLarge
	case !m.s.credit.take(int64(len(p) + proposalOverhead)):
		return fmt.Errorf("%w: the window is full", ErrBusy)
	}
	m.s.put([][]byte{p})
	return nil
}

// Leave unsubscribes: Poll goes on until all that was sent is delivered.
func (m *Manual) Leave() { m.s.seal() }

// Poll returns the next commit, or nil for a nil; ok is false if there is
// nothing now, ended true if there never will be.
func (m *Manual) Poll() (p []byte, ok, ended bool) {
	if !m.begun && !m.begin() {
		ended = m.s.drainAt.Load() > 0 // nothing was ever delivered
		if ended && !m.ended {
			m.finish()
		}
		return nil, false, ended
	}
	p, st := m.d.next()
	if st == stepAsk {
		m.s.answered(m.s.callProvider())
		p, st = m.d.next()
	}
	if st == stepEnd && !m.ended {
		m.finish()
	}
	return p, st == stepHand, st == stepEnd
}

// finish does what the end of Subscription.run does. Nothing steps the group
// while the caller is here.
func (m *Manual) finish() {
	s := m.s
	m.ended = true
	s.host.unqueue(s)
	s.mu.Lock()
	s.gone = true
	g := s.group.Load()
	s.mu.Unlock()
	if g != nil {
		g.call(func() { g.detach(s) })
	}
	s.giveUpRest()
	s.host.ended(s)
}

// begin brings the base if that is asked of this subscription, and reports
// whether delivery may begin.
func (m *Manual) begin() bool {
	select {
	case <-m.s.baseDue:
		data, err := m.s.callProvider()
		m.s.answered(data, err)
		if err != nil {
			m.s.report(fmt.Errorf("structure %s: base: %w", m.s.cfg.Structure, err))
			m.s.wantBase() // the next poll asks again
			return false
		}
		m.base, m.based = data, true
	default:
	}
	if g := m.s.group.Load(); m.based && g != nil && g != m.offered {
		m.offered = g
		m.s.bring(g, m.base)
	}
	select {
	case <-m.s.begin:
		m.begun = true
	default:
	}
	return m.begun
}

// News reports whether something was committed, or ended, since it was last
// asked: without that, Poll has nothing that it did not have then, but for a
// snapshot that can be read now.
func (m *Manual) News() bool {
	select {
	case <-m.s.news:
		return true
	default:
		return false
	}
}

// Consume is Subscription.Consume; where that would wait for a snapshot to be
// fetched again, this returns the error, and the nil stays outstanding.
func (m *Manual) Consume() ([]byte, error) { return m.s.Consume() }

// NextError takes the next error off the error channel's queue.
func (m *Manual) NextError() (error, bool) { //nolint:revive // the error is the value
	e, ok, _ := m.s.errs.next()
	if e.read != nil {
		e.read()
	}
	return e.err, ok
}

// Group names the group that the subscription hangs on; false: none now.
func (m *Manual) Group() (id.Group, bool) {
	g := m.s.group.Load()
	if g == nil {
		return id.Group{}, false
	}
	return g.key, true
}

// Session returns the ID of the subscription's session, or 0.
func (m *Manual) Session() uint64 { return m.s.session.Load() }

// HasJob reports whether a job waits; see RunJob.
func (h *Host) HasJob() bool { return h.jobs.waiting() }

// RunJob runs one of the jobs that wait for a disk or a peer, on the calling
// goroutine, and reports whether there was one. It is for a simulation.
func (h *Host) RunJob() bool {
	return h.jobs.runOne()
}

// Silent reports whether a tick would do nothing here but ping other nodes: all
// groups are quiet, and nobody waits to be woken. It is for a simulation, which
// lets such a host tick less often.
func (h *Host) Silent() bool {
	h.tickMu.Lock()
	awake := len(h.ticking)
	h.tickMu.Unlock()
	h.mu.Lock()
	changed := h.changed
	h.mu.Unlock()
	return awake == 0 && !changed && h.watch.allWoken()
}

// Describe says where the subscription stands, for a simulation that has found
// something wrong.
func (m *Manual) Describe() string {
	s := m.s
	out := fmt.Sprintf("session %d, window %d (settled %d, sent %d, ever %d, attempt %d), inbox %d, begun %t, left %t",
		s.prop.session, len(s.prop.window), s.prop.settled, s.prop.sent, s.prop.everSent, s.prop.attempt, len(s.inbox), m.begun, s.left)
	if g := s.group.Load(); g != nil {
		out += fmt.Sprintf("; group %s replica %d %s, lead %d, applied %d, cursor at", g.key, g.self, g.roleName(), g.lead, g.applied.Load())
	}
	if c := m.d.c.state; c != nil {
		out += fmt.Sprintf(" %d", c.index)
	}
	return out
}

// WhyAwake says why the group of a structure does not rest here, for a simulation
// that has found something wrong. Nothing may step the group meanwhile.
func (h *Host) WhyAwake(s id.Structure) string {
	g, ok := h.Group(s)
	switch {
	case !ok:
		return "not here"
	case g.quietness.quiet:
		return "quiet"
	case !g.calm():
		why := fmt.Sprintf("not calm: lead %d, last %d, applied %d, appends %d, waiters %d, reads %d, closing %d",
			g.lead, g.last, g.state.index, len(g.appends), len(g.waiters), len(g.reads), len(g.closing))
		for _, sub := range g.subs {
			why += fmt.Sprintf("; subscription resting %t, window %d, session %d", sub.resting(g.state), len(sub.prop.window), sub.prop.session)
		}
		return why
	case !g.isLeader():
		return "calm"
	}
	nodes := h.liveNodes()
	d := g.leader.care.survey(g, nodes).decide()
	return fmt.Sprintf("leads, calm since %s, caught up %t, heard %t, settled %t; sessions missing %d, change pending %t, offered %t; decides: place %d, transfer %d, change %d, open %t, better %t, surplus %d; waits: %s",
		g.quietness.calmAt, g.allCaughtUp(), g.allHeard(), g.leader.settled(g, nodes), len(g.leader.missing), g.leader.changePending(g.now), g.quietness.offer != nil,
		len(d.place), d.transfer, len(d.change), d.open, d.better, len(d.surplus), d.waits)
}
