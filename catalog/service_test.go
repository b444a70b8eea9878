package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/catalogpb"
	"github.com/copycat-replication/copycat/raftgroup"
)

func alone(n uint64) func() []id.Node { return func() []id.Node { return []id.Node{nodeID(n)} } }

// run gives f a service on node 1 that holds the catalog, alone.
func run(t *testing.T, f func(t *testing.T, s *Service, e *fakeEngine)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newFakeEngine()
		s := newService(t, e, fakeNetwork{}, 1, nil)
		defer e.close()
		defer func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}()
		f(t, s, e)
	})
}

func TestCreateLookupDelete(t *testing.T) {
	run(t, func(t *testing.T, s *Service, _ *fakeEngine) {
		ctx := t.Context()
		if _, err := s.Lookup(ctx, structure(1)); !errors.Is(err, ErrUnknown) {
			t.Fatalf("lookup of nothing: %v", err)
		}
		rec, err := s.Create(ctx, structure(1), raftgroup.Options{Voters: 3}, alone(1))
		if err != nil || rec.Incarnation.Birth != 1 || rec.Options.Voters != 3 {
			t.Fatalf("%+v, %v", rec, err)
		}
		var exists *ExistsError
		if _, err := s.Create(ctx, structure(1), raftgroup.Options{}, alone(1)); !errors.Is(err, ErrExists) || !errors.As(err, &exists) || exists.Record.Group() != rec.Group() {
			t.Fatalf("second create: %v", err)
		}
		if again, err := s.Birth(ctx, structure(1), raftgroup.Options{}, alone(1)); err != nil || again.Group() != rec.Group() {
			t.Fatalf("birth of what lives: %+v, %v", again, err)
		}
		if err := s.UpdateMembers(ctx, rec.Group(), 5, members(3)); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Lookup(ctx, structure(1)); err != nil || !maps.Equal(got.Hint, members(3)) {
			t.Fatalf("%+v, %v", got, err)
		}
		if err := s.Delete(ctx, structure(1), 77); !errors.Is(err, ErrUnknown) {
			t.Fatalf("delete of a birth to come: %v", err)
		}
		for range 2 {
			if err := s.Delete(ctx, structure(1), 1); err != nil {
				t.Fatal(err)
			}
		}
		var gone *DeletedError
		if _, err := s.Lookup(ctx, structure(1)); !errors.Is(err, ErrDeleted) || !errors.As(err, &gone) || gone.Incarnation != rec.Incarnation {
			t.Fatalf("lookup of what is deleted: %v", err)
		}
		if err := s.UpdateMembers(ctx, rec.Group(), 6, members(3)); !errors.Is(err, ErrDeleted) {
			t.Fatalf("hint about what is deleted: %v", err)
		}
		if _, err := s.Birth(ctx, structure(1), raftgroup.Options{}, alone(1)); !errors.Is(err, ErrDeleted) || !errors.As(err, &gone) {
			t.Fatalf("birth by a late subscriber: %v", err)
		}
		if next, err := s.Create(ctx, structure(1), raftgroup.Options{}, alone(1)); err != nil || !rec.Incarnation.Less(next.Incarnation) {
			t.Fatalf("next life: %+v, %v", next, err)
		}
		for _, bad := range []id.Structure{ID, {}} {
			if _, err := s.Birth(ctx, bad, raftgroup.Options{}, alone(1)); !errors.Is(err, ErrInvalid) {
				t.Errorf("birth of %s: %v", bad, err)
			}
			if err := s.Delete(ctx, bad, 1); !errors.Is(err, ErrInvalid) {
				t.Errorf("delete of %s: %v", bad, err)
			}
		}
	})
}

