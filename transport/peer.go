package transport

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// peer is another node, as this one knows it. It stays until it is forgotten;
// its goroutines and connections come and go with the traffic.
type peer struct {
	t    *Transport
	node id.Node

	urgent, ordinary outbox

	rtt  atomic.Int64 // nanoseconds, smoothed; zero: never measured
	used atomic.Int64 // when it was last looked up to be used, or lost a connection; Unix nanoseconds

	mu      sync.Mutex         // taken after that of an outbox
	backoff backoff            // of dials to it
	unrest  backoff            // of its dials to us
	links   map[*link]struct{} // connections that stand

	calls callers

	// order is held across PeerUp and PeerDown, and by nothing else, so that
	// the two come in the order in which things happened. Handlers must not
	// block in them, and no other lock is taken before it.
	order       sync.Mutex
	known, up   bool
	incarnation uint64 // the greatest heard of
	instance    uint64 // of the process that came as it; 0: it has not said
}

// link is a standing connection, as its peer knows it.
type link struct {
	c        *conn
	inbound  bool
	replaced bool          // by another of the same kind; under peer.mu
	done     chan struct{} // closed when nothing of it is handled any more
}

func newPeer(t *Transport, node id.Node) *peer {
	p := &peer{
		t:       t,
		node:    node,
		backoff: backoff{min: t.cfg.BackoffMin, max: t.cfg.BackoffMax},
		unrest:  backoff{min: t.cfg.BackoffMin, max: t.cfg.BackoffMax},
		links:   make(map[*link]struct{}),
	}
	p.ordinary.init(p, purposeMessages, t.cfg.QueueBytes)
	p.urgent.init(p, purposeUrgent, t.cfg.QueueBytes/4)
	return p
}

// mayDial returns nil, or why the peer is not to be dialed now.
func (p *peer) mayDial() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.backoff.allow(time.Now()); err != nil {
		return fmt.Errorf("node %s: %w", p.node, err)
	}
	return nil
}

// reachable notes a handshake that succeeded, in whichever direction.
func (p *peer) reachable() {
	p.mu.Lock()
	p.backoff.connected()
	p.mu.Unlock()
}

// unreachable notes that the peer could not be dialed.
func (p *peer) unreachable(err error) {
	chance := p.t.chance()
	p.mu.Lock()
	p.backoff.failed(time.Now(), err, chance)
	p.mu.Unlock()
}

// ended notes the end of a connection that was dialed from here; err is nil if
// nothing was wrong with it. One that did not outlive the longest wait between
// two attempts counts as one of them: or else a peer that accepts and breaks
// would be dialed without a pause.
func (p *peer) ended(made time.Time, err error) {
	now := time.Now()
	if err != nil && now.Sub(made) < p.t.cfg.BackoffMax {
		if p.t.ctx.Err() != nil {
			return
		}
		chance := p.t.chance()
		p.mu.Lock()
		p.backoff.broke(now, err, chance)
		p.mu.Unlock()
		return
	}
	p.mu.Lock()
	p.backoff.forgive()
	p.mu.Unlock()
}

// admit returns nil, or why a process that has proven to be the peer is not let in.
func (p *peer) admit(s stranger) error {
	p.order.Lock()
	err := p.notStaleLocked(s)
	newer := !p.known || s.incarnation > p.incarnation
	p.order.Unlock()
	if err != nil || newer || s.purpose == purposeFetch {
		return err
	}
	return p.mayCome()
}

// mayCome returns nil, or why the peer is not to be let in now: its connections
// break as soon as they are made, and each one costs every group a look.
func (p *peer) mayCome() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.unrest.allow(time.Now()); err != nil {
		return fmt.Errorf("%w: the connections of node %s break again and again: %w", ErrBusy, p.node, err)
	}
	return nil
}

// endedInbound is ended for a connection of messages or calls that the peer has made.
func (p *peer) endedInbound(made time.Time, err error) {
	now, chance := time.Now(), p.t.chance()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil && now.Sub(made) < p.t.cfg.BackoffMax {
		p.unrest.broke(now, err, chance)
	} else {
		p.unrest.forgive()
	}
}

// notStale returns ErrStaleIncarnation if a newer process of the node is known,
// or another one that came as the same.
func (p *peer) notStale(s stranger) error {
	p.order.Lock()
	defer p.order.Unlock()
	return p.notStaleLocked(s)
}

func (p *peer) notStaleLocked(s stranger) error {
	switch {
	case !p.known || s.incarnation > p.incarnation:
	case s.incarnation < p.incarnation:
		return fmt.Errorf("%w: node %s comes as %d, was %d already", ErrStaleIncarnation, p.node, s.incarnation, p.incarnation)
	case s.instance != 0 && p.instance != 0 && s.instance != p.instance:
		return fmt.Errorf("%w: two processes come as node %s and incarnation %d: a data directory was copied, or set back",
			ErrStaleIncarnation, p.node, s.incarnation)
	}
	return nil
}

