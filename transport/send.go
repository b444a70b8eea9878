package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

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
	if p == nil || !p.sending.Load() {
		var err error
		if p, err = t.locate(to); err != nil {
			return fmt.Errorf("send for group %s: %w", m.Group, err)
		}
	}
	if err := p.send(m, later); err != nil {
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
		var some [8]*peer
		t.queuedMu.Lock()
		n := copy(some[:], t.queued)
		rest := copy(t.queued, t.queued[n:])
		clear(t.queued[rest:])
		t.queued = t.queued[:rest]
		t.queuedMu.Unlock()
		for _, p := range some[:n] {
			p.mu.Lock()
			p.listed = false
			p.mu.Unlock()
			p.flush()
		}
		if rest == 0 {
			return
		}
	}
}

// send puts m into the queue. later says that a Flush follows.
func (p *peer) send(m Message, later bool) error {
	p.mu.Lock()
	if !p.sending.Load() {
		if err := p.backoff.allow(time.Now()); err != nil {
			p.mu.Unlock()
			return err
		}
		if !p.t.spawn(p.sendMessages) {
			p.mu.Unlock()
			return ErrClosed
		}
		p.sending.Store(true)
	}
	ok := p.inbox.push(m)
	later = later && p.inbox.bytes() <= directBytes // more is worth a write, beside what the caller does
	if later && !p.listed {
		p.listed = true
		p.t.queuedMu.Lock()
		p.t.queued = append(p.t.queued, p)
		p.t.queuedMu.Unlock()
	}
	p.mu.Unlock()
	if !later {
		p.flush()
	}
	if !ok {
		p.t.counters.queueFull.Add(1)
		return ErrQueueFull
	}
	return nil
}

// sendMessages is the writer of one peer's messages: it connects, packs what
// waits into one write after the other, and ends when the connection breaks or
// has been idle for long. What waits is dropped when the connection breaks:
// raft sends anew what matters, and does it better than a queue that is stale.
func (p *peer) sendMessages() {
	c, err := p.t.dial(p.t.ctx, p, purposeMessages)
	if err != nil {
		p.dropWaiting(0)
		p.dialFailed(err)
		return
	}
	started := time.Now()
	l := p.attach(c, false)
	s := &sender{peer: p, conn: c, try: tryWrite(c), live: newLiveness(&p.t.cfg, started), broken: make(chan struct{})}
	c.live = s.live
	s.packer.piece = p.t.cfg.PieceBytes
	s.packer.compress = p.t.cfg.Compress != nil && p.t.cfg.Compress(p.node)
	ended := make(chan struct{})
	go func() { // ends when the connection is closed, which detach does
		defer close(ended)
		s.readPongs()
	}()
	p.stand(s)
	err = s.run()
	p.detach(l)
	<-ended
	if err == nil {
		return // idle
	}
	if s.readErr != nil && !errors.Is(err, s.readErr) && !errors.Is(err, ErrStalled) {
		err = fmt.Errorf("%w (%w)", err, s.readErr)
	}
	if p.t.ctx.Err() == nil && time.Since(started) < p.t.cfg.BackoffMax {
		// It accepts and breaks: do not try again without a pause.
		p.unreachable(err)
	}
	p.dropWaiting(s.packer.left() + s.packer.packed)
	if p.t.ctx.Err() == nil {
		p.t.notices.warn(p.t.log, "broke "+p.node.String(), "connection for messages broke", "node", p.node, "error", err)
	}
	p.lost(c.peer.incarnation, fmt.Errorf("%w: node %s: %w", ErrPeerDown, p.node, err), true)
}

// dropWaiting empties the inbox and lets the next Send start a new writer.
// left is what the writer had taken out already. The caller owns the sender, if
// there is one.
func (p *peer) dropWaiting(left int) {
	p.mu.Lock()
	n := p.inbox.clear()
	p.sender, p.busy = nil, false
	p.sending.Store(false)
	p.mu.Unlock()
	p.t.counters.messagesDropped.Add(uint64(n + left))
}

// left counts the messages in the packer that were not packed.
func (p *packer) left() int {
	n := len(p.urgent.list) - p.urgent.next + len(p.ordinary.list) - p.ordinary.next + len(p.held)
	if p.active {
		n++
	}
	return n
}

// bye tells the other side that this is no accident. If it cannot be told, it
// learns of a connection that broke, which costs it a needless PeerDown.
func (s *sender) bye() error {
	if err := s.conn.write(appendFrame(nil, frameBye), s.peer.t.cfg.StallTimeout); err != nil {
		s.peer.t.log.Debug("goodbye not sent", "node", s.peer.node, "error", err)
	}
	return nil
}

// readPongs reads the answers to pings, and finds out early when the
// connection breaks.
func (s *sender) readPongs() {
	defer close(s.broken)
	for {
		f, err := s.conn.next()
		if err == nil && (f.kind != framePong || len(f.body) != 8) {
			err = fmt.Errorf("%w: frame of type %d, %d bytes, where pongs are due", ErrMalformed, f.kind, len(f.body))
			s.peer.t.counters.malformed.Add(1)
		}
		if err != nil {
			s.readErr = err
			return
		}
		if rtt, ok := s.live.pong(time.Now(), binary.LittleEndian.Uint64(f.body)); ok {
			s.peer.measured(rtt)
			s.peer.rouse() // it waits for another time now
		}
	}
}