// TestUnavailable has nobody to ask, then a holder without a quorum; and
// nothing of a birth is left when there is one again.
func TestUnavailable(t *testing.T) {
	run(t, func(t *testing.T, s *Service, e *fakeEngine) {
		e.set(func() { e.holds = false })
		try := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
			defer cancel()
			began := time.Now()
			_, err := s.Birth(ctx, structure(1), raftgroup.Options{}, alone(1))
			if took := time.Since(began); took != 7*time.Second {
				t.Errorf("gave up after %s", took)
			}
			return err
		}
		if err := try(); !errors.Is(err, ErrCatalogUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("without a holder: %v", err)
		}
		e.set(func() { e.holds, e.deaf = true, true })
		if err := try(); !errors.Is(err, ErrCatalogUnavailable) || len(e.Prepared()) != 1 {
			t.Fatalf("without a quorum: %v, %d prepared", err, len(e.Prepared()))
		}
		e.set(func() { e.refuse = errors.New("disk full"); e.deaf = false })
		if err := try(); !errors.Is(err, ErrNoNodes) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("without a node: %v", err)
		}
		time.Sleep(time.Minute) // virtual
		if n := len(e.Prepared()); n != 0 || len(e.started()) != 0 {
			t.Fatalf("%d prepared, %d started are left", n, len(e.started()))
		}
	})
}

// TestGivenUpAndWon has a birth's Create committed after its caller gave up:
// the prepared replica must still be there, and is started by the sweeper.
func TestGivenUpAndWon(t *testing.T) {
	run(t, func(t *testing.T, s *Service, e *fakeEngine) {
		e.set(func() { e.deaf = true })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Birth(ctx, structure(1), raftgroup.Options{}, alone(1)); !errors.Is(err, ErrCatalogUnavailable) {
			t.Fatal(err)
		}
		synctest.Wait()
		prepared := e.Prepared()
		if len(prepared) != 1 || len(e.held) != 1 {
			t.Fatalf("%d prepared, %d proposed", len(prepared), len(e.held))
		}
		e.set(func() { e.deaf = false })
		e.sub().commits <- e.held[0]
		time.Sleep(3 * s.cfg.Patience) // virtual
		want := map[raftgroup.Token]id.Incarnation{prepared[0].Genesis.Token: {Birth: 1}}
		if len(e.Prepared()) != 0 || !maps.Equal(e.started(), want) {
			t.Fatalf("%d prepared, started %v", len(e.Prepared()), e.started())
		}
		if rec, err := s.Lookup(t.Context(), structure(1)); err != nil || rec.Incarnation.Birth != 1 {
			t.Fatalf("%+v, %v", rec, err)
		}
	})
}

// TestCloseEndsRequests closes a service under requests that nobody answers.
func TestCloseEndsRequests(t *testing.T) {
	run(t, func(t *testing.T, s *Service, e *fakeEngine) {
		e.set(func() { e.deaf = true })
		errs := make(chan error, 3)
		go func() {
			_, err := s.Birth(context.Background(), structure(1), raftgroup.Options{}, alone(1))
			errs <- err
		}()
		go func() {
			_, err := s.Birth(context.Background(), structure(2), raftgroup.Options{}, func() []id.Node { return nil })
			errs <- err
		}()
		go func() { errs <- s.Delete(context.Background(), structure(1), 1) }()
		synctest.Wait()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for range cap(errs) {
			if err := <-errs; !errors.Is(err, ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
		}
		if _, err := s.Lookup(context.Background(), structure(1)); !errors.Is(err, ErrClosed) {
			t.Errorf("lookup after Close: %v", err)
		}
		answer, err := s.HandleCall(context.Background(), nodeID(2), methodLookup, nil)
		if err != nil {
			t.Fatal(err)
		}
		var a catalogpb.Answer
		if err := unmarshal(callMagic, callVersion, answer, &a); err != nil || a.Code != codeClosed {
			t.Errorf("call after Close: %+v, %v", &a, err)
		}
	})
}

// TestFollowsAgain makes the catalog's log unusable in each way, and sees the
// service start over, with an empty machine, and find all of it again.
func TestFollowsAgain(t *testing.T) {
	for name, spoil := range map[string]func(e *fakeEngine){
		"no snapshot": func(e *fakeEngine) {
			e.sub().load(func() ([]byte, error) { return nil, errors.New("damaged") })
		},
		"bad snapshot": func(e *fakeEngine) {
			e.sub().load(func() ([]byte, error) { return []byte("nonsense"), nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, s *Service, e *fakeEngine) {
				if _, err := s.Create(t.Context(), structure(1), raftgroup.Options{}, alone(1)); err != nil {
					t.Fatal(err)
				}
				kept, err := e.provider()
				if err != nil {
					t.Fatal(err)
				}
				spoil(e)
				synctest.Wait()
				if _, err := e.provider(); err == nil {
					t.Fatal("a machine that is not current made a snapshot")
				}
				time.Sleep(2 * followRetry) // virtual
				if e.lives() != 2 {
					t.Fatalf("%d subscriptions", e.lives())
				}
				e.sub().load(func() ([]byte, error) { return kept, nil })
				synctest.Wait()
				if _, err := s.Lookup(t.Context(), structure(1)); err != nil {
					t.Fatal(err)
				}
				if again, err := e.provider(); err != nil || !bytes.Equal(again, kept) {
					t.Fatalf("the snapshot is another one (%v)", err)
				}
			})
		})
	}
}

