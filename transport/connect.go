package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// readBuffer is large enough that small frames share a read.
const readBuffer = 64 << 10

// conn is a connection whose handshake is done.
type conn struct {
	net.Conn // the TLS connection, if there is one
	raw      net.Conn
	r        *bufio.Reader
	frames   frameReader
	peer     stranger

	// Set before the connection is used, by its one reader.
	patience time.Duration // how long it may be silent; zero: forever
	live     *liveness     // told of whatever arrives; may be nil
}

func newConn(raw, secured net.Conn, maxFrame int) *conn {
	c := &conn{Conn: secured, raw: raw}
	c.r = bufio.NewReaderSize((*incoming)(c), readBuffer)
	c.frames = frameReader{r: c.r, max: maxFrame + frameSlack}
	return c
}

// Read goes through the buffer, so that nothing that follows the handshake is lost.
func (c *conn) Read(b []byte) (int, error) { return c.r.Read(b) }

// incoming is the unbuffered side of a conn. It limits the silence, not the
// time that a frame takes: a large one on a slow line is no fault.
type incoming conn

func (c *incoming) Read(b []byte) (int, error) {
	if c.patience > 0 {
		if err := c.Conn.SetReadDeadline(time.Now().Add(c.patience)); err != nil {
			return 0, err
		}
	}
	n, err := c.Conn.Read(b)
	if c.live != nil && n > 0 {
		c.live.hear(time.Now())
	}
	if err != nil && c.patience > 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%w: silent for %s: %w", ErrStalled, c.patience, err)
	}
	return n, err
}

// writeChunk is what must be taken within the stall time-out.
const writeChunk = 256 << 10

// write writes b whole. It fails when the other side takes nothing for as long
// as stall.
func (c *conn) write(b []byte, stall time.Duration) error {
	for len(b) > 0 {
		if err := c.SetWriteDeadline(time.Now().Add(stall)); err != nil {
			return err
		}
		n, err := c.Conn.Write(b[:min(len(b), writeChunk)])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("%w: too little was taken in %s: %w", ErrStalled, stall, err)
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// next reads a frame.
func (c *conn) next() (frame, error) {
	f, err := c.frames.next()
	if err == io.EOF {
		err = fmt.Errorf("closed by the other side: %w", err)
	}
	return f, err
}

// dial makes a connection to the peer, which the caller releases. The error is
// ErrClosed, ErrUnknownNode, or ErrPeerDown with its cause. After a failure
// the peer is left alone for a while: then dial fails at once.
func (t *Transport) dial(ctx context.Context, p *peer, for_ purpose) (*conn, error) {
	if err := p.mayDial(); err != nil {
		return nil, err
	}
	t.counters.dials.Add(1)
	c, err := t.dialOnce(ctx, p.node, for_)
	for range maxMoves {
		if !errors.Is(err, errMoved) {
			break
		}
		c, err = t.dialOnce(ctx, p.node, for_)
	}
	if err == nil {
		if err = p.met(c.peer); err != nil {
			t.release(c.raw)
		}
	}
	switch {
	case err == nil:
		p.reachable()
		return c, nil
	case t.ctx.Err() != nil:
		return nil, fmt.Errorf("dial node %s: %w", p.node, ErrClosed)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("dial node %s: %w", p.node, context.Cause(ctx)) // says nothing about the peer
	}
	t.counters.dialsFailed.Add(1)
	p.unreachable(err)
	if errors.Is(err, ErrMalformed) {
		t.counters.malformed.Add(1)
	}
	if !errors.Is(err, ErrNotReady) {
		t.notices.warn(t.log, "dial "+p.node.String(), "cannot connect", "node", p.node, "for", for_, "error", err)
	}
	if errors.Is(err, ErrUnknownNode) {
		return nil, err
	}
	return nil, fmt.Errorf("%w: dial node %s: %w", ErrPeerDown, p.node, err)
}

const (
	// moveCheck is how often a dial looks whether the peer is still where it is
	// dialed: where a machine was, nobody may be left to say that it has gone.
	moveCheck = 250 * time.Millisecond
	// maxMoves bounds how often one dial follows a peer.
	maxMoves = 3
)

// errMoved says that the peer has another address than the one that is being
// dialed. It stays inside the package, unless a peer moves on and on.
var errMoved = errors.New("the node has moved meanwhile")

// follow ends a dial by moved when the node has another address. It ends with ctx.
func (t *Transport) follow(ctx context.Context, node id.Node, address string, moved context.CancelCauseFunc) {
	tick := time.NewTicker(moveCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if now, ok := t.cfg.Resolve(node); ok && now != address {
				moved(errMoved)
				return
			}
		}
	}
}

// dialOnce makes one attempt, at the address that the peer has now.
func (t *Transport) dialOnce(ctx context.Context, node id.Node, for_ purpose) (_ *conn, err error) {
	me, err := t.identity()
	if err != nil {
		return nil, err
	}
	if me.cluster.IsZero() {
		return nil, fmt.Errorf("%w: this node", ErrNotReady)
	}
	address, ok := t.cfg.Resolve(node)
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrUnknownNode, node)
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.HandshakeTimeout)
	ctx, moved := context.WithCancelCause(ctx)
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		t.follow(ctx, node, address, moved)
	}()
	defer func() {
		cancel()
		<-followed
		if context.Cause(ctx) == errMoved && err != nil {
			err = fmt.Errorf("%w: %w", errMoved, err)
		}
	}()
	raw, err := t.cfg.Network.Dial(ctx, address)
	if errors.Is(err, syscall.ECONNREFUSED) {
		err = fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	if err := t.track(raw, false); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			t.release(raw)
			err = fmt.Errorf("%s: %w", address, err)
		}
	}()
	// Closing is the one way to interrupt a handshake that works for TLS too.
	stop := context.AfterFunc(ctx, func() { closeQuietly(raw) })
	secured := raw
	if t.cfg.TLS != nil {
		client := tls.Client(raw, t.clientTLS(address))
		if err := client.HandshakeContext(ctx); err != nil {
			stop()
			return nil, fmt.Errorf("TLS: %w", err)
		}
		secured = client
	}
	if me.binding, err = tlsBinding(secured); err != nil {
		stop()
		return nil, err
	}
	c := newConn(raw, secured, t.cfg.MaxFrame)
	c.peer, err = me.dialHandshake(c, node, for_, t.cfg.IdleTimeout)
	if !stop() && err == nil {
		err = ctx.Err() // the connection is being closed
	}
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		return nil, err
	}
	return c, nil
}

