package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/catalogpb"
	"github.com/copycat-replication/copycat/raftgroup"
)

const (
	askPause    = 50 * time.Millisecond
	maxAskPause = 2 * time.Second
)

// Lookup asks a holder of the catalog about a structure. The answer is a hint:
// as old as the holder is behind. ErrUnknown says that the holder knows no
// birth of it, ErrDeleted (a *DeletedError) that it was deleted,
// ErrCatalogUnavailable that nobody answered before ctx ended.
func (s *Service) Lookup(ctx context.Context, structure id.Structure) (Record, error) {
	rec, _, err := s.lookup(ctx, structure)
	if err != nil {
		return Record{}, err
	}
	return living(structure, rec)
}

// Confirm is Lookup by a commit: the answer is as of a moment after the call,
// and final where it says that the structure was deleted, or never was. It
// needs the catalog's quorum, and waits for it until ctx ends.
func (s *Service) Confirm(ctx context.Context, structure id.Structure) (Record, error) {
	now, err := s.command(ctx, barrierCommand{structure})
	if err != nil {
		return Record{}, err
	}
	return living(structure, now.Record)
}

// Record is Confirm of whatever the catalog has: also the record of what was
// deleted, and its zero if there never was such a structure.
func (s *Service) Record(ctx context.Context, structure id.Structure) (Record, error) {
	now, err := s.command(ctx, barrierCommand{structure})
	return now.Record, err
}

// living returns a record of a structure that lives, or says why there is none.
func living(structure id.Structure, rec Record) (Record, error) {
	switch {
	case rec.Deleted != 0:
		return Record{}, &DeletedError{Structure: structure, Incarnation: rec.Incarnation}
	case !rec.Lives():
		return Record{}, fmt.Errorf("structure %s: %w", structure, ErrUnknown)
	}
	return rec, nil
}

// Delete marks the incarnation of a structure that was born at birth as
// deleted: its ID is free from then on. The group itself is to be ended
// before, by its own log. Doing it again changes nothing. ErrUnknown says that
// there is no such incarnation.
func (s *Service) Delete(ctx context.Context, structure id.Structure, birth uint64) error {
	res, err := s.command(ctx, deleteCommand{structure: structure, birth: birth})
	if err == nil && res.Outcome == Unknown {
		err = fmt.Errorf("structure %s, born at %d: %w", structure, birth, ErrUnknown)
	}
	return err
}

// UpdateMembers leaves a hint of who a group's members are, as of an index in
// its own log. An older hint never replaces a newer one. ErrDeleted says that
// the incarnation is deleted, ErrUnknown that there is none.
func (s *Service) UpdateMembers(ctx context.Context, group id.Group, asOf uint64, members map[id.Replica]id.Node) error {
	return s.update(ctx, updateCommand{structure: group.Structure, incarnation: group.Incarnation, asOf: asOf, members: members})
}

// Describe is UpdateMembers with the structure's options as of then. A
// structure that the catalog does not know, because it was rebuilt and has lost
// the record, is known from then on.
func (s *Service) Describe(ctx context.Context, group id.Group, asOf uint64, members map[id.Replica]id.Node, options raftgroup.Options) error {
	return s.update(ctx, updateCommand{structure: group.Structure, incarnation: group.Incarnation, asOf: asOf, members: members, options: &options})
}

func (s *Service) update(ctx context.Context, c updateCommand) error {
	group := id.Group{Structure: c.structure, Incarnation: c.incarnation}
	res, err := s.command(ctx, c)
	switch {
	case err != nil:
		return err
	case res.Outcome == Deleted:
		return &DeletedError{Structure: group.Structure, Incarnation: group.Incarnation}
	case res.Outcome == Unknown:
		return fmt.Errorf("group %s: %w", group, ErrUnknown)
	}
	return nil
}

// command has a command committed, by this node or by a holder, and returns
// what it came to. Every command may be committed more than once without harm,
// so it is given again until somebody has the result.
func (s *Service) command(ctx context.Context, c command) (Result, error) {
	if _, err := fromProto(c.proto(), c.version()); err != nil {
		return Result{}, fmt.Errorf("structure %s: %w", c.about(), err)
	}
	res, err := ask(ctx, s, func(ctx context.Context, node id.Node) (Result, error) {
		if node == s.cfg.Node {
			return s.commit(ctx, c)
		}
		var m catalogpb.Result
		method := methodCommand
		if c.version() > 1 {
			method = methodCommand2
		}
		if err := s.call(ctx, node, method, c.proto(), &m); err != nil {
			return Result{}, err
		}
		return decodeResult(&m)
	})
	if err == nil && res.Outcome == Malformed {
		err = fmt.Errorf("%w: the catalog could not read the command", ErrInvalid)
	}
	if err != nil && !c.about().IsZero() {
		err = fmt.Errorf("structure %s: %w", c.about(), err)
	}
	if err != nil {
		return Result{}, err
	}
	return res, nil
}

