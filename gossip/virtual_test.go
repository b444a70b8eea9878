package gossip

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/copycat-replication/copycat/id"
)

// wire is a network in virtual time, for a synctest bubble: it has no limit of
// nodes, can be cut into sides, and counts what each node sends.
type wire struct {
	mu    sync.Mutex
	ends  map[string]*wireEnd // by address
	sides map[string]int
	deaf  string // packets to this address are lost
}

const (
	wireLatency = time.Millisecond
	// headers is what IP and UDP add to a packet, or IP and TCP to each segment
	// of a stream; segment is what such a segment holds.
	udpHeaders, tcpHeaders, segment = 28, 40, 1448
)

func newWire() *wire { return &wire{ends: make(map[string]*wireEnd), sides: make(map[string]int)} }

// cut puts nodes on sides; nil heals.
func (w *wire) cut(sides map[string]int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sides = sides
}

// deafen has the packets to an address get lost; streams are not.
func (w *wire) deafen(address string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deaf = address
}

func (w *wire) isDeaf(address string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.deaf == address
}

// end gives an address on the wire to whoever starts there; a node that has
// shut down may start again at its old one.
func (w *wire) end(number int) *wireEnd {
	e := &wireEnd{
		wire: w, ip: net.IPv4(10, 0, byte(number>>8), byte(number)), port: 7946,
		packets: make(chan *memberlist.Packet, 1024), streams: make(chan net.Conn, 64), down: make(chan struct{}),
	}
	e.addr = net.JoinHostPort(e.ip.String(), fmt.Sprint(e.port))
	w.mu.Lock()
	defer w.mu.Unlock()
	if old := w.ends[e.addr]; old != nil {
		e.sent = old.sent
	} else {
		e.sent = new(atomic.Uint64)
	}
	w.ends[e.addr] = e
	return e
}

// peer finds who is at an address, if from reaches it.
func (w *wire) peer(from, to string) *wireEnd {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.ends[to]
	if e == nil || w.sides[from] != w.sides[to] {
		return nil
	}
	select {
	case <-e.down:
		return nil
	default:
		return e
	}
}

type wireEnd struct {
	wire    *wire
	ip      net.IP
	port    int
	addr    string
	packets chan *memberlist.Packet
	streams chan net.Conn
	sent    *atomic.Uint64
	once    sync.Once
	down    chan struct{}
}

func (e *wireEnd) FinalAdvertiseAddr(string, int) (net.IP, int, error) { return e.ip, e.port, nil }
func (e *wireEnd) PacketCh() <-chan *memberlist.Packet                 { return e.packets }
func (e *wireEnd) StreamCh() <-chan net.Conn                           { return e.streams }

func (e *wireEnd) Shutdown() error {
	e.once.Do(func() { close(e.down) })
	return nil
}

func (e *wireEnd) WriteTo(b []byte, addr string) (time.Time, error) {
	return e.WriteToAddress(b, memberlist.Address{Addr: addr})
}

func (e *wireEnd) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	e.sent.Add(uint64(len(b) + udpHeaders))
	packet := &memberlist.Packet{Buf: slices.Clone(b), From: &net.UDPAddr{IP: e.ip, Port: e.port}}
	time.AfterFunc(wireLatency, func() {
		if to := e.wire.peer(e.addr, a.Addr); to != nil && !e.wire.isDeaf(a.Addr) {
			packet.Timestamp = time.Now()
			select {
			case to.packets <- packet:
			default: // a socket's buffer is full at some time, too
			}
		}
	})
	return time.Now(), nil
}

func (e *wireEnd) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return e.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

var errNoRoute = errors.New("no route")

func (e *wireEnd) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	time.Sleep(2 * wireLatency)
	to := e.wire.peer(e.addr, a.Addr)
	if to == nil {
		time.Sleep(timeout) // nobody answers, and nobody says so
		return nil, errNoRoute
	}
	near, far := net.Pipe()
	select {
	case to.streams <- &countedConn{Conn: far, end: to, peer: e}:
		return &countedConn{Conn: near, end: e, peer: to}, nil
	case <-to.down:
		return nil, errors.Join(errNoRoute, near.Close(), far.Close())
	}
}

// countedConn is one end of a stream: it counts what it sends, and ends with a cut.
type countedConn struct {
	net.Conn
	end, peer *wireEnd
}

func (c *countedConn) Write(b []byte) (int, error) {
	if c.end.wire.peer(c.end.addr, c.peer.addr) == nil {
		return 0, errors.Join(errNoRoute, c.Close())
	}
	n, err := c.Conn.Write(b)
	c.end.sent.Add(uint64(n + (n/segment+1)*tcpHeaders))
	return n, err
}

func (c *countedConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: c.peer.ip, Port: c.peer.port} }
func (c *countedConn) LocalAddr() net.Addr  { return &net.TCPAddr{IP: c.end.ip, Port: c.end.port} }

