package gossip

import (
	"net/netip"
	"sync"

	"github.com/copycat-replication/copycat/id"
)

const (
	maxInboxMessages = 1024
	maxInboxBytes    = 8 << 20
	maxRefusals      = 256
)

// nodeEvent is the newest thing that memberlist said of a node.
type nodeEvent struct {
	node     id.Node
	alive    bool
	identity identity
	address  netip.AddrPort
}

// inbox takes what memberlist's callbacks bring to the loop. The callbacks run
// in memberlist's goroutines, the events even under its lock: they copy, put in
// and return. Messages beyond the bounds are dropped, since anti-entropy brings
// them again. Of events the newest per node is kept, so that none is lost; their
// number is bounded by the number of nodes that NotifyAlive lets in.
type inbox struct {
	kick chan struct{} // capacity 1

	mu       sync.Mutex
	messages [][]byte
	bytes    int
	events   map[id.Node]nodeEvent
	refusals map[string]string // who was refused by NotifyAlive or NotifyMerge, and why
	dropped  uint64
}

func newInbox() *inbox {
	return &inbox{kick: make(chan struct{}, 1), events: make(map[id.Node]nodeEvent), refusals: make(map[string]string)}
}

func (in *inbox) wake() {
	select {
	case in.kick <- struct{}{}:
	default:
	}
}

// putMessage copies b.
func (in *inbox) putMessage(b []byte) {
	in.mu.Lock()
	if len(in.messages) >= maxInboxMessages || in.bytes+len(b) > maxInboxBytes || len(b) > maxMessageBytes {
		in.dropped++
	} else {
		in.messages = append(in.messages, append([]byte(nil), b...))
		in.bytes += len(b)
	}
	in.mu.Unlock()
	in.wake()
}

func (in *inbox) putEvent(e nodeEvent) {
	in.mu.Lock()
	in.events[e.node] = e
	in.mu.Unlock()
	in.wake()
}

// putRefusal notes a refused node, to be logged once.
func (in *inbox) putRefusal(who, why string) {
	in.mu.Lock()
	_, known := in.refusals[who]
	if known || len(in.refusals) < maxRefusals {
		in.refusals[who] = why
	}
	in.mu.Unlock()
	in.wake()
}

// contents is what take hands over.
type contents struct {
	messages [][]byte
	events   map[id.Node]nodeEvent
	refusals map[string]string
	dropped  uint64
}

// take empties the inbox.
func (in *inbox) take() contents {
	in.mu.Lock()
	defer in.mu.Unlock()
	c := contents{in.messages, in.events, in.refusals, in.dropped}
	in.messages, in.bytes, in.dropped = nil, 0, 0
	if len(c.events) > 0 {
		in.events = make(map[id.Node]nodeEvent)
	} else {
		c.events = nil
	}
	if len(c.refusals) > 0 {
		in.refusals = make(map[string]string)
	} else {
		c.refusals = nil
	}
	return c
}
