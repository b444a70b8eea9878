package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// Memory is the in-memory twin of Gossip: the same promises, as far as they do
// not concern sockets. Of the Config it reads the identity, BindPort, Peers and
// Remembered; Remember is never called. All methods are safe for concurrent use.
type Memory struct {
	hub     *Hub
	config  Config
	address string
	since   time.Time

	// The hub's lock guards what follows.
	cluster   id.Cluster
	published *publication
	seen      map[id.Node]*sight
	changed   chan struct{}
	changes   uint64
	intends   bool // to leave
	left      bool
	closed    bool
}

// publication is one published list. It is never changed.
type publication struct {
	replicas    map[id.Group]Replica
	byStructure map[id.Structure][]Replica
}

// sight is what one node knows of another.
type sight struct {
	node      Node
	published *publication
}

// look updates what m knows of another node, and reports whether that is news.
func (m *Memory) look(node id.Node, subject *Memory) bool {
	s := m.seen[node]
	alive := m.hub.hears(m, subject) && subject.cluster == m.cluster && !subject.left && !m.hub.wrong[[2]id.Node{m.config.Node, node}]
	if !alive {
		if s == nil || !s.node.Alive {
			return false
		}
		s.node.Alive, s.node.Since = false, m.hub.now()
		s.node.Left = (subject.left || subject.intends) && m.hub.hears(m, subject)
		return true
	}
	now := subject.describe()
	now.Since = m.hub.now()
	if s == nil {
		s = &sight{}
		m.seen[node] = s
	} else if s.node.Alive {
		now.Since = s.node.Since
	}
	news := s.node != now
	s.node = now
	// Until a new life publishes, its former list stands.
	if subject.published != nil && s.published != subject.published {
		s.published, news = subject.published, true
	}
	return news
}

func (m *Memory) describe() Node {
	c := &m.config
	host := c.AdvertiseHost
	if host == "" {
		host = "127.0.0.1"
	}
	return Node{
		ID: c.Node, Incarnation: c.Incarnation, Address: m.address, Transport: net.JoinHostPort(host, strconv.Itoa(c.TransportPort)),
		DataCenter: c.DataCenter, Rack: c.Rack, Capacity: c.Capacity, Version: c.Version, Alive: true, Left: m.intends, Since: m.since,
	}
}

func (m *Memory) notifyLocked() {
	m.changes++
	close(m.changed)
	m.changed = make(chan struct{})
}

// Join is Gossip.Join. It waits on channels only.
func (m *Memory) Join(ctx context.Context) (id.Cluster, error) {
	for {
		m.hub.mu.Lock()
		moved := m.hub.moved
		cluster, err := m.tryLocked()
		m.hub.mu.Unlock()
		if err == nil || !errors.Is(err, errPeerLooking) {
			return cluster, err
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return id.Cluster{}, fmt.Errorf("%w: %w: %w", ErrNoCluster, context.Cause(ctx), err)
		}
	}
}

// tryLocked is one round of Join. Its error is errPeerLooking to try again.
func (m *Memory) tryLocked() (id.Cluster, error) {
	if m.closed || m.left {
		return id.Cluster{}, fmt.Errorf("joining: %w", ErrClosed)
	}
	if len(m.config.Peers)+len(m.config.Remembered) == 0 {
		return id.Cluster{}, fmt.Errorf("%w: %w", ErrNoCluster, errNothingGiven)
	}
	var foreign error
	for i, address := range slices.Concat(m.config.Peers, m.config.Remembered) {
		for node, other := range m.hub.nodes {
			switch {
			case other == m || other.address != address || other.left || other.cluster.IsZero() || !m.hub.hears(m, other):
				continue
			case !m.cluster.IsZero() && m.cluster != other.cluster:
				if i < len(m.config.Peers) {
					foreign = fmt.Errorf("%w: node %s at %s is of cluster %s, this node of %s", ErrWrongCluster, node, address, other.cluster, m.cluster)
				}
				continue
			}
			m.cluster = other.cluster
			m.hub.settleLocked()
			return m.cluster, nil
		}
	}
	if foreign != nil {
		return id.Cluster{}, foreign
	}
	return id.Cluster{}, errPeerLooking
}

// Found is Gossip.Found.
func (m *Memory) Found(cluster id.Cluster) {
	m.hub.mu.Lock()
	defer m.hub.mu.Unlock()
	if cluster.IsZero() || m.closed || m.left || !m.cluster.IsZero() {
		return
	}
	m.cluster = cluster
	m.hub.settleLocked()
}

// Addr is Gossip.Addr.
func (m *Memory) Addr() (host string, port int) { return "127.0.0.1", m.config.BindPort }

