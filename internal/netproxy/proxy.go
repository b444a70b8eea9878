package netproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ErrClosed: the proxy has ended.
var ErrClosed = errors.New("proxy is closed")

// ErrTwice: the node has a front for datagrams already, or its private address
// is another node's too.
var ErrTwice = errors.New("added twice")

// Errors of Config.Owner.
var (
	// ErrOrphan: the sender has written, closed, and left the rest to its kernel.
	ErrOrphan = errors.New("connection is held by nobody any more")
	// ErrStranger: the connection is none of the nodes'.
	ErrStranger = errors.New("connection is held by a stranger")
)

// Config of a Proxy.
type Config struct {
	// Owner tells which node holds the end of a connection that the proxy
	// accepted: remote is that end, local the proxy's. ErrOrphan: nobody holds
	// it any more; such a connection passes while no link to the node is cut.
	// Any other error: a stranger, who is reset. It is called from many
	// goroutines.
	Owner func(remote, local netip.AddrPort) (Node, error)
	// Seed decides about loss, duplication and jitter, as far as the traffic
	// itself repeats.
	Seed uint64
	// Logger may be nil.
	Logger *slog.Logger
}

// Stats counts what the proxy has done.
type Stats struct {
	Connections int64 // accepted
	Orphans     int64 // of these, those without a known sender
	Strangers   int64 // connections and datagrams of nobody, refused
	Bytes       int64 // of connections, passed on
	Datagrams   int64 // passed on
	Dropped     int64 // datagrams that were not
}

// maxConns bounds the connections of a proxy; more are reset.
const maxConns = 4096

// Proxy stands before the nodes of one rig. All methods are safe for
// concurrent use; changes of links take effect on traffic that is under way.
type Proxy struct {
	cfg    Config
	log    *slog.Logger
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	owned  sync.WaitGroup

	connections, orphans, strangers, bytes, datagrams, dropped atomic.Int64

	mu        sync.Mutex
	closed    bool
	listeners []*net.TCPListener
	udp       map[Node]*udpFront
	sources   map[netip.AddrPort]Node // private UDP addresses
	lines     map[[2]Node]*line
	nodes     []Node
	conns     map[*conn]struct{}
}

// New makes a proxy without fronts.
func New(cfg Config) *Proxy {
	p := &Proxy{
		cfg: cfg, log: cfg.Logger, udp: make(map[Node]*udpFront), sources: make(map[netip.AddrPort]Node),
		lines: make(map[[2]Node]*line), conns: make(map[*conn]struct{}),
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// AddTCP listens on front for connections to a node, and passes them on to
// back. Port 0 in front takes a free one, and in back stands for the same one.
// It returns the front's address.
func (p *Proxy) AddTCP(node Node, front, back netip.AddrPort) (netip.AddrPort, error) {
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(front))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("front of node %d: %w", node, err)
	}
	front = unmap(l.Addr().(*net.TCPAddr).AddrPort())
	if back.Port() == 0 {
		back = netip.AddrPortFrom(back.Addr(), front.Port())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return netip.AddrPort{}, errors.Join(fmt.Errorf("front of node %d: %w", node, ErrClosed), l.Close())
	}
	p.listeners = append(p.listeners, l)
	p.knowLocked(node)
	p.owned.Go(func() { p.accept(l, node, back) })
	return front, nil
}

// AddUDP does the same for datagrams. Those that come from back are the node's own.
func (p *Proxy) AddUDP(node Node, front, back netip.AddrPort) (netip.AddrPort, error) {
	s, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(front))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("front of node %d: %w", node, err)
	}
	front = unmap(s.LocalAddr().(*net.UDPAddr).AddrPort())
	if back.Port() == 0 {
		back = netip.AddrPortFrom(back.Addr(), front.Port())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		err = ErrClosed
	case p.udp[node] != nil:
		err = ErrTwice
	}
	if _, known := p.sources[back]; err == nil && known {
		err = ErrTwice
	}
	if err != nil {
		return netip.AddrPort{}, errors.Join(fmt.Errorf("front of node %d: %w", node, err), s.Close())
	}
	f := &udpFront{proxy: p, node: node, socket: s, back: back, routes: make(map[Node]*route)}
	p.udp[node] = f
	p.sources[back] = node
	p.knowLocked(node)
	p.owned.Go(f.receive)
	return front, nil
}