// lookup returns a holder's record, zero if it has none, and the index that
// the holder has reached.
func (s *Service) lookup(ctx context.Context, structure id.Structure) (Record, uint64, error) {
	type found struct {
		record Record
		index  uint64
	}
	f, err := ask(ctx, s, func(ctx context.Context, node id.Node) (found, error) {
		if node == s.cfg.Node {
			rec, index, err := s.localRecord(structure)
			return found{rec, index}, err
		}
		var m catalogpb.LookupResponse
		if err := s.call(ctx, node, methodLookup, &catalogpb.LookupRequest{Structure: structure[:]}, &m); err != nil {
			return found{}, err
		}
		rec, err := decodeRecord(m.Record)
		return found{rec, m.Index}, err
	})
	if err != nil {
		return Record{}, 0, fmt.Errorf("structure %s: %w", structure, err)
	}
	return f.record, f.index, nil
}

// localRecord looks the structure up in the machine here.
func (s *Service) localRecord(structure id.Structure) (Record, uint64, error) {
	if !s.follows() {
		return Record{}, 0, errNotHolder
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	rec, _ := s.machine.Record(structure)
	return rec, s.machine.Index(), nil
}

// ask tries holders one after another, with growing pauses after each round,
// until one has an answer, the question is refused, or ctx ends.
func ask[T any](ctx context.Context, s *Service, one func(context.Context, id.Node) (T, error)) (T, error) {
	var zero T
	ctx, cancel := s.within(ctx)
	defer cancel()
	if s.slots.enter(ctx, s.tasks) != nil {
		return zero, s.unavailable(ctx, ErrBusy)
	}
	defer s.slots.leave()
	last, asked := fmt.Errorf("%w: gossip knows no holder", errNotHolder), false
	for wait := askPause; ; wait = min(2*wait, maxAskPause) {
		for _, node := range s.holders() {
			attempt, done := s.tasks.Within(ctx, s.cfg.CallTimeout)
			got, err := one(attempt, node)
			done()
			if err == nil || errors.Is(err, ErrInvalid) {
				return got, err
			}
			if ctx.Err() == nil || !asked { // one that was cut short says less than the one before
				last, asked = fmt.Errorf("node %s: %w", node, err), true
			}
			if ctx.Err() != nil {
				return zero, s.unavailable(ctx, last)
			}
		}
		if !s.pause(ctx, s.jitter(wait)) {
			return zero, s.unavailable(ctx, last)
		}
	}
}

// unavailable says why a wait ended without an answer.
func (s *Service) unavailable(ctx context.Context, last error) error {
	if s.ctx.Err() != nil {
		return ErrClosed
	}
	return fmt.Errorf("%w: %w; last: %w", ErrCatalogUnavailable, ctx.Err(), last)
}

// holders lists whom to ask: this node if it can answer, then the others, each
// time from another one on.
func (s *Service) holders() []id.Node {
	local := s.follows()
	others := slices.DeleteFunc(slices.Clone(s.cfg.Directory.Holders(ID)), func(n id.Node) bool { return n == s.cfg.Node })
	var out []id.Node
	if local {
		out = append(out, s.cfg.Node)
	}
	if len(others) == 0 {
		return out
	}
	s.mu.Lock()
	s.turn++
	first := s.turn % len(others)
	s.mu.Unlock()
	return append(append(out, others[first:]...), others[:first]...)
}

func encodeResult(r Result) *catalogpb.Result {
	m := &catalogpb.Result{Index: r.Index, Outcome: uint32(r.Outcome)}
	if r.Record.Incarnation.Birth != 0 {
		m.Record = r.Record.encode()
	}
	return m
}

func decodeResult(m *catalogpb.Result) (Result, error) {
	if m.Outcome > uint32(Updated) {
		return Result{}, fmt.Errorf("%w: outcome %d", ErrNewerFormat, m.Outcome)
	}
	rec, err := decodeRecord(m.Record)
	if err != nil {
		return Result{}, err
	}
	return Result{Index: m.Index, Outcome: Outcome(m.Outcome), Record: rec}, nil
}

// newToken makes a token, and notes that this process is busy with it.
func (s *Service) newToken() (raftgroup.Token, error) {
	var t raftgroup.Token
	if err := s.random(t[:]); err != nil {
		return t, err
	}
	s.mu.Lock()
	s.active[t] = struct{}{}
	s.mu.Unlock()
	return t, nil
}

func (s *Service) forgetToken(t raftgroup.Token) {
	s.mu.Lock()
	delete(s.active, t)
	s.mu.Unlock()
}
