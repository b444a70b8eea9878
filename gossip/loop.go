package gossip

import (
	"errors"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/hashicorp/memberlist"
)

const (
	maxQueued    = 1024                // broadcasts that wait for packets; the most often sent go first
	maxRelaySize = maxDeltaBytes + 128 // a newer version may write slightly larger deltas
	maxWantsOut  = 8                   // requests made at a time
)

// run is the one goroutine that takes in what memberlist's callbacks bring.
func (g *Gossip) run() {
	defer g.owned.Done()
	tick := time.NewTicker(g.timing.tick)
	defer tick.Stop()
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-g.inbox.kick:
			g.digest(g.inbox.take())
		case <-tick.C:
			g.expire()
			g.remind(time.Now())
		}
		g.ask()
	}
}

// digest takes in what came: nodes first, since messages of strangers are ignored.
func (g *Gossip) digest(c contents) {
	g.counters.dropped.Add(c.dropped)
	for who, why := range c.refusals {
		if g.contacts.firstRefusal(who, why, time.Now()) {
			g.log.Warn("refusing a node", "peer", who, "error", why)
		}
	}
	for _, e := range c.events {
		g.takeEvent(e)
	}
	if len(c.events) > 0 {
		g.contacts.addressesChanged()
	}
	for _, b := range c.messages {
		if err := g.takeMessage(b); err != nil {
			g.counters.malformed.Add(1)
			g.log.Debug("ignoring a gossip message", "bytes", len(b), "error", err)
		}
	}
}

// elapsed is the directory's time: nanoseconds since Start. The time of day may
// be set back, and what was asked for "a day from now" would not be asked again
// for a day.
func (g *Gossip) elapsed(now time.Time) int64 { return int64(now.Sub(g.since)) }

// takeEvent updates the members.
func (g *Gossip) takeEvent(e nodeEvent) {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	m, known := g.members[e.node]
	if !known {
		if !e.alive {
			return
		}
		m = &member{}
		g.members[e.node] = m
	}
	wasAlive, oldAddress := m.alive, m.address
	if !known || m.alive != e.alive {
		m.since = now
	}
	m.identity, m.address, m.alive = e.identity, e.address, e.alive
	if e.alive {
		if err := g.directory.setAlive(e.node, e.identity.incarnation, g.elapsed(now)); err != nil {
			g.counters.refused.Add(1)
		}
	} else {
		g.directory.setDead(e.node, g.elapsed(now))
	}
	g.contacts.moved(m, wasAlive, oldAddress, now)
	g.notifyLocked()
}

// takeMessage takes in one message of any kind. Its error says that the message
// is none of ours; everything else is counted.
func (g *Gossip) takeMessage(b []byte) error {
	kind, body, err := open(b)
	if err != nil {
		return err
	}
	switch kind {
	case kindHello:
		h, err := decodeHello(body)
		if err != nil {
			return err
		}
		if g.ours(h.cluster) {
			g.takeHello(h)
		}
	case kindDelta:
		cluster, u, err := decodeDelta(body)
		if err != nil {
			return err
		}
		if g.ours(cluster) {
			g.takeDelta(&u, b)
		}
	case kindWant:
		from, since, err := decodeWant(body)
		if err != nil {
			return err
		}
		if g.ours(from.cluster) {
			g.takeWant(from.node, since)
		}
	case kindPage:
		p, err := decodePage(body)
		if err != nil {
			return err
		}
		if g.ours(p.cluster) {
			g.takePage(&p)
		}
	default:
		return nil // a minor version may add kinds
	}
	return nil
}

// ours reports whether a message of that cluster is for us.
func (g *Gossip) ours(cluster id.Cluster) bool {
	mine := g.cluster()
	if cluster.IsZero() || mine.IsZero() {
		return false
	}
	if cluster != mine {
		g.counters.foreign.Add(1)
		return false
	}
	return true
}

func (g *Gossip) takeHello(h hello) {
	if h.node == g.config.Node {
		return
	}
	g.mu.Lock()
	stranger := g.directory.compare(h.node, h.vector, g.elapsed(time.Now()))
	g.mu.Unlock()
	if stranger && g.contacts.firstRefusal(h.node.String(), "stranger", time.Now()) {
		g.log.Error("a peer knows a later list of this node's replicas than this node ever published: "+
			"another process uses this node's ID, or its data directory was set back", "peer", h.node)
	}
}

