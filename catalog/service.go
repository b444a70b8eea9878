package catalog

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/raftgroup"
)

// Config wires a service to its node. Zero numbers mean the defaults.
type Config struct {
	Node      id.Node
	Engine    Engine
	Network   Network
	Directory Directory
	Clock     raftgroup.Clock
	Tasks     raftgroup.Tasks // runs what waits; nil: goroutines
	Random    io.Reader       // default crypto/rand; only this service reads it
	Logger    *slog.Logger    // nil: discard

	// CallTimeout bounds one attempt at one node: a call, and the commit that
	// it waits for. Then another holder is tried. Default 3 s: several round
	// trips of any WAN, and longer than an election.
	CallTimeout time.Duration
	// Patience is how long a prepared replica is left to its creator, counted
	// from when this process first saw it. Default 10 s.
	Patience time.Duration
	// MaxRequests bounds what this node asks at the same time, and what it
	// answers for others at the same time. Default 1,024.
	MaxRequests int
	// MaxPrepared bounds the replicas that others may have prepared here and
	// whose births are not decided. Default 4,096.
	MaxPrepared int
}

func (c Config) withDefaults() Config {
	if c.Random == nil {
		c.Random = rand.Reader
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.CallTimeout == 0 {
		c.CallTimeout = 3 * time.Second
	}
	if c.Patience == 0 {
		c.Patience = 10 * time.Second
	}
	if c.MaxRequests == 0 {
		c.MaxRequests = 1024
	}
	if c.MaxPrepared == 0 {
		c.MaxPrepared = 4096
	}
	return c
}

func (c Config) check() error {
	switch {
	case c.Node.IsZero():
		return fmt.Errorf("%w: no node ID", ErrInvalid)
	case c.Engine == nil, c.Network == nil, c.Directory == nil, c.Clock == nil:
		return fmt.Errorf("%w: engine, network, directory and clock are needed", ErrInvalid)
	case c.CallTimeout < 0, c.Patience < 0, c.MaxRequests < 0, c.MaxPrepared < 0:
		return fmt.Errorf("%w: negative bound", ErrInvalid)
	}
	return nil
}

// Service is one node's part of the catalog: it follows the catalog's log if
// this node holds a replica of it, asks holders if it does not, carries out
// births, and settles what births of others have left behind. All methods are
// safe for concurrent use.
type Service struct {
	cfg Config
	log *slog.Logger

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	tasks  raftgroup.Tasks
	slots  gate          // for requests to holders
	births gate          // for births
	served chan struct{} // one for each request of another node
	more   chan struct{} // cap 1: there is something in outbox

	randMu sync.Mutex // guards cfg.Random

	mu      sync.Mutex
	closed  bool
	machine *Machine
	lame    error                        // why this node does not follow the log at present
	waiting map[Nonce]*waiter            // one for each command under way
	outbox  []outgoing                   // those of them that the subscription has not taken yet
	active  map[raftgroup.Token]struct{} // births of this process that are under way
	turn    int                          // next holder to ask
}

// waiter is a request that waits for its command.
type waiter struct {
	done   chan struct{} // closed when the rest is set
	result Result
	err    error
}

// answer lets the request go on. Who answers has taken it out of waiting
// before, so that nobody else does.
func (w *waiter) answer(r Result, err error) {
	w.result, w.err = r, err
	close(w.done)
}

// outgoing is a command that is to be proposed.
type outgoing struct {
	nonce Nonce
	data  []byte
}

// maxBirths bounds the births that a node carries out at the same time: each
// writes on several nodes.
const maxBirths = 256

// New subscribes to the catalog and starts the service. The subscription
// attaches when this node gets a replica of the catalog, and waits until then.
func New(cfg Config) (*Service, error) {
	s, err := build(cfg)
	if err != nil {
		return nil, err
	}
	sub, err := s.subscribe()
	if err != nil {
		s.cancel()
		return nil, err
	}
	s.wg.Go(func() { s.run(sub) })
	s.tasks.Go(s.sweepLoop)
	return s, nil
}

func build(cfg Config) (*Service, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	s := &Service{
		cfg: cfg, log: cfg.Logger.With("service", "catalog"), tasks: cfg.Tasks,
		slots: gate{free: cfg.MaxRequests}, births: gate{free: maxBirths},
		served: make(chan struct{}, cfg.MaxRequests), more: make(chan struct{}, 1),
		machine: NewMachine(), waiting: make(map[Nonce]*waiter), active: make(map[raftgroup.Token]struct{}),
	}
	if s.tasks == nil {
		s.tasks = raftgroup.GoTasks(&s.wg)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Close ends the service and waits for its goroutines. Requests that wait end
// with ErrClosed; births under way are left to the sweepers of the nodes that
// take part. The propose channel is closed; what the subscription still has to
// do ends with the host, which is to be closed afterwards.
func (s *Service) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
	return nil
}

// FoundCatalog makes the first replica of the catalog of a new cluster, on
// this node. Doing it again on a node that holds a replica changes nothing.
// It is for the node that starts a cluster, and for no other: a second founding
// in a cluster would be a second catalog.
func (s *Service) FoundCatalog(ctx context.Context) error {
	err := s.cfg.Engine.Found(ctx, raftgroup.Genesis{
		Group:   id.Group{Structure: ID, Incarnation: Incarnation},
		Members: map[id.Replica]id.Node{1: s.cfg.Node},
		// Births are few and small: a snapshot every few thousand keeps the log short.
		Options: raftgroup.Options{Voters: 5, SnapshotEntries: 4096, SnapshotBytes: 4 << 20},
	})
	if err != nil {
		return fmt.Errorf("found the catalog: %w", err)
	}
	return nil
}

// spawn runs f as a task that Close waits for; not after Close.
func (s *Service) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.tasks.Go(f)
	return true
}

// within bounds a caller's context by the service's life.
func (s *Service) within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// pause waits; false if ctx ended first.
func (s *Service) pause(ctx context.Context, d time.Duration) bool {
	wait, cancel := s.tasks.Within(ctx, d)
	defer cancel()
	_ = s.tasks.Await(wait, nil) // ends with the time, or with ctx
	return ctx.Err() == nil
}

// random fills b.
func (s *Service) random(b []byte) error {
	s.randMu.Lock()
	defer s.randMu.Unlock()
	if _, err := io.ReadFull(s.cfg.Random, b); err != nil {
		return fmt.Errorf("randomness: %w", err)
	}
	return nil
}

// jitter returns a random part of d, at least half.
func (s *Service) jitter(d time.Duration) time.Duration {
	var b [1]byte
	if s.random(b[:]) != nil {
		return d
	}
	return d/2 + d/2*time.Duration(b[0])/255
}
