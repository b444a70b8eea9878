package transport

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// outbox is one of the two streams of messages to a peer: the urgent ones have
// a connection of their own, so that they wait neither behind what the kernel
// has taken of the others nor for what a lossy line has to send again.
type outbox struct {
	peer    *peer
	purpose purpose

	// wake wakes the writer when it waits.
	wake chan struct{}
	// sending says that a writer exists; it changes under mu.
	sending atomic.Bool

	mu      sync.Mutex
	inbox   inbox
	sender  *sender // of the connection; nil: none stands
	busy    bool    // somebody owns the sender
	waiting bool    // the writer waits for wake, to be told of messages
	wanted  bool    // the writer waits for wake, to own the sender
	listed  bool    // in Transport.queued
}

func (o *outbox) init(p *peer, for_ purpose, limit int) {
	o.peer, o.purpose, o.inbox.limit = p, for_, limit
	o.wake = make(chan struct{}, 1)
}

// outbox returns the one that a message goes into.
func (p *peer) outbox(m *Message) *outbox {
	if m.Urgent {
		return &p.urgent
	}
	return &p.ordinary
}

// send puts m into the queue. later says that a Flush follows.
func (o *outbox) send(m Message, later bool) error {
	t := o.peer.t
	o.mu.Lock()
	if !o.sending.Load() {
		if err := o.peer.mayDial(); err != nil {
			o.mu.Unlock()
			return err
		}
		if !t.spawn(o.write) {
			o.mu.Unlock()
			return ErrClosed
		}
		o.sending.Store(true)
	}
	ok := o.inbox.push(m)
	later = later && o.inbox.bytes <= directBytes // more is worth a write, beside what the caller does
	if later && !o.listed {
		o.listed = true
		t.queuedMu.Lock()
		t.queued = append(t.queued, o)
		t.queuedMu.Unlock()
	}
	o.mu.Unlock()
	if !later {
		o.flush()
	}
	if !ok {
		t.counters.queueFull.Add(1)
		return ErrQueueFull
	}
	return nil
}

// write is the writer: it connects, packs what
// waits into one write after the other, and ends when the connection breaks or
// has been idle for long. What waits is dropped when the connection breaks:
// raft sends anew what matters, and does it better than a queue that is stale.
func (o *outbox) write() {
	p := o.peer
	c, err := p.t.dial(p.t.ctx, p, o.purpose)
	if err != nil {
		o.dropWaiting(0)
		p.dialFailed(err)
		return
	}
	started := time.Now()
	l := p.attach(c, false)
	s := &sender{out: o, conn: c, try: tryWrite(c), live: newLiveness(&p.t.cfg, started), broken: make(chan struct{})}
	c.live = s.live
	s.packer.piece = p.t.cfg.PieceBytes
	s.packer.compress = p.t.cfg.Compress != nil && p.t.cfg.Compress(p.node)
	ended := make(chan struct{})
	go func() { // ends when the connection is closed, which detach does
		defer close(ended)
		s.readPongs()
	}()
	o.stand(s)
	err = s.run()
	p.detach(l)
	<-ended
	p.ended(started, err)
	if err == nil {
		return // idle
	}
	if s.readErr != nil && !errors.Is(err, s.readErr) && !errors.Is(err, ErrStalled) {
		err = fmt.Errorf("%w (%w)", err, s.readErr)
	}
	o.dropWaiting(s.packer.left() + s.packer.packed)
	if p.t.ctx.Err() == nil {
		p.t.notices.warn(p.t.log, "broke "+p.node.String()+o.purpose.String(), "connection broke", "node", p.node, "for", o.purpose, "error", err)
	}
	p.lost(c.peer.incarnation, fmt.Errorf("%w: node %s: %w", ErrPeerDown, p.node, err), true)
}

// dropWaiting empties the inbox and lets the next Send start a new writer.
// left is what the writer had taken out already. The caller owns the sender, if
// there is one.
func (o *outbox) dropWaiting(left int) {
	o.mu.Lock()
	n := o.inbox.clear()
	o.sender, o.busy = nil, false
	o.sending.Store(false)
	o.mu.Unlock()
	o.peer.t.counters.messagesDropped.Add(uint64(n + left))
}
