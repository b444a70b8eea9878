package raftgroup

import (
	"fmt"

	"github.com/copycat-replication/copycat/id"
)

// unhook takes the subscription off its group and the host. Proposals that are
// left (a shutdown leaves some, and the want of a replica) are reported.
func (s *Subscription) unhook() {
	s.mu.Lock()
	s.gone = true // an attach may still be on its way: it must not touch what is ours from here on
	g := s.group.Load()
	s.mu.Unlock()
	s.host.unqueue(s)
	gone := make(chan struct{})
	if g != nil && g.call(func() { g.detach(s); close(gone) }) {
		select {
		case <-gone:
		case <-s.host.idle: // the workers have ended: nobody steps the group any more
		}
	}
	s.giveUpRest()
}

// giveUpRest reports what nobody will propose any more.
func (s *Subscription) giveUpRest() {
	s.mu.Lock()
	rest := s.inbox
	s.inbox = nil
	s.mu.Unlock()
	s.prop.abandon(s.settle)
	for _, p := range rest {
		s.errs.proposal(&ProposalError{Structure: s.cfg.Structure, Proposal: p, Err: fmt.Errorf("%w: %w", ErrNeverCommitted, s.why())}, nil)
	}
}

// leave notes that its group was removed; false after the subscription's end.
// Runs in that group's last step.
func (s *Subscription) leave() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.group.Store(nil)
	s.pends = len(s.prop.window) > 0
	s.drainAdriftLocked()
	s.notify()
	return !s.gone
}

// drainAdriftLocked has a subscription without a group that was unsubscribed, and
// whose proposals are all settled, drain: what is owed to it is known. What is
// not settled is settled by the next group that it gets.
func (s *Subscription) drainAdriftLocked() {
	if s.sealed && len(s.inbox) == 0 && !s.pends && s.cause == nil {
		s.drained(s.owed.Load())
	}
}

// isGone reports whether no group may take the subscription on any more.
func (s *Subscription) isGone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}

// hopeless reports whether a subscription that ends, and has no replica that
// runs, cannot count on another one: its structure is gone, none is got for its
// sake, or this node's log takes none any more. Until then one is got for it as
// for any other.
func (s *Subscription) hopeless() bool {
	s.mu.Lock()
	leaves, gone := s.sealed || s.cause != nil || s.stopped, s.cause != nil || s.stopped
	s.mu.Unlock()
	return leaves && (gone || s.cfg.Passive || s.host.logIsGone())
}

// draining reports whether the propose channel was closed and all of it taken.
func (s *Subscription) draining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sealed && len(s.inbox) == 0
}

// drained tells delivery where its last commit is.
func (s *Subscription) drained(index uint64) {
	s.drainAt.Store(index + 1)
	s.notify()
}

// shut begins the end of a subscription whose host shuts down.
func (s *Subscription) shut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopped {
		s.stopped = true
		close(s.stop)
		if s.cause == nil {
			close(s.halt)
		}
	}
}

// dismiss ends a subscription whose structure is gone: no proposal is taken any
// more, and delivery ends behind index.
func (s *Subscription) dismiss(cause error, index uint64) {
	s.mu.Lock()
	first := s.cause == nil
	if first {
		s.cause = cause
		if !s.stopped {
			close(s.halt)
		}
	}
	s.mu.Unlock()
	if first {
		s.errs.end(cause)
		s.drained(index)
	}
}

func (s *Subscription) dismissed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause != nil
}

// why says why proposals are not taken any more.
func (s *Subscription) why() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause != nil {
		return s.cause
	}
	return ErrClosed
}

// stranger is not nil if a group is of another life of the structure than the
// one that the subscription began with.
func (s *Subscription) stranger(g id.Group) error {
	switch {
	case s.life == id.Incarnation{} || s.life == g.Incarnation:
		return nil
	case s.life.Birth == g.Incarnation.Birth:
		return ErrRebuilt
	}
	return ErrDeleted
}
