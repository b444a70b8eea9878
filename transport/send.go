package transport

import (
	"fmt"

	"github.com/copycat-replication/copycat/id"
)

// Send queues m for the node, and never blocks. It takes ownership of the
// payload, and shares the parts. nil means that the message is on its way, not
// that it arrives: if the transport loses it, Handler.PeerDown follows. Any error means that
// nothing was queued: ErrQueueFull, ErrUnknownNode, ErrTooLarge, ErrBusy (too
// many peers), ErrClosed, or ErrPeerDown while the node is left alone after
// failed attempts. Messages to this node itself are ErrUnknownNode.
func (t *Transport) Send(to id.Node, m Message) error { return t.send(to, m, false) }

// Queue is Send for a caller that has more to say: the message may wait for the
// Flush with which the caller ends, so that all it said shares a write.
func (t *Transport) Queue(to id.Node, m Message) error { return t.send(to, m, true) }

func (t *Transport) send(to id.Node, m Message, later bool) error {
	size := m.size()
	if size > t.cfg.MaxFrame {
		return fmt.Errorf("%w: message of %d bytes of group %s to node %s", ErrTooLarge, size, m.Group, to)
	}
	if m.Urgent && size > t.cfg.PieceBytes {
		m.Urgent = false
	}
	p := t.findPeer(to)
	if p == nil || !p.outbox(&m).sending.Load() {
		var err error
		if p, err = t.locate(to); err != nil {
			return fmt.Errorf("send for group %s: %w", m.Group, err)
		}
	}
	if err := p.outbox(&m).send(m, later); err != nil {
		return fmt.Errorf("send for group %s to node %s: %w", m.Group, to, err)
	}
	return nil
}

// locate returns the peer of a node that can be resolved.
func (t *Transport) locate(to id.Node) (*peer, error) {
	if to == t.cfg.Node {
		return nil, fmt.Errorf("%w: %s is this node", ErrUnknownNode, to)
	}
	if _, ok := t.cfg.Resolve(to); !ok {
		return nil, fmt.Errorf("%w: %s", ErrUnknownNode, to)
	}
	return t.ensurePeer(to)
}

// Flush lets out what Queue keeps. What is little is written by the caller, if
// the socket takes it at once; the rest is left to the peers' writers. It never
// blocks.
func (t *Transport) Flush() {
	for {
		var some [8]*outbox
		t.queuedMu.Lock()
		n := copy(some[:], t.queued)
		rest := copy(t.queued, t.queued[n:])
		clear(t.queued[rest:])
		t.queued = t.queued[:rest]
		t.queuedMu.Unlock()
		for _, o := range some[:n] {
			o.mu.Lock()
			o.listed = false
			o.mu.Unlock()
			o.flush()
		}
		if rest == 0 {
			return
		}
	}
}
