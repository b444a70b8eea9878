package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// Fetch asks a node for a stream of bytes, on a connection of its own. The
// request may be used again when Fetch returns. The reader gives io.EOF after
// the last byte of a stream that its handler ended well, a *RemoteError after
// what a failed one had written, and an error that is ErrCut when the
// connection breaks: a short stream never looks whole. It ends with ctx, too.
// One goroutine may read while another closes; the reader must be closed.
func (t *Transport) Fetch(ctx context.Context, to id.Node, request []byte) (io.ReadCloser, error) {
	r, err := t.fetch(ctx, to, request)
	if err != nil {
		return nil, fmt.Errorf("fetch from node %s: %w", to, err)
	}
	return r, nil
}

func (t *Transport) fetch(ctx context.Context, to id.Node, request []byte) (io.ReadCloser, error) {
	if len(request) > t.cfg.MaxFrame {
		return nil, fmt.Errorf("%w: request of %d bytes", ErrTooLarge, len(request))
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if to == t.cfg.Node {
		return t.fetchSelf(ctx, request)
	}
	p, err := t.locate(to)
	if err != nil {
		return nil, err
	}
	c, err := t.dial(ctx, p, purposeFetch)
	if err != nil {
		return nil, err
	}
	made := time.Now()
	l := p.attach(c, false)
	if err := c.write(appendFrame(nil, frameFetch, request), t.cfg.StallTimeout); err != nil {
		p.detach(l)
		p.ended(made, err)
		return nil, fmt.Errorf("%w: %w", ErrPeerDown, err)
	}
	c.patience = t.cfg.FetchTimeout
	r := &fetched{ctx: ctx, peer: p, link: l, made: made}
	r.stop = context.AfterFunc(ctx, func() { closeQuietly(c.raw) })
	return r, nil
}

// fetched is the reading end of a stream.
type fetched struct {
	ctx  context.Context
	peer *peer
	link *link
	made time.Time // when the connection was
	stop func() bool
	once sync.Once

	// Owned by the goroutine that reads.
	rest []byte // of the frame read last
	read uint64
	err  error
}

func (r *fetched) Read(b []byte) (int, error) {
	for len(r.rest) == 0 && r.err == nil {
		r.err = r.advance()
		if r.err != nil {
			r.end() // nothing more will come: do not wait for Close
		}
	}
	if len(r.rest) == 0 {
		return 0, r.err
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// advance reads a frame. The error is the stream's last word.
func (r *fetched) advance() error {
	f, err := r.link.c.next()
	if err != nil {
		return r.cut(err)
	}
	switch f.kind {
	case frameData:
		r.rest = f.body
		r.read += uint64(len(f.body))
		return nil
	case frameEnd:
		total, err := parseOutcome(f.body)
		if err != nil {
			return r.cutIfMalformed(err)
		}
		if d := (decoder{rest: total}); d.uint64() != r.read || d.failed {
			return r.cut(fmt.Errorf("%w: end of a stream after %d bytes", ErrMalformed, r.read))
		}
		return io.EOF
	}
	return r.cut(fmt.Errorf("%w: frame of type %d in a stream", ErrMalformed, f.kind))
}

func (r *fetched) cutIfMalformed(err error) error {
	if _, ok := err.(*RemoteError); ok {
		return fmt.Errorf("fetch from node %s: %w", r.peer.node, err)
	}
	return r.cut(err)
}

func (r *fetched) cut(err error) error {
	if r.peer.t.ctx.Err() != nil {
		err = ErrClosed
	} else if r.ctx.Err() != nil {
		err = context.Cause(r.ctx)
	} else if !errors.Is(err, net.ErrClosed) { // by Close, on another goroutine
		r.peer.ended(r.made, err)
	}
	return fmt.Errorf("%w after %d bytes: fetch from node %s: %w", ErrCut, r.read, r.peer.node, err)
}

func (r *fetched) end() {
	r.once.Do(func() {
		r.stop()
		r.peer.detach(r.link)
	})
}

// Close ends the stream; the handler on the other side finds out.
func (r *fetched) Close() error {
	r.end()
	return nil
}

// fetchConns is how many connections for fetches may stand for each of the
// streams of Config.MaxFetches: most of these wait for their request, or are
// about to be told that the node is busy. They have no other bound.
const fetchConns = 8

// serveFetch answers the one request of a connection.
func (p *peer) serveFetch(c *conn) error {
	t := p.t
	if !t.fetchConns.take(p.node, 1) {
		return fmt.Errorf("%w: too many connections for fetches", ErrBusy)
	}
	defer t.fetchConns.give(p.node, 1)
	c.patience = t.cfg.HandshakeTimeout + t.cfg.StallTimeout
	f, err := c.next()
	if err != nil {
		return err
	}
	if f.kind != frameFetch {
		return fmt.Errorf("%w: frame of type %d where a fetch is due", ErrMalformed, f.kind)
	}
	w := &streamWriter{conn: c, piece: t.cfg.PieceBytes, patience: t.cfg.FetchTimeout}
	w.compress = t.cfg.Compress != nil && t.cfg.Compress(p.node)
	if !t.fetchSlots.take(p.node, 1) {
		return w.end(&RemoteError{Code: CodeBusy, Text: "too many streams at work"})
	}
	defer t.fetchSlots.give(p.node, 1)
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	gone := make(chan struct{})
	// From here on silence is what is expected of the reader.
	c.patience = 0
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	go func() { // ends when the connection is closed, below
		defer close(gone)
		defer cancel()
		_, _ = c.frames.next() // whatever comes, the reader is through with us
	}()
	failure := t.cfg.Handler.HandleStream(ctx, p.node, f.body, w)
	if w.err == nil {
		var e *RemoteError
		if failure != nil {
			e = asRemote(failure)
		}
		w.err = w.end(e)
	}
	closeQuietly(c.raw)
	<-gone
	return w.err
}

// streamWriter is what a stream's handler writes to.
type streamWriter struct {
	conn     *conn
	piece    int
	patience time.Duration
	compress bool
	scratch  []byte
	buf      []byte
	sent     uint64
	err      error
}

// Write sends b in frames of at most piece bytes.
func (w *streamWriter) Write(b []byte) (int, error) {
	written := 0
	for written < len(b) && w.err == nil {
		part := b[written:min(len(b), written+w.piece)]
		w.buf = append(openFrame(w.buf[:0]), part...)
		var flags byte
		if w.compress {
			w.buf, flags = compressFrame(w.buf, 0, &w.scratch)
		}
		sealFrame(w.buf, 0, frameData, flags)
		if w.err = w.conn.write(w.buf, w.patience); w.err == nil {
			written += len(part)
			w.sent += uint64(len(part))
		}
	}
	return written, w.err
}

// end writes the last word: the number of bytes, or what failed.
func (w *streamWriter) end(failure *RemoteError) error {
	var body []byte
	if failure != nil {
		body = appendFailure(nil, failure)
	} else {
		body = binary.LittleEndian.AppendUint64([]byte{outcomeFine}, w.sent)
	}
	return w.conn.write(appendFrame(nil, frameEnd, body), w.patience)
}

// fetchSelf runs the handler against a pipe.
func (t *Transport) fetchSelf(ctx context.Context, request []byte) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	node := t.cfg.Node
	request = append([]byte(nil), request...) // the handler's own
	ok := t.spawn(func() {
		defer cancel()
		defer context.AfterFunc(t.ctx, func() {
			cancel()
			_ = w.CloseWithError(fmt.Errorf("%w: fetch from node %s: %w", ErrCut, node, ErrClosed))
		})()
		defer context.AfterFunc(ctx, func() {
			_ = w.CloseWithError(fmt.Errorf("%w: fetch from node %s: %w", ErrCut, node, context.Cause(ctx)))
		})()
		err := t.cfg.Handler.HandleStream(ctx, node, request, w)
		if err != nil {
			err = fmt.Errorf("fetch from node %s: %w", node, asRemote(err))
		}
		_ = w.CloseWithError(err) // nil is io.EOF; it never fails
	})
	if !ok {
		cancel()
		return nil, ErrClosed
	}
	return &ownStream{PipeReader: r, cancel: cancel}, nil
}

// ownStream is the reading end of a stream from this node itself.
type ownStream struct {
	*io.PipeReader
	cancel context.CancelFunc
}

// Close ends the stream and the handler's context.
func (s *ownStream) Close() error {
	s.cancel()
	return s.PipeReader.Close()
}
