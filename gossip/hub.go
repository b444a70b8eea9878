package gossip

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// Hub is where the nodes of a test meet that gossip in memory: no sockets, no
// goroutines, no timers. Everyone who can hear of a change has heard of it when
// the call that made it returns, unless the hub holds deliveries back or the
// network is cut. It works in virtual time and from a single goroutine.
type Hub struct {
	now func() time.Time

	mu    sync.Mutex
	nodes map[id.Node]*Memory // the latest life of each
	side  map[id.Node]int     // of a partition; 0: of none
	wrong map[[2]id.Node]bool // observer, node: wrongly believed dead
	held  bool
	port  int
	moved chan struct{} // closed and replaced when a Join may succeed that did not before
}

// NewHub makes a hub. The clock gives Node.Since; nil is time.Now.
func NewHub(now func() time.Time) *Hub {
	if now == nil {
		now = time.Now
	}
	return &Hub{
		now: now, nodes: make(map[id.Node]*Memory), side: make(map[id.Node]int), wrong: make(map[[2]id.Node]bool),
		port: 20000, moved: make(chan struct{}),
	}
}

// Start registers a node. A running node of the same ID is killed first, as if
// its process had been restarted. Errors: ErrConfig, ErrAddressInUse.
func (h *Hub) Start(config Config) (*Memory, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	config.Peers, config.Remembered = slices.Clone(config.Peers), slices.Clone(config.Remembered)
	h.mu.Lock()
	defer h.mu.Unlock()
	if config.BindPort == 0 {
		h.port++
		config.BindPort = h.port
	}
	m := &Memory{
		hub: h, config: config, address: net.JoinHostPort("127.0.0.1", strconv.Itoa(config.BindPort)), since: h.now(),
		cluster: config.Cluster, seen: make(map[id.Node]*sight), changed: make(chan struct{}),
	}
	for _, other := range h.nodes {
		if !other.closed && other.address == m.address && other.config.Node != config.Node {
			return nil, fmt.Errorf("gossip on %s: %w", m.address, ErrAddressInUse)
		}
	}
	if old := h.nodes[config.Node]; old != nil {
		old.closed = true
	}
	h.nodes[config.Node] = m
	h.settleLocked()
	return m, nil
}

// Kill stops a node as a crash does: the others see it dead, and what its
// Memory is still told has no effect.
func (h *Hub) Kill(node id.Node) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.nodes[node]; m != nil {
		m.closed = true
		h.settleLocked()
	}
}

// Partition cuts the network: nodes hear only of those on their own side. Nodes
// that no side names are on one of their own together. An earlier partition ends.
func (h *Hub) Partition(sides ...[]id.Node) {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.side)
	for i, side := range sides {
		for _, node := range side {
			h.side[node] = i + 1
		}
	}
	h.settleLocked()
}

// Heal ends a partition and every wrong suspicion.
func (h *Hub) Heal() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.side)
	clear(h.wrong)
	h.settleLocked()
}

// Suspect makes observer believe, wrongly, that node is dead, or no longer so.
func (h *Hub) Suspect(observer, node id.Node, dead bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if dead {
		h.wrong[[2]id.Node{observer, node}] = true
	} else {
		delete(h.wrong, [2]id.Node{observer, node})
	}
	h.settleLocked()
}

// Hold stops all news, of deaths and of replicas alike, until Release.
func (h *Hub) Hold() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = true
}

// Release delivers what Hold kept back, and everything from now on.
func (h *Hub) Release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = false
	h.settleLocked()
}

// Forget makes everyone forget the dead: what Gossip does after a while.
func (h *Hub) Forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.nodes {
		before := len(m.seen)
		for node, s := range m.seen {
			if !s.node.Alive {
				delete(m.seen, node)
			}
		}
		if len(m.seen) != before {
			m.notifyLocked()
		}
	}
}

// settleLocked delivers all news, and wakes whoever waits in Join.
func (h *Hub) settleLocked() {
	close(h.moved)
	h.moved = make(chan struct{})
	if h.held {
		return
	}
	for _, observer := range h.nodes {
		if observer.closed || observer.cluster.IsZero() {
			continue
		}
		news := false
		for node, subject := range h.nodes {
			if subject != observer {
				news = observer.look(node, subject) || news
			}
		}
		if news {
			observer.notifyLocked()
		}
	}
}

// hears reports whether news of b reach a.
func (h *Hub) hears(a, b *Memory) bool {
	return !b.closed && h.side[a.config.Node] == h.side[b.config.Node]
}