// TestNewerCommandStops has a newer node's command come along: this node can
// not follow, and says so to who asks; it does not guess.
func TestNewerCommandStops(t *testing.T) {
	run(t, func(t *testing.T, s *Service, e *fakeEngine) {
		e.sub().commits <- []byte{commandMagic, commandVersion + 1}
		time.Sleep(time.Hour) // virtual
		if e.lives() != 1 || s.follows() {
			t.Fatalf("%d subscriptions, follows %t", e.lives(), s.follows())
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Lookup(ctx, structure(1)); !errors.Is(err, ErrCatalogUnavailable) {
			t.Fatal(err)
		}
	})
}

// TestSkippedCommandsAreAskedAgain loads a snapshot that may have swallowed
// the result somebody waits for, and has another proposal fail.
func TestSkippedCommandsAreAskedAgain(t *testing.T) {
	run(t, func(t *testing.T, s *Service, e *fakeEngine) {
		m := NewMachine()
		for i := range uint64(3) {
			mustApply(t, m, create(i, i, 0))
		}
		ahead, err := m.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		for _, lose := range []func(p []byte){
			func([]byte) { e.sub().load(func() ([]byte, error) { return ahead, nil }) },
			func(p []byte) {
				e.sub().errs <- fmt.Errorf("subscription: %w", &raftgroup.ProposalError{Proposal: p, Err: raftgroup.ErrOutcomeUnknown})
			},
		} {
			e.set(func() { e.deaf = true })
			done := make(chan error, 1)
			began := time.Now()
			go func() {
				done <- s.UpdateMembers(t.Context(), id.Group{Structure: structure(9), Incarnation: id.Incarnation{Birth: 1}}, 1, nil)
			}()
			synctest.Wait()
			e.set(func() { e.deaf = false })
			var nonce Nonce
			s.mu.Lock()
			for nonce = range s.waiting {
			}
			s.mu.Unlock()
			p, err := encodeCommand(deleteCommand{structure(1), 1}, nonce)
			if err != nil {
				t.Fatal(err)
			}
			lose(p)
			if err := <-done; !errors.Is(err, ErrUnknown) {
				t.Fatal(err)
			}
			if took := time.Since(began); took >= s.cfg.CallTimeout {
				t.Fatalf("the command was asked again only after %s", took)
			}
		}
	})
}

// TestSweep leaves replicas of every fate behind.
func TestSweep(t *testing.T) {
	run(t, func(t *testing.T, s *Service, e *fakeEngine) {
		mine := map[id.Replica]id.Node{1: nodeID(1)}
		leave := func(st, tok uint64, m map[id.Replica]id.Node) {
			e.set(func() {
				e.prepared[token(tok)] = raftgroup.Genesis{Group: id.Group{Structure: structure(st)}, Members: m, Token: token(tok)}
			})
		}
		commit := func(c command) Result {
			res, err := s.command(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			return res
		}
		won := createCommand{structure: structure(1), token: token(1), members: mine}
		commit(won)
		leave(1, 1, mine)       // has the record
		leave(1, 2, mine)       // has not
		leave(2, 3, mine)       // nobody has
		leave(3, 4, members(3)) // its record names others
		commit(createCommand{structure: structure(3), token: token(4), members: mine})
		commit(createCommand{structure: structure(4), token: token(5), members: mine})
		commit(updateCommand{structure: structure(4), incarnation: id.Incarnation{Birth: 3, Recovery: 1}, members: mine})
		leave(4, 5, mine) // was rebuilt since
		leave(5, 6, mine) // of a birth of this very process
		s.mu.Lock()
		s.active[token(6)] = struct{}{}
		s.mu.Unlock()
		time.Sleep(s.cfg.Patience) // virtual
		if n := len(e.Prepared()); n != 6 {
			t.Fatalf("%d replicas left within the patience", n)
		}
		time.Sleep(s.cfg.Patience)
		if left := e.Prepared(); len(left) != 1 || left[0].Genesis.Token != token(6) {
			t.Fatalf("%d replicas left", len(left))
		}
		if !maps.Equal(e.started(), map[raftgroup.Token]id.Incarnation{token(1): {Birth: 1}}) {
			t.Fatalf("started: %v", e.started())
		}
		late := won
		late.structure, late.token = structure(2), token(3)
		if res := commit(late); res.Outcome != Abandoned {
			t.Fatalf("a late create came to %s", res.Outcome)
		}
	})
}

// TestRefusedCalls asks for what must not be done.
func TestRefusedCalls(t *testing.T) {
	run(t, func(t *testing.T, s *Service, e *fakeEngine) {
		s.cfg.MaxPrepared = 1
		genesis := func(n int, change func(*raftgroup.Genesis)) *catalogpb.PrepareRequest {
			g := raftgroup.Genesis{Group: id.Group{Structure: structure(1)}, Members: members(n), Token: token(1)}
			if change != nil {
				change(&g)
			}
			return &catalogpb.PrepareRequest{Genesis: encodeGenesis(g)}
		}
		st, other, tok := structure(1), structure(2), token(1)
		decided := genesis(3, nil)
		decided.Genesis.Birth = 4
		ok := genesis(3, nil)
		for i, c := range []struct {
			method  uint16
			request protoMessage
			want    error
		}{
			{methodPrepare, genesis(2, nil), ErrInvalid},
			{methodPrepare, genesis(1, nil), ErrInvalid}, // names node 0 only
			{methodPrepare, decided, ErrInvalid},
			{methodPrepare, &catalogpb.PrepareRequest{}, ErrInvalid},
			{methodPrepare, genesis(3, func(g *raftgroup.Genesis) { g.Token = raftgroup.Token{} }), ErrInvalid},
			{methodPrepare, genesis(3, func(g *raftgroup.Genesis) { g.Group.Structure = ID }), ErrInvalid},
			{methodStart, &catalogpb.StartRequest{Structure: st[:], Token: tok[:], Birth: 3}, nil}, // nothing here: nothing made
			{methodPrepare, ok, nil},
			{methodPrepare, genesis(3, func(g *raftgroup.Genesis) { g.Token = token(2) }), ErrBusy},
			{methodStart, &catalogpb.StartRequest{Structure: st[:], Token: tok[:]}, ErrInvalid},
			{methodStart, &catalogpb.StartRequest{Structure: other[:], Token: tok[:], Birth: 3}, ErrInvalid},
			{methodDiscard, &catalogpb.DiscardRequest{}, ErrInvalid},
			{methodCommand, &catalogpb.Command{}, ErrInvalid},
			{methodCommand, (&createCommand{structure: st, token: tok}).proto(), ErrInvalid},
			{MaxMethod, &catalogpb.Empty{}, ErrNewerFormat},
			{methodStart, &catalogpb.StartRequest{Structure: st[:], Token: tok[:], Birth: 3}, nil},
		} {
			err := s.call(t.Context(), nodeID(1), c.method, c.request, &catalogpb.Empty{})
			if !errors.Is(err, c.want) {
				t.Errorf("case %d: %v, want %v", i, err, c.want)
			}
		}
		if len(e.started()) != 1 || len(e.Prepared()) != 0 {
			t.Errorf("%d started, %d prepared", len(e.started()), len(e.Prepared()))
		}
		for _, raw := range [][]byte{nil, {callMagic}, {callMagic, callVersion, 0xff}, {callMagic, callVersion + 1}} {
			data, err := s.HandleCall(t.Context(), nodeID(2), methodPrepare, raw)
			var a catalogpb.Answer
			if err != nil || unmarshal(callMagic, callVersion, data, &a) != nil || a.Code != codeInvalid && a.Code != codeNewer {
				t.Errorf("request %x: %+v, %v", raw, &a, err)
			}
		}
	})
}

// TestFirstMembers shows how many voters a group begins with, and where.
func TestFirstMembers(t *testing.T) {
	t.Parallel()
	n := func(ns ...uint64) []id.Node {
		var out []id.Node
		for _, i := range ns {
			out = append(out, nodeID(i))
		}
		return out
	}
	for _, c := range []struct {
		picked, want []id.Node
		voters       uint32
		silent       id.Node
	}{
		{nil, nil, 3, id.Node{}},
		{n(4), n(4), 3, id.Node{}},
		{n(4, 5), n(4), 3, id.Node{}},
		{n(4, 4, 5), n(4), 0, id.Node{}},
		{n(4, 5, 6), n(4, 5, 6), 0, id.Node{}},
		{n(4, 5, 6, 7, 8), n(4, 5, 6), 5, id.Node{}},
		{n(4, 5, 6), n(4), 1, id.Node{}},
		{n(4, 5, 6), n(5), 3, nodeID(4)},
		{append([]id.Node{{}}, n(4, 5, 6, 7)...), n(5, 6, 7), 3, nodeID(4)},
	} {
		b := &birth{options: raftgroup.Options{Voters: c.voters}, silent: map[id.Node]bool{c.silent: true}}
		got := b.firstMembers(c.picked)
		if len(got) > 0 && checkFirstMembers(got) != nil {
			t.Errorf("%v: not valid", got)
		}
		var nodes []id.Node
		for _, r := range slices.Sorted(maps.Keys(got)) {
			nodes = append(nodes, got[r])
		}
		if !slices.Equal(nodes, c.want) {
			t.Errorf("of %v came %v, want %v", c.picked, nodes, c.want)
		}
	}
}

// TestAskedElsewhere has a node without a replica use a holder, past others
// that are no use.
func TestAskedElsewhere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		net := fakeNetwork{}
		holder, empty, asker := newFakeEngine(), newFakeEngine(), newFakeEngine()
		empty.holds, asker.holds = false, false
		a := newService(t, holder, net, 1, nil)
		b := newService(t, empty, net, 2, nil)
		c := newService(t, asker, net, 3, fakeDirectory{nodeID(3), nodeID(2), nodeID(7), nodeID(1)})
		three := func() []id.Node { return []id.Node{nodeID(3), nodeID(2), nodeID(1)} }
		rec, err := c.Create(t.Context(), structure(1), raftgroup.Options{}, three)
		if err != nil || len(rec.Members) != 3 {
			t.Fatalf("%+v, %v", rec, err)
		}
		synctest.Wait()
		for i, e := range []*fakeEngine{holder, empty, asker} {
			if len(e.started()) != 1 || len(e.Prepared()) != 0 {
				t.Errorf("node %d: %d started, %d prepared", i+1, len(e.started()), len(e.Prepared()))
			}
		}
		for _, s := range []*Service{a, b, c} {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		for _, e := range []*fakeEngine{holder, empty, asker} {
			e.close()
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	if _, err := New(Config{}); !errors.Is(err, ErrInvalid) {
		t.Fatal(err)
	}
	cfg := Config{Node: nodeID(1), Engine: newFakeEngine(), Network: fakeNetwork{}, Directory: fakeDirectory{}, Clock: wallClock{}, Patience: -1}
	if _, err := New(cfg); !errors.Is(err, ErrInvalid) {
		t.Fatal(err)
	}
}
