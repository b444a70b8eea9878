package raftgroup

import (
	"fmt"
	"time"
)

// maxBase bounds the base: it travels as one entry of the log.
const maxBase = 32 << 20

// baseRetry is the pause after a provider that failed to bring the base.
const baseRetry = time.Second

// awaitBegin waits until delivery may begin, and brings the base if asked to.
// Nothing is delivered before a provider that was called for the base has
// returned.
func (s *Subscription) awaitBegin() bool {
	for {
		select {
		case <-s.begin:
			return true
		default:
		}
		select {
		case <-s.begin:
			return true
		case <-s.baseDue:
			if !s.bringBase() {
				return false
			}
		case <-s.news:
			if s.drainAt.Load() > 0 || s.group.Load() == nil && s.hopeless() {
				select {
				case <-s.begin:
					return true
				default:
					return false // nothing was ever delivered, and nothing was sent
				}
			}
		case <-s.stop:
			return false
		}
	}
}

// bringBase calls the provider for the base until it answers, or somebody
// else's base was committed. False: the subscription ends.
func (s *Subscription) bringBase() bool {
	for {
		data, err, ok := s.askProvider()
		if !ok {
			return false
		}
		if err == nil && len(data) > maxBase {
			err = fmt.Errorf("%w: %d bytes, at most %d", ErrBaseTooLarge, len(data), maxBase)
		}
		if g := s.group.Load(); err == nil && g != nil {
			s.bring(g, data)
			return true
		}
		if err != nil {
			s.report(fmt.Errorf("structure %s: base: %w", s.cfg.Structure, err))
		}
		if !s.pauseForBase() {
			select {
			case <-s.begin:
				return true // with somebody else's base: what was sent may be committed, and is to be delivered
			default:
				return !s.leaving()
			}
		}
	}
}

// askProvider calls the provider while nothing has been delivered, and notes
// whether the consumer holds something. The provider is user code: a shutdown
// does not wait for it, and then ok is false.
func (s *Subscription) askProvider() (data []byte, err error, ok bool) { //nolint:revive // err is the provider's
	type result struct {
		data []byte
		err  error
	}
	got := make(chan result, 1)
	go func() {
		r := result{err: errExited}
		defer func() { got <- r }() // also if the provider does not return
		r.data, r.err = s.callProvider()
	}()
	select {
	case r := <-got:
		s.answered(r.data, r.err)
		return r.data, r.err, true
	case <-s.stop:
	}
	grace := time.NewTimer(errorGrace)
	defer grace.Stop()
	select {
	case <-got:
	case <-grace.C:
		s.host.cfg.Logger.Error("snapshot provider has not returned, it is left behind", "structure", s.cfg.Structure.String())
	}
	return nil, nil, false
}

// answered notes what the provider said at the start. One that failed may hold
// something.
func (s *Subscription) answered(data []byte, err error) {
	s.brought.Store(err != nil || len(data) > 0)
	s.asked.Store(true)
}

// bring offers the group a base; it is proposed until one is committed.
func (s *Subscription) bring(g *Group, data []byte) {
	g.call(func() {
		s.base, s.baseReady, s.baseAt = data, true, time.Time{}
		g.tickSessions()
	})
}

// leaving reports whether the subscription ends, by its user or by the host.
func (s *Subscription) leaving() bool {
	select {
	case <-s.stop:
		return true
	default:
		return s.drainAt.Load() > 0
	}
}

// pauseForBase waits before the provider is asked again; false: it need not be.
func (s *Subscription) pauseForBase() bool {
	t := time.NewTimer(baseRetry)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			return true
		case <-s.begin:
			return false
		case <-s.news:
			if s.leaving() {
				return false
			}
		case <-s.stop:
			return false
		}
	}
}

// errExited says of a provider that it has ended its goroutine, as a test does that
// fails in it.
var errExited = fmt.Errorf("%w: it ended its goroutine (runtime.Goexit)", ErrProvider)

// callProvider calls the user's provider; a panic in it becomes an error, and
// one that does not return gives warnings.
func (s *Subscription) callProvider() (data []byte, err error) {
	watchdog := time.AfterFunc(s.cfg.ProviderPatience, func() {
		s.report(fmt.Errorf("structure %s: %w for %s; it must not want a lock that the consumer holds", s.cfg.Structure, ErrProviderSlow, s.cfg.ProviderPatience))
	})
	defer watchdog.Stop()
	defer func() {
		if p := recover(); p != nil {
			data, err = nil, fmt.Errorf("%w: panic: %v", ErrProvider, p)
		}
	}()
	data, err = s.cfg.Provider()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProvider, err)
	}
	if data == nil {
		data = []byte{}
	}
	return data, nil
}
