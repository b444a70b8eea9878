package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/hashicorp/go-multierror"
	"github.com/hashicorp/memberlist"
)

// A scout finds out who answers at an address, before anything is joined.
//
// memberlist cannot say so by itself: a Join returns a text, and its merge
// callbacks do not tell an exchange that we began from one that a peer began at
// the same moment; a node that looks for a cluster must follow only its own
// peers, and must not mix two clusters. So a scout is a memberlist of its own,
// without ears or timers, that does one push/pull over the node's real transport
// and throws away all of it but the peer's hello.

// errNotOurs says that what answered is no node of ours, or speaks otherwise.
var errNotOurs = errors.New("what answers is no copycat node")

// errNotGossip says that what answered is another protocol: most often the port
// for nodes has been given instead of the one for gossip.
var errNotGossip = errors.New("what answers does not gossip: peers are given by their gossip port")

// peer is what a scout learned.
type peer struct {
	node    id.Node
	cluster id.Cluster // zero: it looks for one itself
}

// scoutSetup is what a scout shares with the node's memberlist.
type scoutSetup struct {
	profile   Profile
	key       []byte
	name      string
	transport memberlist.NodeAwareTransport
	log       *logAdapter
	meta      []byte // the node's own, so that the peer takes the scout for the node
	hello     []byte
}

// scout contacts one resolved address, ip:port.
func scout(ctx context.Context, setup scoutSetup, address string) (peer, error) {
	d := &scoutDelegate{name: setup.name, meta: setup.meta, hello: setup.hello}
	c := setup.profile.memberlist()
	c.Name = setup.name
	c.SecretKey = setup.key
	dials := &dialOnly{NodeAwareTransport: setup.transport, ctx: ctx}
	c.Transport = dials
	c.Logger = setup.log.stdLogger()
	c.TCPTimeout = min(c.TCPTimeout, setup.profile.timing().contact)
	c.ProbeInterval, c.PushPullInterval, c.GossipInterval = 0, 0, 0
	c.Delegate, c.Alive = d, d
	m, err := memberlist.Create(c)
	if err != nil {
		return peer{}, fmt.Errorf("contacting %s: %w", address, err)
	}
	defer func() { _ = m.Shutdown() }()
	_, err = m.Join([]string{address})
	if ctx.Err() != nil {
		return peer{}, fmt.Errorf("contacting %s: %w", address, context.Cause(ctx))
	}
	if err != nil && dials.foreign.Load() {
		return peer{}, fmt.Errorf("contacting %s: %w: %w", address, errNotGossip, plainError(err))
	}
	if err != nil {
		return peer{}, fmt.Errorf("contacting %s: %w", address, plainError(err))
	}
	raw := d.received()
	if raw == nil {
		return peer{}, fmt.Errorf("contacting %s: %w", address, errNotOurs)
	}
	kind, body, err := open(raw)
	if err == nil && kind != kindHello {
		err = fmt.Errorf("%w: message of kind %d for a hello", ErrMalformed, kind)
	}
	if err != nil {
		return peer{}, fmt.Errorf("contacting %s: %w", address, err)
	}
	h, err := decodeHello(body)
	if err != nil {
		return peer{}, fmt.Errorf("contacting %s: %w", address, err)
	}
	return peer{h.node, h.cluster}, nil
}

// plainError takes the only error out of the list, of several lines, that
// memberlist makes of it.
func plainError(err error) error {
	var list *multierror.Error
	if errors.As(err, &list) && len(list.Errors) == 1 {
		return list.Errors[0]
	}
	return err
}

// scoutDelegate keeps the first state that the peer sends.
type scoutDelegate struct {
	name  string
	meta  []byte
	hello []byte

	mu    sync.Mutex
	state []byte // guarded by mu
}

func (d *scoutDelegate) received() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state
}

func (d *scoutDelegate) NodeMeta(int) []byte             { return d.meta }
func (d *scoutDelegate) NotifyMsg([]byte)                {}
func (d *scoutDelegate) GetBroadcasts(int, int) [][]byte { return nil }
func (d *scoutDelegate) LocalState(bool) []byte          { return d.hello }

func (d *scoutDelegate) MergeRemoteState(state []byte, _ bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state == nil && len(state) <= maxMessageBytes {
		d.state = append([]byte(nil), state...)
	}
}

// NotifyAlive refuses everyone but the scout itself, quietly.
func (d *scoutDelegate) NotifyAlive(n *memberlist.Node) error {
	if n.Name == d.name {
		return nil
	}
	return errScouting
}

var errScouting = errors.New("only scouting")

// dialOnly lends a transport to a scout: dials go through, until the context
// ends; packets and incoming streams are the node's own, and so is Shutdown.
type dialOnly struct {
	memberlist.NodeAwareTransport
	ctx     context.Context
	foreign atomic.Bool // what was connected to speaks another protocol
}

func (t *dialOnly) WriteTo([]byte, string) (time.Time, error) { return time.Now(), nil }
func (t *dialOnly) WriteToAddress([]byte, memberlist.Address) (time.Time, error) {
	return time.Now(), nil
}
func (t *dialOnly) PacketCh() <-chan *memberlist.Packet { return nil }
func (t *dialOnly) StreamCh() <-chan net.Conn           { return nil }
func (t *dialOnly) Shutdown() error                     { return nil }

func (t *dialOnly) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (t *dialOnly) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if err := t.ctx.Err(); err != nil {
		return nil, err
	}
	conn, err := dialContext(t.ctx, t.NodeAwareTransport, a, timeout)
	if err != nil {
		return nil, err
	}
	untie := context.AfterFunc(t.ctx, func() { _ = conn.Close() })
	return &tiedConn{Conn: conn, untie: untie, foreign: &t.foreign}, nil
}

// tiedConn is a connection that a context closes, unless it was closed before. It
// looks at the first byte that comes.
type tiedConn struct {
	net.Conn
	untie   func() bool
	foreign *atomic.Bool
	heard   bool // read by the one goroutine that reads
}

// What memberlist's streams begin with (its net.go): the type of a message, or of a
// label before it.
const (
	lastMessageType = 13 // errMsg
	labelType       = 244
)

func (c *tiedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.heard {
		c.heard = true
		c.foreign.Store(b[0] > lastMessageType && b[0] != labelType)
	}
	return n, err
}

func (c *tiedConn) Close() error {
	c.untie()
	return c.Conn.Close()
}

// dialContext dials with a context where the transport can.
func dialContext(ctx context.Context, t memberlist.NodeAwareTransport, a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if s, ok := t.(*sockets); ok {
		return s.dial(ctx, a, timeout)
	}
	return t.DialAddressTimeout(a, timeout)
}

// handed makes a NodeAwareTransport of any transport that Start was given, and
// bounds what is sent over its streams in time: memberlist sets no deadline for
// user messages.
type handed struct{ memberlist.Transport }

func (t handed) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	if aware, ok := t.Transport.(memberlist.NodeAwareTransport); ok {
		return aware.WriteToAddress(b, a)
	}
	return t.WriteTo(b, a.Addr)
}

func (t handed) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	var conn net.Conn
	var err error
	if aware, ok := t.Transport.(memberlist.NodeAwareTransport); ok {
		conn, err = aware.DialAddressTimeout(a, timeout)
	} else {
		conn, err = t.DialTimeout(a.Addr, timeout)
	}
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(timeout))
}
