package catalog

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/raftgroup"
)

const (
	// sweepsPerPatience is how often, within the patience, the sweeper looks.
	sweepsPerPatience = 10
	// settledAtOnce is how many prepared replicas are settled at the same time. Each
	// takes a round trip and a commit of the catalog, and while that does not
	// answer, retries of births leave hundreds behind: one after the other, a birth
	// that did come about would wait for minutes behind those that did not.
	settledAtOnce = 16
)

// sweepLoop settles prepared replicas whose creator has been silent for too
// long. It counts from when this process first saw a replica, not from its
// creation, so that a clock that was set back keeps none for ever, and a node
// that was down for a while gives the creator time.
func (s *Service) sweepLoop() {
	seen, after := make(map[raftgroup.Token]time.Time), newAfterlife()
	often := max(s.cfg.Patience/sweepsPerPatience, time.Millisecond)
	for wait := often; s.pause(s.ctx, wait); {
		err := s.sweep(seen)
		if err == nil {
			err = s.sweepEnded(after)
		}
		if err == nil {
			wait = often
			continue
		}
		wait = min(2*wait, max(s.cfg.Patience, often))
		if s.ctx.Err() == nil {
			s.log.Warn("what is prepared, and what may be deleted, is left: the catalog does not answer", "prepared", len(seen), "error", err)
		}
	}
}

// sweep settles what is older than the patience. seen has the prepared
// replicas and since when; it is bounded by their number. The error is that of
// a catalog which does not answer: then the rest has to wait too.
func (s *Service) sweep(seen map[raftgroup.Token]time.Time) error {
	now := s.cfg.Clock.Now()
	prepared := s.cfg.Engine.Prepared()
	present := make(map[raftgroup.Token]bool, len(prepared))
	for _, p := range prepared {
		present[p.Genesis.Token] = true
	}
	maps.DeleteFunc(seen, func(t raftgroup.Token, _ time.Time) bool { return !present[t] })
	var due []raftgroup.Genesis
	for _, p := range prepared {
		since, ok := seen[p.Genesis.Token]
		if !ok {
			seen[p.Genesis.Token] = now
			continue
		}
		if now.Sub(since) < s.cfg.Patience || s.busyWith(p.Genesis.Token) {
			continue
		}
		due = append(due, p.Genesis)
	}
	for some := range slices.Chunk(due, settledAtOnce) {
		if err := s.settleAll(some); err != nil {
			return err
		}
	}
	return nil
}

// settleAll settles some at the same time. The error is that of a catalog which
// does not answer.
func (s *Service) settleAll(some []raftgroup.Genesis) error {
	errs := make([]error, len(some))
	s.atOnce(len(some), func(i int) { errs[i] = s.settle(some[i]) })
	for i, err := range errs {
		switch {
		case errors.Is(err, ErrCatalogUnavailable), errors.Is(err, ErrClosed):
			return err
		case err != nil:
			s.log.Error("prepared replica not settled", "structure", some[i].Group.Structure.String(), "error", err)
		}
	}
	return nil
}

// busyWith reports whether a birth of this process is under way with a token.
func (s *Service) busyWith(t raftgroup.Token) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.active[t]
	return ok
}

// settle has the catalog decide about a prepared replica: a token that has a
// record has won, any other is abandoned, and can never win from then on.
func (s *Service) settle(genesis raftgroup.Genesis) error {
	structure := genesis.Group.Structure
	ctx, cancel := s.tasks.Within(s.ctx, 2*s.cfg.CallTimeout)
	defer cancel()
	res, err := s.command(ctx, abandonCommand{structure: structure, token: genesis.Token})
	if err != nil {
		return err
	}
	log := s.log.With("structure", structure.String(), "outcome", res.Outcome.String())
	switch {
	case res.Outcome == Created && !maps.Equal(res.Record.Members, genesis.Members):
		// Never started, so removing it is safe; starting it would not be.
		log.Error("prepared replica disagrees with its record about the first members; it is removed")
		return s.cfg.Engine.DiscardPrepared(ctx, genesis.Token)
	case res.Outcome == Created && res.Record.Incarnation.Recovery > 0:
		log.Info("prepared replica is of a group that was rebuilt since; it is removed")
		return s.cfg.Engine.DiscardPrepared(ctx, genesis.Token)
	case res.Outcome == Created:
		log.Info("starting a prepared replica whose creator did not", "birth", res.Record.Incarnation.Birth)
		return s.cfg.Engine.StartPrepared(ctx, genesis.Token, res.Record.Incarnation)
	case res.Outcome == Abandoned:
		log.Info("removing a prepared replica whose birth came to nothing")
		return s.cfg.Engine.DiscardPrepared(ctx, genesis.Token)
	}
	return fmt.Errorf("%w: abandon came to %s", ErrInvalid, res.Outcome)
}
