package transport

import (
	"context"
	"encoding/binary"
	"errors"
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

// errLinkIdle says that a connection was closed for want of use. It stays
// inside the package.
var errLinkIdle = errors.New("idle connection closed")

type result struct {
	answer []byte
	err    error
}

// callLink is the caller's end of a connection for calls.
type callLink struct {
	peer *peer
	conn *conn
	live *liveness
	wake chan struct{}

	broken  chan struct{} // closed when reading fails, readErr set
	readErr error

	mu      sync.Mutex
	err     error    // set when the link has ended
	queue   [][]byte // frames to write
	queued  int      // their bytes
	number  uint64
	pending map[uint64]chan result // each has room for its one result
}

// submit queues a request. The channel brings its result, unless it is
// abandoned.
func (l *callLink) submit(ctx context.Context, method uint16, request []byte) (uint64, <-chan result, error) {
	var head [requestHead]byte
	binary.LittleEndian.PutUint16(head[8:], method)
	if deadline, ok := ctx.Deadline(); ok {
		left := min(max(time.Until(deadline).Milliseconds(), 1), 1<<31)
		binary.LittleEndian.PutUint32(head[10:], uint32(left))
	}
	size := frameHeader + requestHead + len(request)
	answer := make(chan result, 1)
	l.mu.Lock()
	if l.err != nil {
		defer l.mu.Unlock()
		return 0, nil, l.err
	}
	if l.queued+size > l.peer.t.cfg.QueueBytes && l.queued > 0 {
		defer l.mu.Unlock()
		l.peer.t.counters.queueFull.Add(1)
		return 0, nil, fmt.Errorf("%w: %d bytes of calls wait", ErrQueueFull, l.queued)
	}
	l.number++
	number := l.number
	l.queued += size // before the copy, which needs no lock
	l.pending[number] = answer
	l.mu.Unlock()

	binary.LittleEndian.PutUint64(head[:], number)
	f := appendFrame(make([]byte, 0, size), frameRequest, head[:], request)
	l.enqueue(f)
	return number, answer, nil
}

// enqueue hands a frame to the writer. Its size is counted already.
func (l *callLink) enqueue(f []byte) {
	l.mu.Lock()
	l.queue = append(l.queue, f)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// abandon forgets a call and tells the other side.
func (l *callLink) abandon(number uint64) {
	l.mu.Lock()
	_, waits := l.pending[number]
	delete(l.pending, number)
	const size = frameHeader + 8
	if !waits || l.err != nil {
		l.mu.Unlock()
		return
	}
	l.queued += size
	l.mu.Unlock()
	l.enqueue(appendFrame(make([]byte, 0, size), frameCancel, binary.LittleEndian.AppendUint64(nil, number)))
}

// serve runs the link until it is idle or breaks, and then fails what waits.
func (l *callLink) serve() {
	p := l.peer
	registered := p.attach(l.conn, false)
	ended := make(chan struct{})
	go func() { // ends when the connection is closed, which detach does
		defer close(ended)
		l.readResponses()
	}()
	err := l.write()
	p.detach(registered)
	<-ended
	p.calls.forget(l)
	if err == errLinkIdle {
		return
	}
	if l.readErr != nil && !errors.Is(err, l.readErr) && !errors.Is(err, ErrStalled) {
		err = fmt.Errorf("%w (%w)", err, l.readErr)
	}
	err = fmt.Errorf("%w: node %s: %w", ErrPeerDown, p.node, err)
	if p.t.ctx.Err() != nil {
		err = ErrClosed
	}
	l.mu.Lock()
	l.err = err
	pending := l.pending
	l.pending, l.queue, l.queued = nil, nil, 0
	l.mu.Unlock()
	for _, answer := range pending {
		answer <- result{err: err}
	}
	p.lost(l.conn.peer.incarnation, err, false)
}

// write is the writer. It returns errLinkIdle when the link was not used for
// long, after it has made sure that nobody else will.
func (l *callLink) write() error {
	t := l.peer.t
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var buf []byte
	for {
		now := time.Now()
		frames, busy := l.take()
		verdict, number := l.live.check(now, busy)
		buf = buf[:0]
		switch verdict {
		case giveUp:
			return fmt.Errorf("%w: no answer for %s", ErrStalled, t.cfg.StallTimeout)
		case shutIdle:
			if l.endIfIdle() {
				if err := l.conn.write(appendFrame(buf, frameBye), t.cfg.StallTimeout); err != nil {
					t.log.Debug("goodbye not sent", "node", l.peer.node, "error", err)
				}
				return errLinkIdle
			}
		case sendPing:
			buf = appendFrame(buf, framePing, binary.LittleEndian.AppendUint64(nil, number))
		}
		if len(buf) == 0 && len(frames) == 0 {
			timer.Reset(l.live.wait(now, busy))
			select {
			case <-l.wake:
			case <-timer.C:
			case <-l.broken:
				return l.readErr
			case <-t.ctx.Done():
				return ErrClosed
			}
			continue
		}
		if err := l.writeFrames(&buf, frames); err != nil {
			return err
		}
	}
}

// writeFrames writes what is in buf, and the frames: small ones together,
// large ones as they are.
func (l *callLink) writeFrames(buf *[]byte, frames [][]byte) error {
	stall := l.peer.t.cfg.StallTimeout
	written := 0
	for i, f := range frames {
		frames[i] = nil
		written += len(f)
		if len(*buf)+len(f) <= keepBuffer {
			*buf = append(*buf, f...)
			continue
		}
		if err := l.conn.write(*buf, stall); err != nil {
			return err
		}
		*buf = (*buf)[:0]
		if err := l.conn.write(f, stall); err != nil {
			return err
		}
	}
	if err := l.conn.write(*buf, stall); err != nil {
		return err
	}
	l.mu.Lock()
	l.queued -= written
	l.mu.Unlock()
	return nil
}

// take takes the frames to write, and tells whether answers are waited for.
func (l *callLink) take() ([][]byte, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	frames := l.queue
	l.queue = nil
	return frames, len(l.pending) > 0
}

// endIfIdle ends the link unless somebody has begun a call.
func (l *callLink) endIfIdle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pending) > 0 || l.queued > 0 {
		return false
	}
	l.err = errLinkIdle
	return true
}

// readResponses hands answers to those who wait.
func (l *callLink) readResponses() {
	defer close(l.broken)
	for {
		f, err := l.conn.next()
		if err == nil {
			err = l.handle(f)
			if err != nil {
				l.peer.t.counters.malformed.Add(1)
			}
		}
		if err != nil {
			l.readErr = err
			return
		}
	}
}

func (l *callLink) handle(f frame) error {
	d := decoder{rest: f.body}
	number := d.uint64()
	switch {
	case d.failed || f.kind != frameResponse && f.kind != framePong:
		return fmt.Errorf("%w: frame of type %d, %d bytes, where responses are due", ErrMalformed, f.kind, len(f.body))
	case f.kind == framePong:
		if rtt, ok := l.live.pong(time.Now(), number); ok {
			l.peer.measured(rtt)
		}
		return nil
	}
	answer, err := parseOutcome(d.rest)
	if errors.Is(err, ErrMalformed) {
		return err
	}
	l.mu.Lock()
	waiting := l.pending[number]
	delete(l.pending, number)
	l.mu.Unlock()
	if waiting != nil { // else its caller has given up
		waiting <- result{answer: answer, err: err}
	}
	return nil
}