// met notes a handshake that succeeded, and reports PeerUp if that is news. It
// returns when the report is through.
func (p *peer) met(s stranger) error {
	p.order.Lock()
	if err := p.notStaleLocked(s); err != nil {
		p.order.Unlock()
		return err
	}
	incarnation := s.incarnation
	newer := !p.known || incarnation > p.incarnation
	if newer || !p.up {
		p.known, p.up, p.incarnation = true, true, incarnation
		if newer {
			p.instance = 0
		}
		if p.t.ctx.Err() == nil {
			p.t.cfg.Handler.PeerUp(p.node, incarnation)
		}
	}
	if s.instance != 0 {
		p.instance = s.instance
	}
	p.order.Unlock()
	if newer {
		p.mu.Lock()
		p.backoff.forgive() // what an earlier process did is not this one's fault
		p.unrest.forgive()
		p.mu.Unlock()
		p.closeOlder(incarnation)
	}
	return nil
}

// lost reports PeerDown, if it is news that a connection with that incarnation
// broke. always says that messages were lost with it, which is always news.
func (p *peer) lost(incarnation uint64, err error, always bool) {
	p.order.Lock()
	defer p.order.Unlock()
	current := p.known && incarnation == p.incarnation
	if !always && !(current && p.up) {
		return
	}
	if p.t.ctx.Err() != nil {
		return
	}
	p.t.cfg.Handler.PeerDown(p.node, err)
	if current {
		p.up = false
	} else if p.up {
		// What was lost was meant for an earlier process; the later one is
		// well, and that is what the handler shall remember.
		p.t.cfg.Handler.PeerUp(p.node, p.incarnation)
	}
}

// dialFailed reports that messages were lost because no connection came about.
func (p *peer) dialFailed(err error) {
	p.order.Lock()
	defer p.order.Unlock()
	p.up = false
	if p.t.ctx.Err() == nil {
		p.t.cfg.Handler.PeerDown(p.node, err)
	}
}

// closeOlder closes the connections with earlier processes of the node.
func (p *peer) closeOlder(incarnation uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		if l.c.peer.incarnation < incarnation {
			closeQuietly(l.c.raw) // never blocks: not TLS's close, which writes
		}
	}
}

// attach registers a connection. An inbound one of messages or calls replaces
// the one before it, which the dialer must have given up. Messages wait until
// none of that one is handled any more, so that order holds across the two.
func (p *peer) attach(c *conn, inbound bool) *link {
	l := &link{c: c, inbound: inbound, done: make(chan struct{})}
	var olds []*link
	p.mu.Lock()
	for other := range p.links {
		if !inbound || !other.inbound || other.c.peer.purpose != c.peer.purpose || c.peer.purpose == purposeFetch {
			continue
		}
		other.replaced = true
		closeQuietly(other.c.raw)
		if c.peer.purpose == purposeMessages || c.peer.purpose == purposeUrgent {
			olds = append(olds, other)
		}
	}
	p.links[l] = struct{}{}
	p.mu.Unlock()
	for _, old := range olds {
		<-old.done
	}
	return l
}

// detach ends what attach began, and closes the connection. It reports whether
// another one has replaced it.
func (p *peer) detach(l *link) bool {
	p.t.release(l.c.raw)
	p.mu.Lock()
	delete(p.links, l)
	p.used.Store(time.Now().UnixNano())
	replaced := l.replaced
	p.mu.Unlock()
	close(l.done)
	return replaced
}

// restsSince reports whether nothing was done with the peer since then, and
// nothing is under way. It does not wait for locks: the caller holds the
// transport's, which others take under these; and a lock that is held is use.
func (p *peer) restsSince(then time.Time) bool {
	if p.used.Load() > then.UnixNano() || p.urgent.sending.Load() || p.ordinary.sending.Load() {
		return false
	}
	if !p.calls.mu.TryLock() {
		return false
	}
	defer p.calls.mu.Unlock()
	if p.calls.link != nil || p.calls.dialing != nil || !p.mu.TryLock() {
		return false
	}
	defer p.mu.Unlock()
	return len(p.links) == 0
}

// measured takes a round-trip time into the smoothed one.
func (p *peer) measured(rtt time.Duration) {
	for {
		old := p.rtt.Load()
		smooth := int64(max(rtt, 1))
		if old != 0 {
			smooth = old + (smooth-old)/4
		}
		if p.rtt.CompareAndSwap(old, max(smooth, 1)) {
			return
		}
	}
}

// RTT returns the smoothed round-trip time to a node, processing on the other
// side included. It is measured while messages or calls go there; false means
// that this has not happened yet.
func (t *Transport) RTT(node id.Node) (time.Duration, bool) {
	p := t.findPeer(node)
	if p == nil {
		return 0, false
	}
	rtt := time.Duration(p.rtt.Load())
	return rtt, rtt > 0
}
