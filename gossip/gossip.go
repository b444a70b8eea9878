package gossip

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/hashicorp/memberlist"
)

// Gossip is one node's end of the gossip: membership and the directory. Start
// makes it, Close ends it. All methods are safe for concurrent use.
type Gossip struct {
	config  Config
	timing  timing
	name    string // in memberlist: the text of the node ID
	host    string // for others' transport to us
	address netip.AddrPort
	since   time.Time
	log     *slog.Logger
	adapter *logAdapter
	network memberlist.NodeAwareTransport
	list    *memberlist.Memberlist
	queue   *memberlist.TransmitLimitedQueue
	inbox   *inbox
	jobs    chan job

	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	owned    sync.WaitGroup // every goroutine of ours, and callers inside
	leaving  sync.WaitGroup // Leave's goroutine
	contacts contacts
	counters counters
	reminded time.Time // when peers were last reminded; of the loop's goroutine

	membership atomic.Pointer[id.Cluster] // zero: looking
	departing  atomic.Bool                // what meta says of leaving
	meta       atomic.Pointer[[]byte]     // encoded identity, replaced with membership and leaving

	// identityMu orders changes of membership, leaving and meta. It is held
	// over nothing else.
	identityMu sync.Mutex
	farewell   bool // set for good by Leave
	intends    bool // to leave: set by SetLeaving

	// mu guards what follows. Nothing is called under it but the directory.
	mu        sync.RWMutex
	directory *directory
	members   map[id.Node]*member // self is not in it
	changed   chan struct{}
	changes   uint64
	answering map[id.Node]bool // askers whose answer is queued or being sent
	left      bool
	closed    bool
	done      chan struct{} // closed when Close has finished
}

// member is a node that memberlist has told of.
type member struct {
	identity identity
	address  netip.AddrPort
	alive    bool
	since    time.Time
}

type counters struct {
	deltasSent, deltasReceived, reminders, wantsSent, wantsReceived, pagesSent, pagesReceived, bytesSent atomic.Uint64
	sendFailures, malformed, foreign, dropped, refused, contacts                                         atomic.Uint64
}

// cluster is the cluster this node is in, zero while it looks for one.
func (g *Gossip) cluster() id.Cluster { return *g.membership.Load() }

// setIdentity changes what this node says of itself. The caller has memberlist
// advertise it.
func (g *Gossip) setIdentity(cluster id.Cluster, leaving bool) error {
	g.identityMu.Lock()
	defer g.identityMu.Unlock()
	c := &g.config
	g.farewell = g.farewell || leaving
	m := identity{
		cluster: cluster, incarnation: c.Incarnation, transportPort: c.TransportPort, host: c.AdvertiseHost,
		dataCenter: c.DataCenter, rack: c.Rack, capacity: c.Capacity, version: c.Version, leaving: g.farewell || g.intends,
	}
	b, err := m.encode()
	if err != nil {
		return err
	}
	g.departing.Store(m.leaving)
	g.membership.Store(&cluster)
	g.meta.Store(&b)
	return nil
}

// advertise has memberlist spread a changed identity. It waits at most timeout
// for a packet to take it; the word goes out later anyway.
func (g *Gossip) advertise(timeout time.Duration) {
	if err := g.list.UpdateNode(timeout); err != nil {
		g.log.Debug("advertising the changed identity", "error", err)
	}
}

// Found says that this node is a member of the cluster: because it starts it
// itself, or has been in it in an earlier run. It returns at once; from then on
// others are let in, and the peers given and remembered are looked up in the
// background. A node that is in a cluster stays in it: another one is refused
// and logged. Found and Join are not called at the same time.
func (g *Gossip) Found(cluster id.Cluster) {
	if cluster.IsZero() || !g.enter() {
		return
	}
	defer g.owned.Done()
	switch mine := g.cluster(); {
	case mine == cluster:
	case !mine.IsZero():
		g.log.Error("a member of one cluster cannot found another", "cluster", mine.String(), "other", cluster.String())
		return
	default:
		if err := g.setIdentity(cluster, false); err != nil {
			g.log.Error("identity does not fit", "error", err)
			return
		}
		g.advertise(time.Second)
	}
	g.contacts.wake()
}

// enter reports whether g is open, and if so keeps Close waiting until
// owned.Done.
func (g *Gossip) enter() bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed || g.left {
		return false
	}
	g.owned.Add(1)
	return true
}

