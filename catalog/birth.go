package catalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/catalogpb"
	"github.com/copycat-replication/copycat/raftgroup"
)

const (
	birthPause    = 100 * time.Millisecond
	maxBirthPause = 2 * time.Second
)

// Birth returns the record of a structure, and has the structure born if there
// never was one: what was deleted stays so (a *DeletedError). pick tells, best first, which nodes should hold
// its first replicas; it is asked anew for each attempt, and nodes that do not
// answer are left out. Voters begin as one or three; the group's leader brings
// them to what options wish for.
//
// Whoever else gives birth to the same structure at the same time: all get the
// same record. It waits until a majority of the first replicas has started or
// cannot be reached, or until ctx ends: then ErrCatalogUnavailable or
// ErrNoNodes, either with the context's error, and what is left behind is
// settled by the nodes' sweepers. After Close it is ErrClosed.
// The record may come from a lookup, and is then as old as a hint may be.
func (s *Service) Birth(ctx context.Context, structure id.Structure, options raftgroup.Options, pick func() []id.Node) (Record, error) {
	rec, _, err := s.birth(ctx, structure, options, false, pick)
	return rec, err
}

// Create is Birth, but fails with ErrExists (an *ExistsError, which has the
// record) if somebody else's birth was first; what was deleted is created anew,
// as another incarnation.
func (s *Service) Create(ctx context.Context, structure id.Structure, options raftgroup.Options, pick func() []id.Node) (Record, error) {
	rec, created, err := s.birth(ctx, structure, options, true, pick)
	if err == nil && !created {
		return Record{}, &ExistsError{Record: rec}
	}
	return rec, err
}

// errNextAttempt says that an attempt at a birth came to nothing and left
// nothing that could: the next one may do better.
var errNextAttempt = errors.New("attempt failed")

func (s *Service) birth(ctx context.Context, structure id.Structure, options raftgroup.Options, anew bool, pick func() []id.Node) (rec Record, created bool, err error) {
	if structure.IsZero() || structure == ID || pick == nil {
		return Record{}, false, fmt.Errorf("%w: birth of structure %s", ErrInvalid, structure)
	}
	ctx, cancel := s.within(ctx)
	defer cancel()
	if s.births.enter(ctx, s.tasks) != nil {
		return Record{}, false, fmt.Errorf("birth of structure %s: %w", structure, s.unavailable(ctx, ErrBusy))
	}
	defer s.births.leave()
	b := &birth{s: s, structure: structure, options: options, anew: anew, silent: make(map[id.Node]bool)}
	for wait := birthPause; ; wait = min(2*wait, maxBirthPause) {
		rec, created, err = b.attempt(ctx, pick())
		if !errors.Is(err, errNextAttempt) {
			break
		}
		s.log.Info("birth is tried again", "structure", structure.String(), "error", err)
		if !s.pause(ctx, s.jitter(wait)) {
			err = fmt.Errorf("%w: %w", ctx.Err(), err)
			if s.ctx.Err() != nil {
				err = ErrClosed
			}
			break
		}
	}
	if err != nil {
		return Record{}, false, fmt.Errorf("birth of structure %s: %w", structure, err)
	}
	return rec, created, nil
}

// birth is one call of Birth.
type birth struct {
	s         *Service
	structure id.Structure
	options   raftgroup.Options
	anew      bool             // also if it was deleted
	silent    map[id.Node]bool // did not answer a prepare in this birth
	reached   uint64           // an index that the catalog is known to have reached
}

