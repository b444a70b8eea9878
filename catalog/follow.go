package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/raftgroup"
)

const (
	// followRetry is the pause before the log is followed anew after a failure.
	followRetry    = time.Second
	maxFollowRetry = 30 * time.Second
	// window bounds the bytes of commands under way.
	window = 4 << 20
)

func (s *Service) subscription() raftgroup.SubscriptionConfig {
	return raftgroup.SubscriptionConfig{
		Structure: ID, Provider: s.snapshot, Window: window,
		// Nobody waits for a command after that: it is not to take effect much
		// later, when a quorum returns, along with all its retries.
		ProposalTimeout: 2 * s.cfg.CallTimeout,
		// The leader of the catalog says which nodes hold it.
		Passive: true,
	}
}

func (s *Service) subscribe() (Subscription, error) {
	sub, err := s.cfg.Engine.Subscribe(s.subscription())
	if err != nil {
		return nil, fmt.Errorf("follow the catalog: %w", err)
	}
	return sub, nil
}

// snapshot is the subscription's provider. It is called for the base, when the
// machine is empty, and inside Consume, when the machine stands exactly there.
func (s *Service) snapshot() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lame != nil {
		return nil, fmt.Errorf("this node does not follow the catalog: %w", s.lame)
	}
	return s.machine.Snapshot()
}

// run follows the catalog's log, one subscription after another, until the
// service or the host closes.
func (s *Service) run(sub Subscription) {
	retry := followRetry
	for {
		began := s.cfg.Clock.Now()
		err := s.follow(sub)
		s.becomeLame(err)
		if s.ctx.Err() != nil {
			close(sub.Propose())
			return
		}
		if errors.Is(err, raftgroup.ErrClosed) {
			s.log.Info("subscription to the catalog has ended") // the host closes: subscribing again will tell
		} else {
			s.log.Error("catalog is not followed", "error", err)
		}
		close(sub.Propose())
		s.drain(sub)
		if errors.Is(err, ErrNewerFormat) {
			return // until this node runs a newer version
		}
		if s.cfg.Clock.Now().Sub(began) > maxFollowRetry {
			retry = followRetry
		}
		if !s.pause(s.ctx, retry) {
			return
		}
		retry = min(2*retry, maxFollowRetry)
		s.mu.Lock()
		s.machine, s.lame = NewMachine(), nil
		s.mu.Unlock()
		if sub, err = s.subscribe(); err != nil {
			s.becomeLame(err)
			if s.ctx.Err() == nil && !errors.Is(err, raftgroup.ErrClosed) {
				s.log.Error("catalog is not followed any more", "error", err)
			}
			return
		}
	}
}

// follow serves one subscription: commits go into the machine, commands from
// the outbox go out. It returns why it cannot go on.
func (s *Service) follow(sub Subscription) error {
	commits, errs := sub.Commits(), sub.Errors()
	var out chan<- []byte
	var next []byte
	for {
		if next == nil {
			if next = s.nextCommand(); next != nil {
				out = sub.Propose()
			}
		}
		select {
		case <-s.more:
		case out <- next:
			out, next = nil, nil
		case c, ok := <-commits:
			if !ok {
				return fmt.Errorf("subscription ended: %w", raftgroup.ErrClosed)
			}
			if err := s.onCommit(sub, c); err != nil {
				return err
			}
		case err, ok := <-errs:
			if !ok {
				errs = nil
				continue
			}
			s.onError(err)
		case <-s.ctx.Done():
			return ErrClosed
		}
	}
}

// onCommit applies one commit, or loads a snapshot.
func (s *Service) onCommit(sub Subscription, c []byte) error {
	if c == nil {
		data, err := sub.Consume()
		if err != nil {
			return err
		}
		return s.load(data)
	}
	_, err := s.apply(c)
	return err
}

// apply applies one commit, and answers who waits for it.
func (s *Service) apply(c []byte) (Result, error) {
	s.mu.Lock()
	res, err := s.machine.Apply(c)
	w := s.takeWaiterLocked(res.Nonce)
	s.mu.Unlock()
	if err != nil {
		if w != nil {
			w.answer(Result{}, fmt.Errorf("%w: %w", errAgain, err))
		}
		return Result{}, err
	}
	if w != nil {
		w.answer(res, nil)
	}
	return res, nil
}

// takeWaiterLocked takes out who waits for a command; nil: nobody.
func (s *Service) takeWaiterLocked(n Nonce) *waiter {
	w := s.waiting[n]
	delete(s.waiting, n)
	return w
}

