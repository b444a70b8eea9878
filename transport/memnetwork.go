package transport

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// MemNetwork is a network in memory, for whole clusters in one process. Links
// between hosts can be slow, cut, and broken while it runs. It uses no sockets
// and waits only on channels and timers: made inside a testing/synctest
// bubble, it runs in virtual time.
//
// Faults are those that TCP shows: nothing is lost from the middle of a
// connection. What is written into a cut link waits, and arrives when the link
// is healed, unless the connection was given up in the meantime.
type MemNetwork struct {
	mu        sync.Mutex
	links     map[memLink]*memLinkState
	listeners map[string]*memListener
	conns     map[*memConn]struct{}
	nextPort  int
	changed   chan struct{} // closed and replaced when links change
}

// memLink is one direction between two hosts.
type memLink struct{ from, to string }

type memLinkState struct {
	cut     bool
	latency time.Duration
}

const (
	// memCapacity is what one direction of a connection holds: a TCP window.
	memCapacity = 1 << 20
	memBacklog  = 128
)

// NewMemNetwork returns a network without hosts. All links are up, and fast.
func NewMemNetwork() *MemNetwork {
	return &MemNetwork{
		links:     make(map[memLink]*memLinkState),
		listeners: make(map[string]*memListener),
		conns:     make(map[*memConn]struct{}),
		nextPort:  49152,
		changed:   make(chan struct{}),
	}
}

// Host returns the network as the named host sees it: it listens on addresses
// of that host and dials from there. Addresses are "host:port"; listening on
// an empty host, or a wildcard, means the host itself.
func (n *MemNetwork) Host(name string) Network { return &memHost{n, name} }

// Partition cuts the link between a and b in both directions.
func (n *MemNetwork) Partition(a, b string) {
	n.Cut(a, b)
	n.Cut(b, a)
}

// Cut cuts one direction: what from sends to to waits.
func (n *MemNetwork) Cut(from, to string) {
	n.change(from, to, func(l *memLinkState) { l.cut = true })
}

// Heal ends Partition and Cut between a and b.
func (n *MemNetwork) Heal(a, b string) {
	n.change(a, b, func(l *memLinkState) { l.cut = false })
	n.change(b, a, func(l *memLinkState) { l.cut = false })
}

// SetLatency sets the time that bytes take between a and b, each way.
func (n *MemNetwork) SetLatency(a, b string, oneWay time.Duration) {
	n.change(a, b, func(l *memLinkState) { l.latency = oneWay })
	n.change(b, a, func(l *memLinkState) { l.latency = oneWay })
}

// Reset breaks all connections between a and b, as a router does that has lost
// its memory: both ends get ECONNRESET, what was on its way is lost. It returns
// how many connections that were.
func (n *MemNetwork) Reset(a, b string) int {
	return n.reset(func(p *memPipe) bool { return p.from == a && p.to == b })
}

// Crash breaks all connections of a host and frees its addresses, as when its
// process is killed.
func (n *MemNetwork) Crash(host string) {
	n.mu.Lock()
	var gone []*memListener
	for _, l := range n.listeners {
		if l.host == host {
			gone = append(gone, l)
		}
	}
	n.mu.Unlock()
	for _, l := range gone {
		_ = l.Close() // never fails
	}
	n.reset(func(p *memPipe) bool { return p.from == host })
}

// reset breaks the connections one of whose directions matches.
func (n *MemNetwork) reset(match func(*memPipe) bool) int {
	n.mu.Lock()
	broken := make(map[*memPipe]struct{})
	count := 0
	for c := range n.conns {
		if !match(c.in) && !match(c.out) {
			continue
		}
		if _, seen := broken[c.in]; !seen {
			count++
		}
		broken[c.in], broken[c.out] = struct{}{}, struct{}{}
	}
	n.mu.Unlock()
	for p := range broken {
		p.update(func() { p.reset = true })
	}
	return count
}

