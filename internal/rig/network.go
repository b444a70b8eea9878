package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/raftgroup"
)

// errUnreachable is what a call over a cut link gives.
var errUnreachable = errors.New("unreachable")

// Handler is what a node answers the network with.
type Handler interface {
	HandleMessages(from id.Node, batch []raftgroup.Message)
	HandleCall(ctx context.Context, from id.Node, method uint16, request []byte) ([]byte, error)
	HandleStream(ctx context.Context, from id.Node, request []byte, w io.Writer) error
}

// Network joins the nodes of a rig in memory. Each message takes its own
// random time, so that messages overtake one another; some are lost.
type Network struct {
	mu      sync.Mutex
	rng     *rand.Rand
	nodes   map[id.Node]Handler
	cut     map[[2]id.Node]bool // one way
	loss    float64
	latency time.Duration // up to twice that
	ordered bool
	last    map[[2]id.Node]time.Time // ordered: when the last message arrives
}

func newNetwork(seed uint64) *Network {
	return &Network{
		rng: rand.New(rand.NewPCG(seed, 1)), nodes: make(map[id.Node]Handler),
		cut: make(map[[2]id.Node]bool), latency: time.Millisecond,
	}
}

// SetLoss has a share of the messages lost, and of the calls fail.
func (n *Network) SetLoss(share float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loss = share
}

// SetLatency makes a message take up to twice d.
func (n *Network) SetLatency(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.latency = d
}

// KeepOrder has the messages from one node to another arrive in the order in
// which they were sent, as those of a connection do.
func (n *Network) KeepOrder() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ordered, n.last = true, make(map[[2]id.Node]time.Time)
}

// Cut stops everything from a to b; Heal undoes all cuts.
func (n *Network) Cut(a, b id.Node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]id.Node{a, b}] = true
}

// Heal undoes all cuts.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
}

func (n *Network) join(node id.Node, h Handler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes[node] = h
}

func (n *Network) leave(node id.Node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.nodes, node)
}

// route decides about one message: who gets it, and after how long.
func (n *Network) route(from, to id.Node) (Handler, time.Duration, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.nodes[to]
	if h == nil || n.nodes[from] == nil || n.cut[[2]id.Node{from, to}] || (n.loss > 0 && n.rng.Float64() < n.loss) {
		return nil, 0, false
	}
	wait := time.Duration(n.rng.Int64N(int64(2*n.latency) + 1))
	if n.ordered {
		pair, now := [2]id.Node{from, to}, time.Now()
		at := now.Add(wait)
		if last := n.last[pair]; !at.After(last) {
			at = last.Add(time.Nanosecond)
		}
		n.last[pair] = at
		wait = at.Sub(now)
	}
	return h, wait, true
}

// endpoint is one node's view of the network.
type endpoint struct {
	net  *Network
	self id.Node
}

func (e endpoint) Send(to id.Node, m raftgroup.Message) error {
	_, wait, ok := e.net.route(e.self, to)
	if !ok {
		return fmt.Errorf("node %s: %w", to, errUnreachable)
	}
	time.AfterFunc(wait, func() {
		e.net.mu.Lock()
		h := e.net.nodes[to]
		e.net.mu.Unlock()
		if h != nil {
			h.HandleMessages(e.self, []raftgroup.Message{m})
		}
	})
	return nil
}

// Flush has nothing to do: Send holds nothing back.
func (e endpoint) Flush() {}

func (e endpoint) Call(ctx context.Context, to id.Node, method uint16, request []byte) ([]byte, error) {
	h, wait, ok := e.net.route(e.self, to)
	if err := sleep(ctx, wait); err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("node %s: %w", to, errUnreachable)
	}
	answer, err := h.HandleCall(ctx, e.self, method, request)
	if err != nil {
		return nil, err
	}
	_, wait, ok = e.net.route(to, e.self)
	if err := sleep(ctx, wait); err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("node %s: answer: %w", to, errUnreachable)
	}
	return answer, nil
}

func (e endpoint) Fetch(ctx context.Context, to id.Node, request []byte) (io.ReadCloser, error) {
	h, wait, ok := e.net.route(e.self, to)
	if err := sleep(ctx, wait); err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("node %s: %w", to, errUnreachable)
	}
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(h.HandleStream(ctx, e.self, request, w)) }()
	return r, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