// attempt tries once, under one token. The token is made after the catalog is
// known to have reached b.reached, so that this is a valid basis.
func (b *birth) attempt(ctx context.Context, picked []id.Node) (Record, bool, error) {
	s := b.s
	rec, index, err := s.lookup(ctx, b.structure)
	if err == nil && (rec.Lives() && b.anew || rec.Deleted != 0 && !b.anew) {
		// This is what a caller would be told for good: the holder may be behind.
		var now Result
		now, err = s.command(ctx, barrierCommand{b.structure})
		rec, index = now.Record, now.Index
	}
	if err != nil || rec.Lives() {
		return rec, false, err
	}
	if rec.Deleted != 0 && !b.anew {
		return Record{}, false, &DeletedError{Structure: b.structure, Incarnation: rec.Incarnation}
	}
	b.reached = max(b.reached, index)
	members := b.firstMembers(picked)
	if len(members) == 0 {
		clear(b.silent) // perhaps they answer now
		return Record{}, false, fmt.Errorf("%w: %w", errNextAttempt, ErrNoNodes)
	}
	token, err := s.newToken()
	if err != nil {
		return Record{}, false, err
	}
	defer s.forgetToken(token)
	genesis := raftgroup.Genesis{Group: id.Group{Structure: b.structure}, Members: members, Options: b.options, Token: token}

	if silent := s.prepareAll(ctx, genesis); len(silent) > 0 {
		// Who the members are is part of what was prepared, so leaving one out
		// takes a new token. This one was never proposed by anyone, and only
		// its maker would: it is safe to discard without asking.
		for n, err := range silent {
			b.silent[n] = true
			s.log.Warn("node does not prepare a replica", "structure", b.structure.String(), "peer", n.String(), "error", err)
		}
		s.discardAll(genesis)
		return Record{}, false, fmt.Errorf("%w: %w: %d of %d did not prepare", errNextAttempt, ErrNoNodes, len(silent), len(members))
	}
	res, err := s.command(ctx, createCommand{
		structure: b.structure, token: token, members: members, options: b.options, basis: b.reached,
		strict: true, after: rec.Incarnation.Birth,
	})
	if err != nil {
		return Record{}, false, err // undecided: the sweepers abandon it, or start it
	}
	b.reached = max(b.reached, res.Index)
	switch res.Outcome {
	case Created:
		s.startAll(ctx, genesis, res.Record.Incarnation)
		return res.Record, true, nil
	case Exists:
		// Having lost, the token is abandoned by the very command that lost,
		// so its replicas can be removed without another one.
		s.discardAll(genesis)
		return res.Record, false, nil
	case Deleted:
		// Deleted since the lookup, or before it and the holder did not know.
		s.discardAll(genesis)
		if !b.anew {
			return Record{}, false, &DeletedError{Structure: b.structure, Incarnation: res.Record.Incarnation}
		}
		return Record{}, false, fmt.Errorf("%w: deleted meanwhile", errNextAttempt)
	case Abandoned, Stale:
		s.discardAll(genesis)
		return Record{}, false, fmt.Errorf("%w: %w: too slow, the token is %s", errNextAttempt, ErrCatalogUnavailable, res.Outcome)
	}
	return Record{}, false, fmt.Errorf("%w: create came to %s", ErrInvalid, res.Outcome)
}

// firstMembers makes one or three replicas of the nodes that were picked:
// an even number of voters is no safer than one fewer, and more come later.
func (b *birth) firstMembers(picked []id.Node) map[id.Replica]id.Node {
	var nodes []id.Node
	for _, n := range picked {
		if !n.IsZero() && !b.silent[n] && !slices.Contains(nodes, n) {
			nodes = append(nodes, n)
		}
	}
	n := min(len(nodes), 3)
	if n == 2 || b.options.Voters == 1 || b.options.Voters == 2 {
		n = min(n, 1)
	}
	members := make(map[id.Replica]id.Node, n)
	for i, node := range nodes[:n] {
		members[id.Replica(i+1)] = node
	}
	return members
}

// each runs f for every member's node at the same time and waits. f ends with
// the context that it works under.
func (s *Service) each(members map[id.Replica]id.Node, f func(id.Node)) {
	replicas := slices.Sorted(maps.Keys(members))
	s.atOnce(len(replicas), func(i int) { f(members[replicas[i]]) })
}

// atOnce runs f for 0 to n-1 at the same time, and waits.
func (s *Service) atOnce(n int, f func(i int)) {
	if n == 0 {
		return
	}
	var left atomic.Int64
	left.Store(int64(n))
	done := make(chan struct{})
	for i := range n {
		one := func() {
			f(i)
			if left.Add(-1) == 0 {
				close(done)
			}
		}
		if !s.spawn(one) {
			one() // the service closes: f finds its context ended
		}
	}
	_ = s.tasks.Await(context.Background(), done) // only a context's error there is
}