// Node is Gossip.Node.
func (m *Memory) Node(node id.Node) (Node, bool) {
	if node == m.config.Node {
		return m.describe(), true
	}
	m.hub.mu.Lock()
	defer m.hub.mu.Unlock()
	s := m.seen[node]
	if s == nil {
		return Node{}, false
	}
	return s.node, true
}

// Nodes is Gossip.Nodes.
func (m *Memory) Nodes() []Node {
	m.hub.mu.Lock()
	defer m.hub.mu.Unlock()
	nodes := []Node{m.describe()}
	for _, s := range m.seen {
		nodes = append(nodes, s.node)
	}
	slices.SortFunc(nodes, func(a, b Node) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return nodes
}

// Publish is Gossip.Publish.
func (m *Memory) Publish(replicas []Replica) {
	p := &publication{replicas: make(map[id.Group]Replica), byStructure: make(map[id.Structure][]Replica)}
	for _, r := range replicas {
		if old, twice := p.replicas[r.Group]; !twice || old.ID < r.ID {
			p.replicas[r.Group] = r
		}
	}
	for group, r := range p.replicas {
		p.byStructure[group.Structure] = append(p.byStructure[group.Structure], r)
	}
	m.hub.mu.Lock()
	defer m.hub.mu.Unlock()
	if m.closed || m.left || m.published != nil && sameReplicas(m.published.replicas, p.replicas) {
		return
	}
	m.published = p
	m.notifyLocked()
	m.hub.settleLocked()
}

func sameReplicas(a, b map[id.Group]Replica) bool {
	if len(a) != len(b) {
		return false
	}
	for group, r := range a {
		if b[group] != r {
			return false
		}
	}
	return true
}

// Holders is Gossip.Holders.
func (m *Memory) Holders(s id.Structure) []Holding {
	m.hub.mu.Lock()
	defer m.hub.mu.Unlock()
	var all []found
	add := func(node id.Node, alive bool, p *publication) {
		if p == nil {
			return
		}
		for _, r := range p.byStructure[s] {
			all = append(all, found{Holding{node, r}, alive})
		}
	}
	add(m.config.Node, true, m.published)
	for node, other := range m.seen {
		add(node, other.node.Alive, other.published)
	}
	return inOrder(all)
}

// Rebuilt is Gossip.Rebuilt.
func (m *Memory) Rebuilt() []id.Structure {
	m.hub.mu.Lock()
	defer m.hub.mu.Unlock()
	rebuilt := make(map[id.Structure]bool)
	add := func(p *publication) {
		if p == nil {
			return
		}
		for s, replicas := range p.byStructure {
			for _, r := range replicas {
				rebuilt[s] = rebuilt[s] || r.Group.Incarnation.Recovery > 0
			}
		}
	}
	add(m.published)
	for _, other := range m.seen {
		add(other.published)
	}
	maps.DeleteFunc(rebuilt, func(_ id.Structure, is bool) bool { return !is })
	return inStructureOrder(maps.Keys(rebuilt))
}

// Changed is Gossip.Changed.
func (m *Memory) Changed() <-chan struct{} {
	m.hub.mu.Lock()
	defer m.hub.mu.Unlock()
	return m.changed
}

// Stats returns the gauges; there is no traffic to count.
func (m *Memory) Stats() Stats {
	m.hub.mu.Lock()
	defer m.hub.mu.Unlock()
	s := Stats{Nodes: 1 + len(m.seen), Alive: 1, Changes: m.changes}
	if m.published != nil {
		s.Replicas = len(m.published.replicas)
	}
	for _, other := range m.seen {
		if other.node.Alive {
			s.Alive++
		}
		if other.published != nil {
			s.Replicas += len(other.published.replicas)
		}
	}
	return s
}

// SetLeaving is Gossip.SetLeaving.
func (m *Memory) SetLeaving(leaving bool) {
	m.hub.mu.Lock()
	defer m.hub.mu.Unlock()
	if m.closed || m.left {
		return
	}
	m.intends = leaving
	m.notifyLocked()
	m.hub.settleLocked()
}

// Leave is Gossip.Leave. It does not wait.
func (m *Memory) Leave(context.Context) error {
	m.hub.mu.Lock()
	defer m.hub.mu.Unlock()
	if m.closed || m.left {
		return fmt.Errorf("leaving: %w", ErrClosed)
	}
	m.left = true
	m.hub.settleLocked()
	return nil
}

// Close is Gossip.Close.
func (m *Memory) Close() error {
	m.hub.mu.Lock()
	defer m.hub.mu.Unlock()
	if !m.closed {
		m.closed = true
		m.hub.settleLocked()
	}
	return nil
}
