package transport

import (
	"errors"
	"fmt"
	"net"
	"time"
)

// serve runs an inbound connection from the handshake to its end.
func (t *Transport) serve(raw net.Conn) {
	defer t.release(raw)
	c, who, err := t.accept(raw)
	if err == nil {
		err = t.serveAccepted(c)
	}
	if err != nil && t.ctx.Err() == nil {
		t.counters.refused.Add(1)
		t.warnRefused(raw, who, err)
	}
}

// warnRefused logs an inbound connection that was refused. What a stranger says
// of himself is logged, and does not count for how often: he could say something
// else each time.
func (t *Transport) warnRefused(raw net.Conn, who stranger, err error) {
	if errors.Is(err, ErrNotReady) {
		return // it passes
	}
	kind := 0
	for code, reason := range refusalReasons {
		if reason != nil && errors.Is(err, reason) {
			kind = code
			break
		}
	}
	args := []any{"remote", raw.RemoteAddr(), "error", err}
	if !who.node.IsZero() {
		args = append(args, "node", who.node, "for", who.purpose)
	}
	t.notices.warn(t.log, fmt.Sprint("accept ", kind, " ", hostPart(raw.RemoteAddr())), "connection refused", args...)
}

// serveAccepted runs a connection whose handshake succeeded. An error means
// that it was refused after all; what goes wrong later is reported here.
func (t *Transport) serveAccepted(c *conn) error {
	p, err := t.ensurePeer(c.peer.node)
	if err != nil {
		return err
	}
	if err := p.met(c.peer); err != nil {
		return err
	}
	p.reachable()
	made := time.Now()
	l := p.attach(c, true)
	if p.notStale(c.peer) != nil {
		// A newer process came between met and attach: its links are not ours.
		p.detach(l)
		return nil
	}
	switch c.peer.purpose {
	case purposeMessages, purposeUrgent:
		err = p.receiveMessages(c)
	case purposeCalls:
		err = p.serveCalls(c)
	case purposeFetch:
		err = p.serveFetch(c)
	}
	if errors.Is(err, ErrMalformed) || errors.Is(err, ErrNewerVersion) {
		t.counters.malformed.Add(1)
		t.notices.warn(t.log, "frame "+p.node.String(), "connection closed",
			"node", p.node, "for", c.peer.purpose, "error", err)
	}
	if replaced := p.detach(l); replaced || c.peer.purpose == purposeFetch {
		return nil
	}
	p.endedInbound(made, err)
	if err != nil {
		p.lost(c.peer.incarnation, fmt.Errorf("%w: %s from node %s: %w", ErrPeerDown, c.peer.purpose, p.node, err), false)
	}
	return nil
}

// maxBatch is how many messages are handed to the handler at once.
const maxBatch = 1024

// receiveMessages hands the messages of one connection to the handler. nil
// means that the other side closed it because it was idle.
func (p *peer) receiveMessages(c *conn) error {
	t := p.t
	var batch []Message
	large := assembler{max: t.cfg.MaxFrame}
	c.patience = t.patience(c)
	for {
		f, err := c.next()
		if err != nil {
			return err
		}
		t.counters.bytesReceived.Add(uint64(len(f.body) + frameHeader))
		switch f.kind {
		case frameMessages:
			batch, err = p.handMessages(f.body, batch)
		case framePiece:
			err = large.first(f.body)
		case framePieceMore:
			var m Message
			var whole bool
			if m, whole, err = large.more(f.body); whole {
				batch = p.hand(append(batch, m))
			}
		case framePing:
			err = c.write(appendFrame(nil, framePong, f.body), t.cfg.StallTimeout)
		case frameBye:
			return nil
		default:
			err = fmt.Errorf("%w: frame of type %d where messages are due", ErrMalformed, f.kind)
		}
		if err != nil {
			return err
		}
	}
}

// handMessages hands the messages in a frame's body to the handler. batch is
// empty, and used again.
func (p *peer) handMessages(body []byte, batch []Message) ([]Message, error) {
	d := newMessageDecoder(body)
	for {
		var err error
		if batch, err = d.next(batch, maxBatch); len(batch) == 0 || err != nil {
			return batch[:0], err
		}
		batch = p.hand(batch)
	}
}

// hand hands a batch to the handler, and returns it empty.
func (p *peer) hand(batch []Message) []Message {
	p.t.counters.messagesReceived.Add(uint64(len(batch)))
	p.t.cfg.Handler.HandleMessages(p.node, batch)
	clear(batch)
	return batch[:0]
}

// patience is how long an inbound connection may be silent: the dialer closes
// it itself when it is idle, so one that is silent for longer has lost it.
func (t *Transport) patience(c *conn) time.Duration {
	return min(c.peer.idle, 24*time.Hour) + 2*t.cfg.StallTimeout
}
