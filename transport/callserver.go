package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// callServer is the answering end of a connection for calls.
type callServer struct {
	peer *peer
	conn *conn
	// writing is held by who writes. It is a channel and not a mutex because
	// it is held over a write, and waiting for it must end with the connection.
	writing chan struct{}

	mu      sync.Mutex
	running map[uint64]context.CancelFunc
}

// serveCalls runs the handler for each request. It does not wait for handlers
// when the connection ends: it ends their contexts, and Close waits for them.
// nil means that the caller closed the connection because it was idle.
func (p *peer) serveCalls(c *conn) error {
	c.patience = p.t.patience(c)
	ctx, cancel := context.WithCancel(p.t.ctx)
	defer cancel()
	s := &callServer{peer: p, conn: c, writing: make(chan struct{}, 1), running: make(map[uint64]context.CancelFunc)}
	for {
		f, err := c.next()
		if err != nil {
			return err
		}
		switch f.kind {
		case frameRequest:
			err = s.begin(ctx, f.body)
		case frameCancel:
			err = s.cancel(f.body)
		case framePing:
			err = s.write(ctx, appendFrame(nil, framePong, f.body))
		case frameBye:
			return nil
		default:
			err = fmt.Errorf("%w: frame of type %d where requests are due", ErrMalformed, f.kind)
		}
		if err != nil {
			return err
		}
	}
}

// begin starts the handler, or answers that too many are at work.
func (s *callServer) begin(ctx context.Context, body []byte) error {
	t := s.peer.t
	d := decoder{rest: body}
	number, method, millis := d.uint64(), d.uint16(), d.uint32()
	if d.failed {
		return fmt.Errorf("%w: request of %d bytes", ErrMalformed, len(body))
	}
	if !t.admitCall(s.peer.node, len(d.rest)) {
		return s.write(ctx, response(number, nil, &RemoteError{Code: CodeBusy, Text: "too many calls at work"}))
	}
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	_, taken := s.running[number]
	if !taken {
		s.running[number] = cancel
	}
	s.mu.Unlock()
	started := !taken && t.spawn(func() {
		defer t.callEnded(s.peer.node, len(d.rest)) // after the answer is written: it counts
		defer cancel()
		s.run(ctx, number, method, time.Duration(millis)*time.Millisecond, d.rest)
	})
	if !started {
		cancel()
		t.callEnded(s.peer.node, len(d.rest))
	}
	if taken {
		return fmt.Errorf("%w: call %d twice", ErrMalformed, number)
	}
	return nil
}

// requestFrames is how many requests of MaxFrame bytes may be worked on at once:
// handlers keep what they were asked, and MaxCalls of the largest would be too much.
const requestFrames = 4

// admitCall reports whether a request of that size may be worked on.
func (t *Transport) admitCall(node id.Node, size int) bool {
	if !t.callSlots.take(node, 1) {
		return false
	}
	if !t.callBytes.take(node, size) {
		t.callSlots.give(node, 1)
		return false
	}
	return true
}

// callEnded takes back what admitCall gave.
func (t *Transport) callEnded(node id.Node, size int) {
	t.callBytes.give(node, size)
	t.callSlots.give(node, 1)
}

// run answers one request. left is what the caller's deadline leaves; zero
// means that it has none.
func (s *callServer) run(ctx context.Context, number uint64, method uint16, left time.Duration, request []byte) {
	if left > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, left)
		defer cancel()
	}
	answer, failure := s.peer.t.handle(ctx, s.peer.node, method, request)
	s.mu.Lock()
	delete(s.running, number)
	s.mu.Unlock()
	// The deadline was the handler's. The answer goes out as long as the
	// connection stands; when it breaks, its reader reports that.
	if err := s.write(s.peer.t.ctx, response(number, answer, failure)); err != nil {
		s.peer.t.log.Debug("answer not sent", "node", s.peer.node, "method", method, "error", err)
		closeQuietly(s.conn.raw) // half an answer may be out
	}
}

func (s *callServer) cancel(body []byte) error {
	d := decoder{rest: body}
	number := d.uint64()
	if d.failed {
		return fmt.Errorf("%w: cancel of %d bytes", ErrMalformed, len(body))
	}
	s.mu.Lock()
	cancel := s.running[number]
	s.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	return nil
}

func (s *callServer) write(ctx context.Context, b []byte) error {
	select {
	case s.writing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.writing }()
	return s.conn.write(b, s.peer.t.cfg.StallTimeout)
}

// response makes the frame of an outcome.
func response(number uint64, answer []byte, failure *RemoteError) []byte {
	b := openFrame(make([]byte, 0, frameHeader+responseHead+1+len(answer)))
	b = binary.LittleEndian.AppendUint64(b, number)
	if failure != nil {
		b = appendFailure(b, failure)
	} else {
		b = append(append(b, outcomeFine), answer...)
	}
	sealFrame(b, 0, frameResponse, 0)
	return b
}

// handle runs the handler and brings its error into the form that travels.
func (t *Transport) handle(ctx context.Context, from id.Node, method uint16, request []byte) ([]byte, *RemoteError) {
	answer, err := t.cfg.Handler.HandleCall(ctx, from, method, request)
	if err != nil {
		return nil, asRemote(err)
	}
	if len(answer) > t.cfg.MaxFrame {
		return nil, &RemoteError{Code: CodeTooLarge, Text: fmt.Sprintf("answer of %d bytes, %d are allowed", len(answer), t.cfg.MaxFrame)}
	}
	return answer, nil
}

// asRemote makes a RemoteError of a handler's error.
func asRemote(err error) *RemoteError {
	var e *RemoteError
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return &RemoteError{Code: CodeCanceled, Text: err.Error()}
	}
	return &RemoteError{Code: CodeUnspecified, Text: err.Error()}
}

// callSelf runs the handler on the caller's goroutine.
func (t *Transport) callSelf(ctx context.Context, method uint16, request []byte) ([]byte, error) {
	if !t.enter() {
		return nil, ErrClosed
	}
	defer t.wg.Done()
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	// The request stays the caller's, the handler's is its own.
	answer, failure := t.handle(inner, t.cfg.Node, method, append([]byte(nil), request...))
	switch {
	case failure == nil:
		return answer, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case t.ctx.Err() != nil:
		return nil, ErrClosed
	}
	return nil, failure
}
