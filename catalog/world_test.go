package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

const patience = 3 * time.Second

// world is a rig with the catalog's service on every node.
type world struct {
	t           *testing.T
	c           *rig.Cluster
	directories map[id.Node]raftgroup.Directory

	mu        sync.Mutex
	processes map[id.Node]*process
}

// process is one life of a node: its service between two starts. It counts
// what the service does to the world, the steps of the protocol, and can cut
// itself off from the world at one of them.
type process struct {
	*raftgroup.Host
	w    *world
	node *rig.Node
	svc  *catalog.Service

	steps   atomic.Int64
	dieAt   atomic.Int64 // 0: never
	dieLate atomic.Bool  // the step at which it dies has its effect first
	dead    atomic.Bool
	died    chan struct{}
	script  atomic.Pointer[script] // of a story; nil: none
}

var errDead = errors.New("this process has died")

func newWorld(t *testing.T, nodes int, seed uint64) *world {
	w := &world{t: t, c: rig.New(t, nodes, seed), processes: make(map[id.Node]*process), directories: make(map[id.Node]raftgroup.Directory)}
	w.c.Tune = func(cfg *raftgroup.Config) { w.directories[cfg.Node] = cfg.Directory }
	w.c.Wrap = func(n *rig.Node) rig.Handler { return w.newProcess(n) }
	return w
}

func (w *world) newProcess(n *rig.Node) *process {
	p := &process{Host: n.Host, w: w, node: n, died: make(chan struct{})}
	rng := rand.New(rand.NewPCG(w.c.Seed, uint64(n.ID[15])<<32|n.Incarnation))
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rng.Uint32())
	}
	svc, err := catalog.New(catalog.Config{
		Node: n.ID, Engine: deadlyEngine{catalog.ForHost(n.Host), p}, Network: deadlyNetwork{n.Endpoint, p},
		Directory: w.directories[n.ID], Clock: clock{}, Random: rand.NewChaCha8(seed), Patience: patience,
		Logger: w.logger(n),
	})
	if err != nil {
		w.t.Fatalf("seed %d: %v", w.c.Seed, err)
	}
	p.svc = svc
	w.mu.Lock()
	w.processes[n.ID] = p
	w.mu.Unlock()
	return p
}

// logger is for those who look: a test's log costs more than the test.
func (w *world) logger(n *rig.Node) *slog.Logger {
	if !testing.Verbose() {
		return nil
	}
	return w.c.Logger().With("node", n.DataCenter)
}

func (w *world) on(i int) *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.processes[w.c.Nodes[i].ID]
}

// found starts all nodes and waits until the catalog has that many voters, or
// more, and all of them know it: a replica that has not heard yet that it was
// made a voter cannot stand for election when the leader is lost.
func (w *world) found(voters int) {
	w.t.Helper()
	w.c.StartAll()
	if err := w.on(0).svc.FoundCatalog(w.t.Context()); err != nil {
		w.t.Fatalf("seed %d: %v", w.c.Seed, err)
	}
	w.c.Wait(2*time.Minute, fmt.Sprintf("a catalog of %d voters", voters), func() bool {
		most, know := 0, 0
		for _, n := range w.c.Nodes {
			if g, ok := n.Host.Group(catalog.ID); ok {
				st := g.Status()
				most = max(most, len(st.Voters))
				if st.Voter && !st.Joint && len(st.Voters) >= voters {
					know++
				}
			}
		}
		return most >= voters && know == most
	})
}

// end stops what runs, services first.
func (w *world) end() {
	for i := range w.c.Nodes {
		w.stop(i)
	}
}

func (w *world) stop(i int) {
	n := w.c.Nodes[i]
	if !n.Up() {
		return
	}
	if err := w.on(i).svc.Close(); err != nil {
		w.t.Errorf("close service: %v", err)
	}
	n.Stop()
}

// crash ends a node as a power failure does.
func (w *world) crash(i int) {
	w.on(i).die()
	w.c.Nodes[i].Crash(w.c.Seed)
	if err := w.on(i).svc.Close(); err != nil {
		w.t.Errorf("close service: %v", err)
	}
}

func (w *world) all() []id.Node {
	var out []id.Node
	for _, n := range w.c.Nodes {
		out = append(out, n.ID)
	}
	return out
}

// pick is a placement: every seed, and every node, prefers other nodes.
func (w *world) pick(i int) func() []id.Node {
	rng := rand.New(rand.NewPCG(w.c.Seed, uint64(i)))
	return func() []id.Node {
		nodes := w.all()
		rng.Shuffle(len(nodes), func(a, b int) { nodes[a], nodes[b] = nodes[b], nodes[a] })
		return nodes
	}
}

// settled waits until no live node has a prepared replica.
func (w *world) settled() {
	w.t.Helper()
	w.c.Wait(20*patience, "no prepared replica is left", func() bool {
		return !slices.ContainsFunc(w.c.Nodes, func(n *rig.Node) bool { return n.Up() && len(n.Host.Prepared()) > 0 })
	})
}

