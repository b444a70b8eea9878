package catalog

import (
	"context"
	"errors"
	"iter"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/raftgroup"
)

// fakeEngine is an engine whose catalog is a channel: what is proposed comes
// back as a commit, while it works.
type fakeEngine struct {
	mu       sync.Mutex
	holds    bool
	deaf     bool // proposals go no further than held
	held     [][]byte
	subs     []*fakeSubscription
	provider raftgroup.Provider
	prepared map[raftgroup.Token]raftgroup.Genesis
	begun    map[raftgroup.Token]id.Incarnation
	refuse   error // of Prepare
	done     chan struct{}
	wg       sync.WaitGroup
}

type fakeSubscription struct {
	propose chan []byte
	commits chan []byte
	errs    chan error
	loads   chan func() ([]byte, error)
}

func newFakeEngine() *fakeEngine {
	return &fakeEngine{
		holds: true, prepared: make(map[raftgroup.Token]raftgroup.Genesis),
		begun: make(map[raftgroup.Token]id.Incarnation), done: make(chan struct{}),
	}
}

func (e *fakeEngine) Subscribe(cfg raftgroup.SubscriptionConfig) (Subscription, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := &fakeSubscription{propose: make(chan []byte), commits: make(chan []byte), errs: make(chan error), loads: make(chan func() ([]byte, error), 1)}
	e.subs, e.provider = append(e.subs, s), cfg.Provider
	e.wg.Go(func() {
		defer close(s.errs)
		defer close(s.commits)
		for {
			select {
			case p, ok := <-s.propose:
				if !ok {
					return
				}
				e.mu.Lock()
				deaf := e.deaf
				if deaf {
					e.held = append(e.held, p)
				}
				e.mu.Unlock()
				if deaf {
					continue
				}
				select {
				case s.commits <- p:
				case <-e.done:
					return
				}
			case <-e.done:
				return
			}
		}
	})
	return s, nil
}

func (e *fakeEngine) set(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

func (e *fakeEngine) sub() *fakeSubscription {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.subs[len(e.subs)-1]
}

func (e *fakeEngine) lives() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.subs)
}

func (e *fakeEngine) started() map[raftgroup.Token]id.Incarnation {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.begun)
}

func (e *fakeEngine) close() {
	close(e.done)
	e.wg.Wait()
}

func (s *fakeSubscription) Propose() chan<- []byte { return s.propose }
func (s *fakeSubscription) Commits() <-chan []byte { return s.commits }
func (s *fakeSubscription) Errors() <-chan error   { return s.errs }
func (s *fakeSubscription) Consume() ([]byte, error) {
	return (<-s.loads)()
}

// load has the consumer load a snapshot.
func (s *fakeSubscription) load(f func() ([]byte, error)) {
	s.loads <- f
	s.commits <- nil
}

func (e *fakeEngine) Holds(id.Structure) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.holds
}

func (e *fakeEngine) Found(context.Context, raftgroup.Genesis) error { return nil }

func (e *fakeEngine) Prepare(_ context.Context, g raftgroup.Genesis) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.refuse == nil {
		e.prepared[g.Token] = g
	}
	return e.refuse
}

func (e *fakeEngine) StartPrepared(_ context.Context, t raftgroup.Token, born id.Incarnation) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.prepared[t]; ok {
		delete(e.prepared, t)
		e.begun[t] = born
	}
	return nil
}

func (e *fakeEngine) DiscardPrepared(_ context.Context, t raftgroup.Token) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.prepared, t)
	return nil
}

func (e *fakeEngine) Prepared() []raftgroup.PreparedReplica {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []raftgroup.PreparedReplica
	for _, g := range e.prepared {
		out = append(out, raftgroup.PreparedReplica{Genesis: g})
	}
	return out
}

func (e *fakeEngine) Statuses() iter.Seq[*raftgroup.GroupStatus] {
	return func(func(*raftgroup.GroupStatus) bool) {}
}
func (e *fakeEngine) News() uint64                                { return 0 }
func (e *fakeEngine) Waiting() []id.Structure                     { return nil }
func (e *fakeEngine) SetAside() []id.Group                        { return nil }
func (e *fakeEngine) RemoveEnded(context.Context, id.Group) error { return nil }
func (e *fakeEngine) Warn(id.Group, error)                        {}
func (e *fakeEngine) GiveUp(id.Structure)                         {}

func (e *fakeEngine) EndGroup(context.Context, id.Structure, uint64, ...id.Node) error { return nil }

func (e *fakeEngine) Lives(context.Context, id.Node, id.Structure) (id.Incarnation, error) {
	return id.Incarnation{}, nil
}

func (e *fakeEngine) Keeps(context.Context, id.Node, id.Structure) (id.Incarnation, error) {
	return id.Incarnation{}, nil
}

func (e *fakeEngine) Supersede(context.Context, id.Group, id.Incarnation) error { return nil }

// fakeNetwork joins services directly.
type fakeNetwork map[id.Node]*Service

func (n fakeNetwork) Call(ctx context.Context, to id.Node, method uint16, request []byte) ([]byte, error) {
	if s := n[to]; s != nil {
		return s.HandleCall(ctx, nodeID(99), method, request)
	}
	return nil, errors.New("unreachable")
}

type fakeDirectory []id.Node

func (d fakeDirectory) Holders(id.Structure) []id.Node { return d }

type wallClock struct{}

func (wallClock) Now() time.Time { return time.Now() }

func newService(t *testing.T, e Engine, n fakeNetwork, node uint64, d fakeDirectory) *Service {
	t.Helper()
	s, err := New(Config{Node: nodeID(node), Engine: e, Network: n, Directory: d, Clock: wallClock{}})
	if err != nil {
		t.Fatal(err)
	}
	n[nodeID(node)] = s
	return s
}