// accept runs the listener's side of the handshake.
func (t *Transport) accept(raw net.Conn) (*conn, stranger, error) {
	defer t.shaken(raw)
	me, err := t.identity()
	if err != nil {
		return nil, stranger{}, err
	}
	if err := raw.SetDeadline(time.Now().Add(t.cfg.HandshakeTimeout)); err != nil {
		return nil, stranger{}, err
	}
	secured := raw
	if t.cfg.TLS != nil {
		server := tls.Server(raw, t.cfg.TLS)
		if err := server.HandshakeContext(t.ctx); err != nil {
			return nil, stranger{}, fmt.Errorf("TLS: %w", err)
		}
		secured = server
	}
	if me.binding, err = tlsBinding(secured); err != nil {
		return nil, stranger{}, err
	}
	c := newConn(raw, secured, t.cfg.MaxFrame)
	c.peer, err = me.acceptHandshake(c, t.admit)
	if err != nil {
		return nil, c.peer, err
	}
	return c, c.peer, raw.SetDeadline(time.Time{})
}

// admit decides on a node that has proven who it is.
func (t *Transport) admit(s stranger) error {
	p, err := t.ensurePeer(s.node)
	if err != nil {
		return err
	}
	return p.admit(s)
}

func (t *Transport) identity() (*identity, error) {
	me := &identity{cluster: t.cfg.Cluster(), node: t.cfg.Node, incarnation: t.cfg.Incarnation, instance: t.instance, key: t.cfg.Key}
	if len(me.key) == 0 {
		return me, nil
	}
	return me, t.fill(me.nonce[:])
}

func (t *Transport) clientTLS(address string) *tls.Config {
	if t.cfg.TLS.ServerName != "" {
		return t.cfg.TLS
	}
	cfg := t.cfg.TLS.Clone()
	if host, _, err := net.SplitHostPort(address); err == nil {
		cfg.ServerName = host
	}
	return cfg
}

// tlsBinding returns bytes that only the two ends of this TLS session know, so
// that a proof of the key cannot be relayed from another session.
func tlsBinding(c net.Conn) ([]byte, error) {
	secured, ok := c.(*tls.Conn)
	if !ok {
		return nil, nil
	}
	state := secured.ConnectionState()
	b, err := state.ExportKeyingMaterial("EXPORTER-copycat-transport", nil, 32)
	if err != nil {
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return b, nil
}