// town is a cluster on a wire, and what is true of it.
type town struct {
	t       *testing.T
	wire    *wire
	nodes   []*Gossip // nil: does not run
	lives   []uint64
	lists   []map[int]Replica // what each hosts, by structure
	profile Profile

	mu         sync.Mutex
	remembered [][]string // guarded by mu: what each keeps in its data directory
}

func newTown(t *testing.T, nodes int, profile Profile) *town {
	w := &town{
		t: t, wire: newWire(), nodes: make([]*Gossip, nodes), lives: make([]uint64, nodes), profile: profile, remembered: make([][]string, nodes),
	}
	for range nodes {
		w.lists = append(w.lists, make(map[int]Replica))
	}
	return w
}

func wireAddress(n int) string { return fmt.Sprintf("10.0.%d.%d:7946", n>>8, n&0xff) }

// start runs node n, at its address, with its list: the first time with node 0
// as its peer, and later with nothing but what it remembers.
func (w *town) start(n int) {
	w.t.Helper()
	w.lives[n]++
	c := testConfig(n)
	c.Profile, c.Incarnation, c.Cluster, c.Transport = w.profile, w.lives[n], testCluster(1), w.wire.end(n)
	if w.lives[n] == 1 && n > 0 {
		c.Peers = []string{wireAddress(0)}
	}
	w.mu.Lock()
	c.Remembered = w.remembered[n]
	w.mu.Unlock()
	c.Remember = func(addresses []string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.remembered[n] = addresses
	}
	g, err := Start(c)
	if err != nil {
		w.t.Fatal(err)
	}
	w.nodes[n] = g
	g.Found(testCluster(1))
	w.publish(n)
}

func (w *town) stop(n int) {
	w.t.Helper()
	if w.nodes[n] == nil {
		return
	}
	if err := w.nodes[n].Close(); err != nil {
		w.t.Fatal(err)
	}
	w.nodes[n] = nil
}

func (w *town) stopAll() {
	for n := range w.nodes {
		w.stop(n)
	}
	time.Sleep(time.Minute) // memberlist's last probes end by themselves, and time stops with the test
}

func (w *town) publish(n int) {
	list := make([]Replica, 0, len(w.lists[n]))
	for _, r := range w.lists[n] {
		list = append(list, r)
	}
	w.nodes[n].Publish(list)
}

// host gives node n a replica of a structure, with a role; role 0 takes it away.
func (w *town) host(n, structure int, role uint8) {
	if role == 0 {
		delete(w.lists[n], structure)
		return
	}
	w.lists[n][structure] = Replica{Group: testGroup(structure), ID: id.Replica(n + 1), Role: role}
}

// agree reports whether every running node of a side knows exactly what the
// others of it host, and which of them are alive.
func (w *town) agree(side func(int) bool) bool {
	heads := make(map[id.Node]version)
	replicas := 0
	for n, g := range w.nodes {
		if g == nil || !side(n) {
			continue
		}
		g.mu.RLock()
		heads[g.config.Node] = g.directory.own.version()
		g.mu.RUnlock()
		replicas += len(w.lists[n])
	}
	for n, g := range w.nodes {
		if g != nil && side(n) && !w.knows(g, heads, replicas) {
			return false
		}
	}
	return true
}

func (w *town) knows(g *Gossip, heads map[id.Node]version, replicas int) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	live := 0
	for node, h := range g.directory.nodes {
		head, runs := heads[node]
		if h.alive != runs || runs && (h.version() != head || h.behind() || h.previous != nil) {
			return false
		}
		if runs {
			live += h.current.live
		}
	}
	return live == replicas && len(g.directory.nodes) >= len(heads)
}

func everyone(int) bool { return true }

// until waits in virtual time, and tells how long it took.
func (w *town) until(limit time.Duration, what string, holds func() bool) time.Duration {
	w.t.Helper()
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		synctest.Wait()
		took := time.Since(begin)
		if holds() {
			return took
		}
		if took > limit {
			for n, g := range w.nodes {
				if g != nil {
					w.t.Logf("node %d: %+v", n, g.Stats())
				}
			}
			w.t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// sent is what all nodes have sent so far, and the most that one has.
func (w *town) sent() (all, most uint64) {
	w.wire.mu.Lock()
	defer w.wire.mu.Unlock()
	for _, e := range w.wire.ends {
		n := e.sent.Load()
		all, most = all+n, max(most, n)
	}
	return all, most
}

// perSecond measures what a node sends on average, and the one that sends most,
// in bytes per second, while f runs.
func (w *town) perSecond(f func()) (mean, worst float64) {
	before := make(map[string]uint64)
	w.wire.mu.Lock()
	for addr, e := range w.wire.ends {
		before[addr] = e.sent.Load()
	}
	w.wire.mu.Unlock()
	begin := time.Now()
	f()
	seconds := time.Since(begin).Seconds()
	w.wire.mu.Lock()
	defer w.wire.mu.Unlock()
	for addr, e := range w.wire.ends {
		rate := float64(e.sent.Load()-before[addr]) / seconds
		mean += rate / float64(len(w.wire.ends))
		worst = max(worst, rate)
	}
	return mean, worst
}