// load restores the machine. If that skipped commands, the results of those
// that somebody here waits for were among them: they are to be asked again,
// which is harmless.
func (s *Service) load(data []byte) error {
	s.mu.Lock()
	before := s.machine.Index()
	err := s.machine.Restore(data)
	skipped := s.machine.Index() > before
	s.mu.Unlock()
	if err == nil && skipped {
		s.failWaiting(fmt.Errorf("%w: a snapshot was loaded", errAgain))
	}
	return err
}

// onError passes on the error of a proposal to who waits for it.
func (s *Service) onError(err error) {
	var p *raftgroup.ProposalError
	if !errors.As(err, &p) {
		s.log.Warn("catalog subscription", "error", err)
		return
	}
	_, nonce, _ := decodeCommand(p.Proposal)
	s.mu.Lock()
	w := s.takeWaiterLocked(nonce)
	s.mu.Unlock()
	if w != nil {
		w.answer(Result{}, fmt.Errorf("%w: %w", errAgain, p.Err))
	}
}

// becomeLame has holders elsewhere asked instead of the machine here.
func (s *Service) becomeLame(err error) {
	s.mu.Lock()
	s.lame = err
	s.mu.Unlock()
	s.failWaiting(fmt.Errorf("%w: %w", errAgain, err))
}

func (s *Service) failWaiting(err error) {
	s.mu.Lock()
	waiting := s.waiting
	s.waiting = make(map[Nonce]*waiter)
	s.mu.Unlock()
	for _, w := range waiting {
		w.answer(Result{}, err)
	}
}

// drain lets a subscription end whose commits are of no use any more.
func (s *Service) drain(sub Subscription) {
	commits, errs := sub.Commits(), sub.Errors()
	for commits != nil || errs != nil {
		select {
		case c, ok := <-commits:
			switch {
			case !ok:
				commits = nil
			case c == nil:
				if _, err := sub.Consume(); err != nil { // nothing follows before it
					s.log.Debug("catalog subscription that ends", "error", err)
				}
			}
		case err, ok := <-errs:
			if !ok {
				errs = nil
				continue
			}
			s.onError(err)
		case <-s.ctx.Done():
			return
		}
	}
}

// follows reports whether this node can take a command to the log itself.
func (s *Service) follows() bool {
	s.mu.Lock()
	lame := s.lame
	s.mu.Unlock()
	return lame == nil && s.cfg.Engine.Holds(ID)
}

// commit proposes a command here and waits until the machine here has applied it.
func (s *Service) commit(ctx context.Context, c command) (Result, error) {
	if !s.follows() {
		return Result{}, errNotHolder
	}
	var nonce Nonce
	if err := s.random(nonce[:]); err != nil {
		return Result{}, err
	}
	data, err := encodeCommand(c, nonce)
	if err != nil {
		return Result{}, fmt.Errorf("encode command: %w", err)
	}
	w := &waiter{done: make(chan struct{})}
	s.mu.Lock()
	s.waiting[nonce] = w
	s.outbox = append(s.outbox, outgoing{nonce: nonce, data: data})
	s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default: // the follower has been told already
	}
	defer func() {
		s.mu.Lock()
		delete(s.waiting, nonce)
		// What nobody waits for any more is not proposed: so there is never
		// more in the outbox than there are requests.
		s.outbox = slices.DeleteFunc(s.outbox, func(o outgoing) bool { return o.nonce == nonce })
		s.mu.Unlock()
	}()
	if err := s.tasks.Await(ctx, w.done); err != nil {
		if s.isLeaderless() {
			err = fmt.Errorf("%w: %w", errNoLeader, err)
		}
		return Result{}, err
	}
	return w.result, w.err
}

// isLeaderless reports whether the replica of the catalog here knows no leader.
func (s *Service) isLeaderless() bool {
	for g := range s.cfg.Engine.Statuses() {
		if g.Group.Structure == ID && (g.Leader == 0 || g.QuorumLost) {
			return true
		}
	}
	return false
}

// nextCommand takes the next command that is to be proposed; nil: there is none.
func (s *Service) nextCommand() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.outbox) > 0 {
		next := s.outbox[0]
		s.outbox = slices.Delete(s.outbox, 0, 1)
		if s.waiting[next.nonce] != nil { // else it has been given up, and is being taken out
			return next.data
		}
	}
	return nil
}
