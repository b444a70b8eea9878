package raftgroup

import (
	"fmt"
	"time"
)

const (
	// proposeBuffer lets a burst of senders go on without a switch of
	// goroutines for each, and so into one batch: measured with 256 proposals
	// under way, 32 places give batches of 32 at three times the allocations and
	// twice the processor's time for each proposal. What lies there is not in
	// the window yet, so it is bounded by number, and by MaxProposal.
	proposeBuffer = 256
	// pumpBatch is how many proposals the pump hands over at once.
	pumpBatch = 256
	// proposalOverhead is what a proposal costs beside its bytes.
	proposalOverhead = 64
)

// pump serves the propose channel until the subscription's end: a consumer that is
// slow may put that off for long after the structure has gone.
func (s *Subscription) pump() {
	closed := s.take()
	close(s.pumped)
	if !closed {
		s.refuseOn()
	}
}

// take moves proposals from the channel into the inbox, as many at a time as
// there are; true: until the user closed it, false: until none are taken any more.
func (s *Subscription) take() (closed bool) {
	batch := make([][]byte, 0, pumpBatch)
	for !over(s.halt) { // a sender that never stops is always ready too
		select {
		case p, ok := <-s.proposeCh:
			if !ok {
				s.seal()
				return true
			}
			batch = s.admit(batch[:0], p)
		case <-s.halt:
			return false
		}
	more:
		for len(batch) < pumpBatch && !over(s.halt) {
			select {
			case p, ok := <-s.proposeCh:
				if !ok {
					s.put(batch)
					s.seal()
					return true
				}
				batch = s.admit(batch, p)
			default:
				break more
			}
		}
		s.put(batch)
	}
	return false
}

func over(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// admit checks a proposal and waits for room in the window, letting go of what
// was collected before it waits.
func (s *Subscription) admit(batch [][]byte, p []byte) [][]byte {
	switch {
	case p == nil:
		s.refuse(nil, ErrNilProposal, s.halt)
		return batch
	case len(p) > s.cfg.MaxProposal:
		err := fmt.Errorf("%w: %d bytes, the limit is %d", ErrProposalTooLarge, len(p), s.cfg.MaxProposal)
		s.refuse(p, err, s.halt)
		return batch
	}
	cost := int64(len(p) + proposalOverhead)
	if !s.credit.take(cost) {
		s.put(batch)
		batch = batch[:0]
		if !s.credit.wait(cost, s.halt) {
			s.refuse(p, fmt.Errorf("%w: %w", ErrNeverCommitted, s.why()), s.halt)
			return batch
		}
	}
	return append(batch, p)
}

// refuse reports a proposal that never left; its error holds room in the
// window until it is read, so that errors are bounded too. It waits for room until
// stop.
func (s *Subscription) refuse(p []byte, err error, stop <-chan struct{}) {
	s.refuseAtOnce(p, err)
	s.credit.block(stop)
}

func (s *Subscription) refuseAtOnce(p []byte, err error) {
	cost := int64(len(p) + proposalOverhead)
	s.credit.force(cost)
	s.errs.proposal(&ProposalError{Structure: s.cfg.Structure, Proposal: p, Err: err}, func() { s.credit.give(cost) })
}

func (s *Subscription) put(batch [][]byte) {
	if len(batch) == 0 {
		return
	}
	s.mu.Lock()
	s.inbox = append(s.inbox, batch...)
	s.mu.Unlock()
	if g := s.group.Load(); g != nil {
		g.wake()
	}
}

// seal notes that the user closed the propose channel.
func (s *Subscription) seal() {
	s.mu.Lock()
	s.sealed = true
	g := s.group.Load()
	if g == nil {
		s.drainAdriftLocked()
		s.notify()
	}
	s.mu.Unlock()
	if g != nil {
		g.wake()
	}
}

// refuseOn reports what is sent until the commit channel is closed.
func (s *Subscription) refuseOn() {
	for !over(s.shown) {
		select {
		case p, ok := <-s.proposeCh:
			if !ok {
				return
			}
			s.refuse(p, fmt.Errorf("%w: %w", ErrNeverCommitted, s.why()), s.shown)
		case <-s.shown:
		}
	}
	s.refuseRest()
}

// refuseRest reports what lies in the channel, and not what comes while it does:
// a sender that does not stop would keep it here for good.
func (s *Subscription) refuseRest() {
	for range len(s.proposeCh) {
		select {
		case p, ok := <-s.proposeCh:
			if !ok {
				return
			}
			s.refuseAtOnce(p, fmt.Errorf("%w: %w", ErrNeverCommitted, s.why()))
		default:
			return
		}
	}
}

// takeInbox moves the inbox into the window. Runs in the step.
func (s *Subscription) takeInbox(now time.Time) {
	s.mu.Lock()
	inbox := s.inbox
	s.inbox, s.spare = s.spare, nil
	s.mu.Unlock()
	if inbox == nil {
		return
	}
	var deadline time.Time
	if s.cfg.ProposalTimeout > 0 {
		deadline = now.Add(s.cfg.ProposalTimeout)
	}
	for _, p := range inbox {
		s.prop.add(p, deadline)
	}
	clear(inbox)
	if cap(inbox) <= 4*proposeBuffer {
		s.mu.Lock()
		s.spare = inbox[:0]
		s.mu.Unlock()
	}
}