func (g *Gossip) takeDelta(u *update, raw []byte) {
	g.counters.deltasReceived.Add(1)
	if out := g.apply(u); out.fresh && len(raw) <= maxRelaySize {
		g.broadcast(u, raw)
	}
}

func (g *Gossip) takePage(p *page) {
	g.counters.pagesReceived.Add(1)
	for i := range p.updates {
		g.apply(&p.updates[i])
	}
	if p.last {
		g.mu.Lock()
		g.directory.answeredBy(p.node, p.updates)
		g.mu.Unlock()
	}
}

func (g *Gossip) apply(u *update) outcome {
	g.mu.Lock()
	out, err := g.directory.apply(u, g.elapsed(time.Now()))
	if out.changed {
		g.notifyLocked()
	}
	g.mu.Unlock()
	if errors.Is(err, ErrTooMany) {
		g.counters.refused.Add(1)
		g.log.Debug("refusing an update", "error", err)
	}
	return out
}

// takeWant has a sender answer, unless an answer to the same node is under way.
func (g *Gossip) takeWant(from id.Node, since []version) {
	g.counters.wantsReceived.Add(1)
	g.mu.Lock()
	m := g.members[from]
	if m == nil || !m.alive || g.answering[from] {
		g.mu.Unlock()
		return
	}
	g.answering[from] = true
	j := job{to: m.target(from), since: since, answer: true}
	g.mu.Unlock()
	if !g.enqueue(j) {
		g.answered(from)
	}
}

func (g *Gossip) answered(node id.Node) {
	g.mu.Lock()
	delete(g.answering, node)
	g.mu.Unlock()
}

// ask sends the requests that are due.
func (g *Gossip) ask() {
	if g.cluster().IsZero() {
		return
	}
	g.mu.Lock()
	requests := g.directory.wants(g.elapsed(time.Now()), int64(g.timing.retry), int64(g.timing.settle), min(maxWantsOut, maxJobs-len(g.jobs)))
	jobs := make([]job, 0, len(requests))
	for _, w := range requests {
		if m := g.members[w.from]; m != nil {
			jobs = append(jobs, job{to: m.target(w.from), since: w.since})
		}
	}
	g.mu.Unlock()
	for _, j := range jobs {
		g.enqueue(j)
	}
}

// expire forgets what has been gone for long enough.
func (g *Gossip) expire() {
	now := time.Now()
	g.mu.Lock()
	forgotten, changed := g.directory.expire(g.elapsed(now), int64(g.timing.keep))
	for _, node := range forgotten {
		delete(g.members, node)
	}
	if changed {
		g.notifyLocked()
	}
	g.mu.Unlock()
	g.contacts.expire(now, g.timing.forget)
}

// broadcast queues a delta, new or relayed, for memberlist's packets. b is kept.
func (g *Gossip) broadcast(u *update, b []byte) {
	if u.from == u.to {
		g.queue.QueueBroadcast(headBroadcast{deltaBroadcast{b}, "head " + u.node.String()})
	} else {
		g.queue.QueueBroadcast(deltaBroadcast{b})
	}
	g.counters.deltasSent.Add(1)
	// Prune may only be called on a queue that was used, which it is by now.
	if n := g.queue.NumQueued(); n > maxQueued {
		g.queue.Prune(maxQueued)
		g.counters.dropped.Add(uint64(n - maxQueued))
	}
}

// deltaBroadcast is told as often as it takes, whatever else is queued.
type deltaBroadcast struct{ b []byte }

func (deltaBroadcast) Invalidates(memberlist.Broadcast) bool { return false }
func (d deltaBroadcast) Message() []byte                     { return d.b }
func (deltaBroadcast) Finished()                             {}
func (deltaBroadcast) UniqueBroadcast()                      {}

// headBroadcast replaces an older one of the same node.
type headBroadcast struct {
	deltaBroadcast
	name string
}

func (h headBroadcast) Name() string { return h.name }
