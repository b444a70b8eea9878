package transport

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// A request's body: number of the call (8), method (2), milliseconds until the
// caller gives up or zero (4), request. A response's: number (8), then an
// outcome. A cancel's: number (8).
const (
	requestHead  = 14
	responseHead = 8
)

// An outcome, also the body of a stream's end: 0 and the answer, or 1, code
// (2) and text of the error.
const (
	outcomeFine   byte = 0
	outcomeFailed byte = 1
)

// appendFailure appends the outcome of an error.
func appendFailure(b []byte, e *RemoteError) []byte {
	text := e.Text
	if len(text) > maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText], "")
	}
	b = append(b, outcomeFailed)
	b = binary.LittleEndian.AppendUint16(b, e.Code)
	return append(b, text...)
}

// parseOutcome returns the answer, or the error that travelled, or ErrMalformed.
func parseOutcome(b []byte) ([]byte, error) {
	d := decoder{rest: b}
	switch status := d.byte(); {
	case d.failed:
	case status == outcomeFine:
		return d.rest, nil
	case status == outcomeFailed:
		code := d.uint16()
		if !d.failed {
			return nil, &RemoteError{Code: code, Text: string(d.rest)}
		}
	}
	return nil, fmt.Errorf("%w: outcome of %d bytes", ErrMalformed, len(b))
}

// Call asks a node and waits for the answer, which then belongs to the caller.
// The request may be used again when Call returns. A *RemoteError is the
// handler's (or ErrBusy, ErrTooLarge: see the codes). With any other error,
// the end of ctx included, the handler may or may not have run, except with
// ErrUnknownNode, ErrQueueFull, and an ErrTooLarge that is no *RemoteError:
// then it has not. Calls to this node itself run the handler directly.
func (t *Transport) Call(ctx context.Context, to id.Node, method uint16, request []byte) ([]byte, error) {
	answer, err := t.call(ctx, to, method, request)
	if err != nil {
		return nil, fmt.Errorf("call %d to node %s: %w", method, to, err)
	}
	return answer, nil
}

func (t *Transport) call(ctx context.Context, to id.Node, method uint16, request []byte) ([]byte, error) {
	if len(request) > t.cfg.MaxFrame {
		return nil, fmt.Errorf("%w: request of %d bytes", ErrTooLarge, len(request))
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if to == t.cfg.Node {
		return t.callSelf(ctx, method, request)
	}
	p, err := t.locate(to)
	if err != nil {
		return nil, err
	}
	for {
		l, err := p.calls.connect(ctx, p)
		if err != nil {
			return nil, err
		}
		number, answer, err := l.submit(ctx, method, request)
		if err == errLinkIdle {
			p.calls.forget(l) // it closed at this very moment
			continue
		}
		if err != nil {
			return nil, err
		}
		select {
		case r := <-answer:
			return r.answer, r.err
		case <-ctx.Done():
			l.abandon(number)
			return nil, ctx.Err()
		}
	}
}

// callers holds the connection for one peer's outgoing calls.
type callers struct {
	mu      sync.Mutex
	link    *callLink
	dialing *dialing
}

// dialing is an attempt to connect that several callers wait for.
type dialing struct {
	done chan struct{}
	link *callLink
	err  error
}

// connect returns the connection for calls, and makes it if there is none. The
// attempt outlives the caller who began it: others may wait for it as well.
func (s *callers) connect(ctx context.Context, p *peer) (*callLink, error) {
	s.mu.Lock()
	if s.link != nil {
		defer s.mu.Unlock()
		return s.link, nil
	}
	d := s.dialing
	if d == nil {
		d = &dialing{done: make(chan struct{})}
		if !p.t.spawn(func() { s.dial(p, d) }) {
			s.mu.Unlock()
			return nil, ErrClosed
		}
		s.dialing = d
	}
	s.mu.Unlock()
	select {
	case <-d.done:
		return d.link, d.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// dial connects, and then stays as the connection's writer until it ends.
func (s *callers) dial(p *peer, d *dialing) {
	c, err := p.t.dial(p.t.ctx, p, purposeCalls)
	var l *callLink
	if err == nil {
		l = &callLink{
			peer: p, conn: c, live: newLiveness(&p.t.cfg, time.Now()),
			wake: make(chan struct{}, 1), broken: make(chan struct{}),
			pending: make(map[uint64]chan result),
		}
		c.live = l.live
	}
	s.mu.Lock()
	s.link, s.dialing = l, nil
	d.link, d.err = l, err
	s.mu.Unlock()
	close(d.done)
	if l != nil {
		l.serve()
	}
}

// forget makes the next call connect anew.
func (s *callers) forget(l *callLink) {
	s.mu.Lock()
	if s.link == l {
		s.link = nil
	}
	s.mu.Unlock()
}
