package copycat

import (
	"sync"
	"time"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/raftgroup"
)

// EventKind says what an Event is about.
type EventKind = raftgroup.EventKind

// The kinds of events.
const (
	// EventLeaderChanged: a structure has another leader (Event.Node).
	EventLeaderChanged = raftgroup.EventLeaderChanged
	// EventReplicaLost: the leader, which is on this node, gives up the replica
	// on Event.Node, which is gone; it is to be replaced.
	EventReplicaLost = raftgroup.EventReplicaLost
	// EventReplicaReplaced: a replica on Event.ByNode has taken the place of the
	// one on Event.Node. Told on the leader's node.
	EventReplicaReplaced = raftgroup.EventReplicaReplaced
	// EventQuorumLost: the replica here has known no leader for several election
	// time-outs. As far as it can see, nothing is committed.
	EventQuorumLost = raftgroup.EventQuorumLost
	// EventQuorumRegained: there is a leader again (Event.Node).
	EventQuorumRegained = raftgroup.EventQuorumRegained
)

// Event is something that happened to a data structure, as this node's replica
// of it saw it. Each node that holds a replica tells of it.
type Event struct {
	Kind        EventKind
	Structure   ID
	Incarnation id.Incarnation
	Catalog     bool // it is CopyCat's own catalog
	At          time.Time
	Node        string // NodeID: the leader's, or that of the replica lost or replaced; empty if not known here
	ByNode      string // NodeID of the replacement
}

// EventSubscription hands out events. It never slows anything: when nobody
// reads, the oldest events are dropped, and counted. Its methods are safe for
// concurrent use.
type EventSubscription struct {
	// C hands out the events, oldest first. It is closed by Close and by the end
	// of the node.
	C <-chan Event

	bus *eventBus
	ch  chan Event

	mu      sync.Mutex // guards sending on ch, closing it, and the rest
	closed  bool
	dropped uint64
}

// Dropped is the number of events that were dropped because nobody read.
func (s *EventSubscription) Dropped() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

// Close ends the subscription and closes C; what waits there can still be
// received. Closing it again does nothing.
func (s *EventSubscription) Close() {
	s.bus.remove(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.ch)
	}
}

// publish queues an event, and drops the oldest one for it if need be. It does
// not block: only this sends, under the lock.
func (s *EventSubscription) publish(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.closed {
		select {
		case s.ch <- e:
			return
		default:
		}
		select {
		case <-s.ch:
			s.dropped++
		default: // somebody has read meanwhile
		}
	}
}

// eventBus gives each event to all who subscribe.
type eventBus struct {
	mu     sync.Mutex
	subs   map[*EventSubscription]struct{}
	closed bool
}

// maxEvents bounds the events that wait in one subscription.
const maxEvents = 65536

func (b *eventBus) add(buffer int) *EventSubscription {
	ch := make(chan Event, min(max(buffer, 1), maxEvents))
	s := &EventSubscription{C: ch, ch: ch, bus: b}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		s.closed = true
		close(ch)
		return s
	}
	if b.subs == nil {
		b.subs = make(map[*EventSubscription]struct{})
	}
	b.subs[s] = struct{}{}
	return s
}

func (b *eventBus) remove(s *EventSubscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.subs, s)
}

// all returns those who subscribe at present.
func (b *eventBus) all() []*EventSubscription {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]*EventSubscription, 0, len(b.subs))
	for s := range b.subs {
		out = append(out, s)
	}
	return out
}

// tell is the engine's observer; it must not block.
func (b *eventBus) tell(e raftgroup.Event) {
	subs := b.all()
	if len(subs) == 0 {
		return
	}
	out := Event{
		Kind: e.Kind, Structure: e.Group.Structure, Incarnation: e.Group.Incarnation, At: e.At,
		Catalog: e.Group.Structure == catalog.ID,
	}
	if !e.Node.IsZero() {
		out.Node = e.Node.String()
	}
	if !e.ByNode.IsZero() {
		out.ByNode = e.ByNode.String()
	}
	for _, s := range subs {
		s.publish(out)
	}
}

// close ends all subscriptions.
func (b *eventBus) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	for _, s := range b.all() {
		s.Close()
	}
}

// Events implements CopyCat.
func (n *node) Events(buffer int) *EventSubscription { return n.events.add(buffer) }