// check tells that exactly the group of a record lives: every started replica
// of the structure is of its incarnation, the record names all that nobody
// added later, and every live first member has started.
func (w *world) check(s id.Structure, rec catalog.Record) {
	w.t.Helper()
	if !rec.Lives() || rec.Structure != s {
		w.t.Fatalf("seed %d: record %+v is not that of %s", w.c.Seed, rec, s)
	}
	for _, n := range w.c.Nodes {
		if !n.Up() {
			continue
		}
		member := false
		for r, node := range rec.Members {
			member = member || node == n.ID && r != 0
		}
		started := false
		for _, g := range n.Host.Groups() {
			if g.Group.Structure != s {
				continue
			}
			if g.Group.Incarnation != rec.Incarnation {
				w.t.Fatalf("seed %d: node %s has %s (%s), the record is of %s", w.c.Seed, n.DataCenter, g.Group, g.Role, rec.Group())
			}
			if first, ok := rec.Members[g.Replica]; ok && first != n.ID {
				w.t.Fatalf("seed %d: node %s has replica %d, which the record places on %s", w.c.Seed, n.DataCenter, g.Replica, first)
			}
			started = true
		}
		if member && !started {
			w.t.Fatalf("seed %d: node %s is a first member of %s and has no replica", w.c.Seed, n.DataCenter, rec.Group())
		}
	}
}

type clock struct{}

func (clock) Now() time.Time { return time.Now() }

// HandleCall gives the catalog its calls, and the host its own.
func (p *process) HandleCall(ctx context.Context, from id.Node, method uint16, request []byte) ([]byte, error) {
	if p.dead.Load() {
		return nil, errDead
	}
	if method >= catalog.MinMethod && method <= catalog.MaxMethod {
		return p.svc.HandleCall(ctx, from, method, request)
	}
	return p.Host.HandleCall(ctx, from, method, request)
}

// HandleMessages drops what comes to a process that has died.
func (p *process) HandleMessages(from id.Node, batch []raftgroup.Message) {
	if !p.dead.Load() {
		p.Host.HandleMessages(from, batch)
	}
}

// die cuts the process off; its node is to be crashed by the test.
func (p *process) die() {
	if p.dead.CompareAndSwap(false, true) {
		for _, n := range p.w.c.Nodes {
			p.w.c.Net.Cut(p.node.ID, n.ID)
			p.w.c.Net.Cut(n.ID, p.node.ID)
		}
		close(p.died)
	}
}

// step carries out one step, unless the process dies at it. A story's script
// knows it by what it does and to which node.
func (p *process) step(what string, to id.Node, do func() error) error {
	if sc := p.script.Load(); sc != nil {
		return sc.step(p, what, to, do)
	}
	n := p.steps.Add(1)
	mine := n == p.dieAt.Load()
	if mine && !p.dieLate.Load() {
		p.die()
	}
	if p.dead.Load() {
		return errDead
	}
	err := do()
	if mine {
		p.die()
	}
	if p.dead.Load() {
		return errDead
	}
	return err
}

type deadlyNetwork struct {
	raftgroup.Network
	p *process
}

func (d deadlyNetwork) Call(ctx context.Context, to id.Node, method uint16, request []byte) (answer []byte, err error) {
	what := catalog.StepOf(method, request)
	err = d.p.step(what, to, func() error {
		if sc := d.p.script.Load(); sc != nil && sc.holds(d.p, what) {
			return sc.hold(ctx, func(late context.Context) { _, _ = d.Network.Call(late, to, method, request) })
		}
		answer, err = d.Network.Call(ctx, to, method, request)
		return err
	})
	return answer, err
}

type deadlyEngine struct {
	catalog.Engine
	p *process
}

func (d deadlyEngine) Prepare(ctx context.Context, g raftgroup.Genesis) error {
	return d.p.step("prepare", d.p.node.ID, func() error { return d.Engine.Prepare(ctx, g) })
}

func (d deadlyEngine) StartPrepared(ctx context.Context, t raftgroup.Token, born id.Incarnation) error {
	return d.p.step("start", d.p.node.ID, func() error { return d.Engine.StartPrepared(ctx, t, born) })
}

func (d deadlyEngine) DiscardPrepared(ctx context.Context, t raftgroup.Token) error {
	return d.p.step("discard", d.p.node.ID, func() error { return d.Engine.DiscardPrepared(ctx, t) })
}

func (d deadlyEngine) EndGroup(ctx context.Context, s id.Structure, birth uint64, hints ...id.Node) error {
	return d.p.step("end", d.p.node.ID, func() error { return d.Engine.EndGroup(ctx, s, birth, hints...) })
}

func (d deadlyEngine) RemoveEnded(ctx context.Context, g id.Group) error {
	return d.p.step("remove", d.p.node.ID, func() error { return d.Engine.RemoveEnded(ctx, g) })
}