func (p *Proxy) knowLocked(node Node) {
	if !slices.Contains(p.nodes, node) {
		p.nodes = append(p.nodes, node)
	}
}

// Set replaces the link from one node to another.
func (p *Proxy) Set(from, to Node, link Link) {
	p.line(from, to).update(func(l *Link) { *l = link })
}

// SetAll replaces the links of all pairs.
func (p *Proxy) SetAll(link Link) {
	p.each(func(_, _ Node, l *line) { l.update(func(old *Link) { *old = link }) })
}

// Cut cuts one direction.
func (p *Proxy) Cut(from, to Node) {
	p.line(from, to).update(func(l *Link) { l.Cut = true })
}

// Isolate cuts a node off, both ways.
func (p *Proxy) Isolate(node Node) {
	p.each(func(from, to Node, l *line) {
		if from == node || to == node {
			l.update(func(l *Link) { l.Cut = true })
		}
	})
}

// Partition cuts both directions between nodes of different groups, and leaves
// all other links as they are. A node may be in several groups: it then talks
// to all of those.
func (p *Proxy) Partition(groups ...[]Node) {
	together := func(a, b Node) bool {
		return slices.ContainsFunc(groups, func(g []Node) bool { return slices.Contains(g, a) && slices.Contains(g, b) })
	}
	listed := func(a Node) bool {
		return slices.ContainsFunc(groups, func(g []Node) bool { return slices.Contains(g, a) })
	}
	p.each(func(from, to Node, l *line) {
		if listed(from) && listed(to) && !together(from, to) {
			l.update(func(l *Link) { l.Cut = true })
		}
	})
}

// Heal undoes all cuts. Delays, losses and rates stay.
func (p *Proxy) Heal() {
	p.each(func(_, _ Node, l *line) { l.update(func(l *Link) { l.Cut = false }) })
}

// Reset aborts all connections between two nodes, as a firewall does that has
// lost its state. The nodes learn of it whether or not the link is cut.
func (p *Proxy) Reset(a, b Node) {
	p.mu.Lock()
	var hit []*conn
	for c := range p.conns {
		if c.known && ((c.from == a && c.to == b) || (c.from == b && c.to == a)) {
			hit = append(hit, c)
		}
	}
	p.mu.Unlock()
	for _, c := range hit {
		c.abort()
	}
}

// Stats returns the counters.
func (p *Proxy) Stats() Stats {
	return Stats{
		Connections: p.connections.Load(), Orphans: p.orphans.Load(), Strangers: p.strangers.Load(), Bytes: p.bytes.Load(),
		Datagrams: p.datagrams.Load(), Dropped: p.dropped.Load(),
	}
}

// Close ends everything, and waits for it.
func (p *Proxy) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		p.owned.Wait()
		return nil
	}
	p.closed = true
	p.cancel()
	var errs []error
	for _, l := range p.listeners {
		errs = append(errs, l.Close())
	}
	for _, f := range p.udp {
		errs = append(errs, f.socket.Close())
	}
	p.mu.Unlock()
	p.owned.Wait()
	return errors.Join(errs...)
}

// line returns the state of a direction.
func (p *Proxy) line(from, to Node) *line {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lineLocked(from, to)
}

func (p *Proxy) lineLocked(from, to Node) *line {
	l := p.lines[[2]Node{from, to}]
	if l == nil {
		l = newLine(p.cfg.Seed, from, to)
		p.lines[[2]Node{from, to}] = l
	}
	return l
}

// worst returns the line that an orphan to a node takes: the slowest one that
// leads there. False: one of them is cut, which may be the orphan's.
func (p *Proxy) worst(to Node) (*line, bool) {
	var slowest *line
	var delay time.Duration
	open := true
	p.each(func(_, at Node, l *line) {
		if at != to {
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		open = open && !l.link.Cut
		if slowest == nil || l.link.Delay > delay {
			slowest, delay = l, l.link.Delay
		}
	})
	return slowest, open && slowest != nil
}

// each calls f for all pairs of nodes that have fronts.
func (p *Proxy) each(f func(from, to Node, l *line)) {
	type pair struct {
		from, to Node
		line     *line
	}
	p.mu.Lock()
	var all []pair
	for _, from := range p.nodes {
		for _, to := range p.nodes {
			if from != to {
				all = append(all, pair{from, to, p.lineLocked(from, to)})
			}
		}
	}
	p.mu.Unlock()
	for _, x := range all {
		f(x.from, x.to, x.line)
	}
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