func (n *MemNetwork) change(from, to string, change func(*memLinkState)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.linkLocked(from, to)
	change(l)
	for c := range n.conns {
		if p := c.out; p.from == from && p.to == to {
			p.update(func() { p.held, p.latency = l.cut, l.latency })
		}
		if p := c.in; p.from == from && p.to == to { // the writer may have closed
			p.update(func() { p.held, p.latency = l.cut, l.latency })
		}
	}
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *MemNetwork) linkLocked(from, to string) *memLinkState {
	l := n.links[memLink{from, to}]
	if l == nil {
		l = &memLinkState{}
		n.links[memLink{from, to}] = l
	}
	return l
}

func (n *MemNetwork) forget(c *memConn) {
	n.mu.Lock()
	delete(n.conns, c)
	n.mu.Unlock()
}

// memHost is the network as one host sees it.
type memHost struct {
	network *MemNetwork
	name    string
}

// Listen implements Network.
func (h *memHost) Listen(address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = h.name
	}
	if host != h.name {
		return nil, fmt.Errorf("listen on %s: not an address of host %s", address, h.name)
	}
	n := h.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if port == "0" {
		for {
			port = strconv.Itoa(n.nextPort)
			n.nextPort++
			if _, taken := n.listeners[net.JoinHostPort(host, port)]; !taken {
				break
			}
		}
	}
	address = net.JoinHostPort(host, port)
	if _, taken := n.listeners[address]; taken {
		return nil, fmt.Errorf("%w: listen on %s: %w", ErrAddressInUse, address, syscall.EADDRINUSE)
	}
	l := &memListener{
		network: n, host: host, address: memAddr(address),
		backlog: make(chan *memConn, memBacklog), done: make(chan struct{}),
	}
	n.listeners[address] = l
	return l, nil
}

// Dial implements Network. It takes a round trip. While the link is cut in
// either direction it waits.
func (h *memHost) Dial(ctx context.Context, address string) (net.Conn, error) {
	n := h.network
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	for {
		n.mu.Lock()
		out, back := n.linkLocked(h.name, host), n.linkLocked(host, h.name)
		cut, wait, changed := out.cut || back.cut, out.latency+back.latency, n.changed
		n.mu.Unlock()
		if cut {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		if wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return nil, ctx.Err()
			}
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return n.connect(h.name, host, address)
	}
}

// connect makes a connection if somebody listens.
func (n *MemNetwork) connect(from, to, address string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.listeners[address]
	if l == nil {
		return nil, fmt.Errorf("dial %s: %w", address, syscall.ECONNREFUSED)
	}
	n.nextPort++
	local := memAddr(net.JoinHostPort(from, strconv.Itoa(n.nextPort)))
	out, back := newMemPipe(from, to, memCapacity), newMemPipe(to, from, memCapacity)
	for _, p := range []*memPipe{out, back} {
		link := n.linkLocked(p.from, p.to)
		p.held, p.latency = link.cut, link.latency
	}
	near := &memConn{network: n, local: local, remote: l.address, in: back, out: out}
	far := &memConn{network: n, local: l.address, remote: local, in: out, out: back}
	select {
	case l.backlog <- far:
	default:
		return nil, fmt.Errorf("dial %s: backlog full: %w", address, syscall.ECONNREFUSED)
	}
	n.conns[near], n.conns[far] = struct{}{}, struct{}{}
	return near, nil
}

// memListener hands out the far ends of connections.
type memListener struct {
	network *MemNetwork
	host    string
	address memAddr
	backlog chan *memConn
	done    chan struct{}
	once    sync.Once
}

func (l *memListener) Addr() net.Addr { return l.address }

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close frees the address and closes the connections that nobody accepted.
func (l *memListener) Close() error {
	l.once.Do(func() {
		n := l.network
		n.mu.Lock()
		delete(n.listeners, string(l.address)) // from here on connect adds none
		close(l.done)
		n.mu.Unlock()
		for {
			select {
			case c := <-l.backlog:
				_ = c.Close() // never fails
			default:
				return
			}
		}
	})
	return nil
}