// prepareAll prepares a replica on every member's node, and returns those that
// did not. Each is asked once under a token: an answer then means that no copy
// of the request is still on its way, to make the replica again when it has
// long been started and moved elsewhere.
func (s *Service) prepareAll(ctx context.Context, genesis raftgroup.Genesis) map[id.Node]error {
	var mu sync.Mutex
	failed := make(map[id.Node]error)
	ctx, cancel := s.tasks.Within(ctx, s.cfg.CallTimeout)
	defer cancel()
	s.each(genesis.Members, func(node id.Node) {
		var err error
		if node == s.cfg.Node {
			err = s.prepareHere(ctx, genesis)
		} else {
			err = s.call(ctx, node, methodPrepare, &catalogpb.PrepareRequest{Genesis: encodeGenesis(genesis)}, &catalogpb.Empty{})
		}
		if err != nil {
			mu.Lock()
			failed[node] = err
			mu.Unlock()
		}
	})
	return failed
}

// startAll starts every member's replica, in the background, and waits for a
// majority. A node that is not reached within the patience asks the catalog
// itself.
func (s *Service) startAll(ctx context.Context, genesis raftgroup.Genesis, born id.Incarnation) {
	var mu sync.Mutex // guards left and need
	left, need := len(genesis.Members), len(genesis.Members)/2+1
	enough := make(chan struct{})
	for _, r := range slices.Sorted(maps.Keys(genesis.Members)) {
		if !s.spawn(func() {
			ok := s.startOn(genesis.Members[r], genesis, born)
			mu.Lock()
			defer mu.Unlock()
			left--
			if ok {
				need--
			}
			if ok && need == 0 || left == 0 && need > 0 {
				close(enough)
			}
		}) {
			return
		}
	}
	_ = s.tasks.Await(ctx, enough) // the record stands, whoever has started
}

// startOn starts one replica; starting it again is harmless, so it is tried
// for as long as its own node leaves it to us.
func (s *Service) startOn(node id.Node, genesis raftgroup.Genesis, born id.Incarnation) bool {
	ctx, cancel := s.tasks.Within(s.ctx, s.cfg.Patience)
	defer cancel()
	structure := genesis.Group.Structure
	req := &catalogpb.StartRequest{Structure: structure[:], Token: genesis.Token[:], Birth: born.Birth, Recovery: born.Recovery}
	for wait := birthPause; ; wait = min(2*wait, maxBirthPause) {
		attempt, done := s.tasks.Within(ctx, s.cfg.CallTimeout)
		var err error
		if node == s.cfg.Node {
			err = s.cfg.Engine.StartPrepared(attempt, genesis.Token, born)
		} else {
			err = s.call(attempt, node, methodStart, req, &catalogpb.Empty{})
		}
		done()
		if err == nil {
			return true
		}
		if !s.pause(ctx, s.jitter(wait)) {
			s.log.Warn("replica not started; its node will ask the catalog", "structure", structure.String(), "peer", node.String(), "error", err)
			return false
		}
	}
}

// discardAll removes what was prepared under a token that can never succeed.
// It is tried once, in the background: what is missed is swept.
func (s *Service) discardAll(genesis raftgroup.Genesis) {
	s.spawn(func() {
		ctx, cancel := s.tasks.Within(s.ctx, s.cfg.CallTimeout)
		defer cancel()
		s.each(genesis.Members, func(node id.Node) {
			var err error
			if node == s.cfg.Node {
				err = s.cfg.Engine.DiscardPrepared(ctx, genesis.Token)
			} else {
				err = s.call(ctx, node, methodDiscard, &catalogpb.DiscardRequest{Token: genesis.Token[:]}, &catalogpb.Empty{})
			}
			if err != nil {
				s.log.Debug("prepared replica not discarded; it will be swept", "structure", genesis.Group.Structure.String(), "peer", node.String(), "error", err)
			}
		})
	})
}