// full reports whether a node that is not known yet would be one too many.
func (g *Gossip) full(node id.Node) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	_, known := g.members[node]
	return !known && len(g.members)+1 >= defaultLimits.nodes
}

// hello is this node's part of a push/pull.
func (g *Gossip) hello() []byte {
	g.mu.RLock()
	vector := g.directory.vector()
	g.mu.RUnlock()
	b, err := encodeHello(hello{sender{g.cluster(), g.config.Node}, g.config.Incarnation, vector})
	if err != nil {
		g.log.Error("encoding the gossip state", "error", err)
		return nil
	}
	return b
}

// Addr returns the host and the port at which others reach this node's gossip:
// the advertised host, and the port that was bound.
func (g *Gossip) Addr() (host string, port int) { return g.host, int(g.address.Port()) }

// Node returns what is known of a node, dead ones included for a while (see
// the package comment). Self is known and alive.
func (g *Gossip) Node(node id.Node) (Node, bool) {
	if node == g.config.Node {
		return g.self(), true
	}
	g.mu.RLock()
	defer g.mu.RUnlock()
	m, ok := g.members[node]
	if !ok {
		return Node{}, false
	}
	return m.node(node), true
}

// Nodes returns every known node of this cluster by ID, self included, and dead
// ones for a while. The slice is the caller's.
func (g *Gossip) Nodes() []Node {
	g.mu.RLock()
	nodes := make([]Node, 0, 1+len(g.members))
	for node, m := range g.members {
		nodes = append(nodes, m.node(node))
	}
	g.mu.RUnlock()
	nodes = append(nodes, g.self())
	slices.SortFunc(nodes, func(a, b Node) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return nodes
}

func (g *Gossip) self() Node {
	c := &g.config
	return Node{
		ID: c.Node, Incarnation: c.Incarnation, Address: g.address.String(),
		Transport:  net.JoinHostPort(g.host, strconv.Itoa(c.TransportPort)),
		DataCenter: c.DataCenter, Rack: c.Rack, Capacity: c.Capacity, Version: c.Version, Alive: true, Left: g.departing.Load(), Since: g.since,
	}
}

func (m *member) node(node id.Node) Node {
	host := m.identity.host
	if host == "" {
		host = m.address.Addr().String()
	}
	return Node{
		ID: node, Incarnation: m.identity.incarnation, Address: m.address.String(),
		Transport:  net.JoinHostPort(host, strconv.Itoa(m.identity.transportPort)),
		DataCenter: m.identity.dataCenter, Rack: m.identity.rack, Capacity: m.identity.capacity, Version: m.identity.version,
		Alive: m.alive, Left: m.identity.leaving, Since: m.since,
	}
}

// Publish makes replicas the list of what this node hosts: all of it, every
// time. Others hear of the difference. It does not block; replicas stay the
// caller's. More than 131,072 replicas are too many: then the list stays as it
// was, which is logged and counted in Stats.Refused.
func (g *Gossip) Publish(replicas []Replica) {
	g.mu.Lock()
	if g.closed || g.left {
		g.mu.Unlock()
		return
	}
	from, to, whole, err := g.directory.publish(replicas)
	if err != nil {
		g.mu.Unlock()
		g.counters.refused.Add(1)
		g.log.Error("publishing replicas", "error", err)
		return
	}
	var updates []update
	if to > from || whole {
		updates = g.directory.announce(from, to, whole)
		g.directory.own.movedAt = max(g.elapsed(time.Now()), 1)
		g.notifyLocked()
	}
	g.mu.Unlock()
	cluster := g.cluster()
	if cluster.IsZero() {
		return // whoever meets this node later asks for the list
	}
	for i := range updates {
		b, err := encodeDelta(cluster, &updates[i])
		if err != nil {
			g.log.Error("encoding a delta", "error", err)
			return
		}
		g.broadcast(&updates[i], b)
	}
}

// Holders returns who hosts replicas of s, as far as this node has heard: live
// nodes first, then the newest incarnation of the group first. A hint: any of
// it may be out of date. The slice is the caller's.
func (g *Gossip) Holders(s id.Structure) []Holding {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.directory.holders(s)
}

// Rebuilt lists the structures, in order, of which some node has said that it
// hosts a replica with a recovery number: groups that were rebuilt. They are few,
// and to list them costs nothing for the others. A hint, like Holders. The slice
// is the caller's.
func (g *Gossip) Rebuilt() []id.Structure {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return inStructureOrder(maps.Keys(g.directory.rebuilt))
}

func inStructureOrder(structures iter.Seq[id.Structure]) []id.Structure {
	return slices.SortedFunc(structures, func(a, b id.Structure) int { return bytes.Compare(a[:], b[:]) })
}

// Changed returns a channel that is closed at the next change of the nodes or
// of the directory. To miss nothing, take the channel first, then look, then
// wait. After Close nothing changes any more.
func (g *Gossip) Changed() <-chan struct{} {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.changed
}

// notifyLocked fires Changed. The caller holds mu.
func (g *Gossip) notifyLocked() {
	g.changes++
	close(g.changed)
	g.changed = make(chan struct{})
}

// Stats returns counters.
func (g *Gossip) Stats() Stats {
	c := &g.counters
	s := Stats{
		DeltasSent: c.deltasSent.Load(), DeltasReceived: c.deltasReceived.Load(), Reminders: c.reminders.Load(), WantsSent: c.wantsSent.Load(),
		WantsReceived: c.wantsReceived.Load(), PagesSent: c.pagesSent.Load(), PagesReceived: c.pagesReceived.Load(),
		BytesSent: c.bytesSent.Load(), SendFailures: c.sendFailures.Load(), Malformed: c.malformed.Load(),
		Foreign: c.foreign.Load(), Dropped: c.dropped.Load(), Refused: c.refused.Load(), Contacts: c.contacts.Load(),
		Queued: g.queue.NumQueued(), Health: g.list.GetHealthScore(),
	}
	g.mu.RLock()
	defer g.mu.RUnlock()
	s.Nodes, s.Alive, s.Replicas, s.Changes = 1+len(g.members), 1, g.directory.live, g.changes
	for _, m := range g.members {
		if m.alive {
			s.Alive++
		}
	}
	for _, h := range g.directory.nodes {
		if h.behind() {
			s.Behind++
		}
	}
	return s
}

// SetLeaving has this node say that it is about to leave in order (Node.Left),
// while it goes on to take part in everything; false takes that back. It waits
// for at most a second until a packet takes the word.
func (g *Gossip) SetLeaving(leaving bool) {
	if !g.enter() {
		return
	}
	defer g.owned.Done()
	g.identityMu.Lock()
	g.intends = leaving
	g.identityMu.Unlock()
	if err := g.setIdentity(g.cluster(), false); err != nil {
		g.log.Error("identity does not fit", "error", err)
		return
	}
	g.mu.Lock()
	g.notifyLocked() // self has changed
	g.mu.Unlock()
	g.advertise(time.Second)
}

// Leave tells the others that this node leaves in order, and returns when a
// packet has taken the word, or ctx or a few seconds are over. After that the
// node takes part in nothing; Close is still needed.
func (g *Gossip) Leave(ctx context.Context) error {
	g.mu.Lock()
	if g.closed || g.left {
		g.mu.Unlock()
		return fmt.Errorf("leaving: %w", ErrClosed)
	}
	g.left = true
	g.leaving.Add(1)
	g.mu.Unlock()
	result := make(chan error, 1)
	go func() {
		defer g.leaving.Done()
		if err := g.setIdentity(g.cluster(), true); err == nil {
			g.advertise(g.timing.leave / 2)
		}
		result <- g.list.Leave(g.timing.leave)
	}()
	select {
	case err := <-result:
		if err != nil {
			return fmt.Errorf("leaving: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("leaving: %w", context.Cause(ctx))
	}
}

// Close stops without leaving, as a restart does: the others notice by
// themselves. When it returns, all goroutines of this package have ended and
// the port is free; a probe or two of memberlist's own may take until its probe
// interval is over, and touch nothing any more. Every call returns then, also
// of those that come second.
func (g *Gossip) Close() error {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		<-g.done
		return nil
	}
	g.closed = true
	g.mu.Unlock()
	g.adapter.quiet.Store(true)
	g.cancel()
	g.leaving.Wait()         // memberlist panics if it is left after it was shut down
	err := g.list.Shutdown() // ends the dials and streams of our goroutines, too
	g.owned.Wait()
	close(g.done)
	if err != nil {
		return fmt.Errorf("closing gossip: %w", err)
	}
	return nil
}
