package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"
)

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
	p, made := l.peer, time.Now()
	registered := p.attach(l.conn, false)
	ended := make(chan struct{})
	go func() { // ends when the connection is closed, which detach does
		defer close(ended)
		l.readResponses()
	}()
	err := l.write()
	p.detach(registered)
	<-ended
	if err == errLinkIdle {
		p.ended(made, nil)
		p.calls.forget(l)
		return
	}
	p.ended(made, err) // before somebody dials again
	p.calls.forget(l)
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
