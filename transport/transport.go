package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// Transport carries messages, calls and streams between this node and others.
// Its methods are safe for concurrent use.
type Transport struct {
	cfg      Config
	instance uint64 // tells this process from another one of the same incarnation
	log      *slog.Logger
	notices  notices
	listener net.Listener

	// ctx ends when Close begins.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	// peers is replaced as a whole, so that Send finds its peer without a lock.
	peers atomic.Pointer[map[id.Node]*peer]

	callSlots, fetchSlots *slots // handlers at work
	callBytes             *slots // one for each byte of the requests at work
	fetchConns            *slots // inbound connections for fetches
	counters              counters

	queuedMu sync.Mutex // taken after an outbox's mu
	queued   []*outbox  // those with messages that wait for Flush

	randomMu sync.Mutex
	random   io.Reader

	mu       sync.Mutex
	closed   bool
	conns    map[net.Conn]struct{}
	halfOpen []net.Conn // inbound, handshake not finished; oldest first
}

// New listens and returns a transport that is at work: the handler may be
// called before New returns. It needs Close in the end.
func New(cfg Config) (*Transport, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	var instance [8]byte
	if _, err := io.ReadFull(cfg.Random, instance[:]); err != nil {
		return nil, fmt.Errorf("transport of node %s: read randomness: %w", cfg.Node, err)
	}
	listener, err := cfg.Network.Listen(cfg.listenAddress())
	if err != nil {
		return nil, fmt.Errorf("transport of node %s: listen on %s: %w", cfg.Node, cfg.listenAddress(), err)
	}
	t := &Transport{
		cfg:        cfg,
		instance:   binary.LittleEndian.Uint64(instance[:]),
		log:        cfg.Logger,
		listener:   listener,
		callSlots:  newSlots(cfg.MaxCalls),
		fetchSlots: newSlots(cfg.MaxFetches),
		callBytes:  newSlots(requestFrames * (cfg.MaxFrame + frameSlack)),
		fetchConns: newSlots(fetchConns * cfg.MaxFetches),
		random:     cfg.Random,
		conns:      make(map[net.Conn]struct{}),
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.peers.Store(&map[id.Node]*peer{})
	t.wg.Go(t.acceptLoop)
	return t, nil
}

// Addr returns the address that the transport listens on.
func (t *Transport) Addr() net.Addr { return t.listener.Addr() }

// Close stops listening, breaks all connections and waits until all goroutines
// have ended, handlers included, whose contexts it ends. Messages that wait are
// dropped; no PeerDown tells of it. The port is free when it returns. Later
// calls only wait.
func (t *Transport) Close() error {
	t.mu.Lock()
	first := !t.closed
	t.closed = true
	conns := make([]net.Conn, 0, len(t.conns))
	for c := range t.conns {
		conns = append(conns, c)
	}
	t.mu.Unlock()
	var err error
	if first {
		t.cancel()
		err = t.listener.Close()
		for _, c := range conns {
			closeQuietly(c)
		}
	}
	t.wg.Wait()
	return err
}

// spawn runs f on a goroutine that Close waits for. It returns false, without
// running f, once Close has begun.
func (t *Transport) spawn(f func()) bool {
	if !t.enter() {
		return false
	}
	go func() {
		defer t.wg.Done()
		f()
	}()
	return true
}

// enter makes Close wait for a wg.Done. It returns false once Close has begun.
func (t *Transport) enter() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.wg.Add(1)
	return true
}

// track makes Close close c, at once if it has begun.
func (t *Transport) track(c net.Conn, halfOpen bool) error {
	var cut net.Conn
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		closeQuietly(c)
		return ErrClosed
	}
	t.conns[c] = struct{}{}
	if halfOpen {
		t.halfOpen = append(t.halfOpen, c)
		if len(t.halfOpen) > t.cfg.MaxHandshakes {
			i := superfluous(t.halfOpen)
			cut = t.halfOpen[i]
			t.halfOpen = slices.Delete(t.halfOpen, i, i+1)
		}
	}
	t.mu.Unlock()
	if cut != nil {
		closeQuietly(cut)
		t.notices.warn(t.log, "half-open", "too many unfinished handshakes, one is cut", "remote", cut.RemoteAddr())
	}
	return nil
}

// superfluous picks the connection that is cut when there are too many whose
// handshake is not finished: the oldest one, since an honest handshake takes a
// round trip or two, of the host that has the most, so that who opens many cuts
// off nobody but himself.
func superfluous(halfOpen []net.Conn) int {
	first, count := make(map[string]int), make(map[string]int)
	most := ""
	for i, c := range halfOpen {
		host := hostPart(c.RemoteAddr())
		if count[host]++; count[host] == 1 {
			first[host] = i
		}
		if most == "" || count[host] > count[most] {
			most = host
		}
	}
	return first[most]
}

// hostPart is an address without the port.
func hostPart(a net.Addr) string {
	if host, _, err := net.SplitHostPort(a.String()); err == nil {
		return host
	}
	return a.String()
}

// shaken notes that the handshake of an inbound connection is over.
func (t *Transport) shaken(c net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, h := range t.halfOpen {
		if h == c {
			t.halfOpen = append(t.halfOpen[:i], t.halfOpen[i+1:]...)
			return
		}
	}
}

// release closes c and forgets it.
func (t *Transport) release(c net.Conn) {
	closeQuietly(c)
	t.mu.Lock()
	delete(t.conns, c)
	t.mu.Unlock()
}

// closeQuietly closes c. There is nothing left to do about an error: all that
// mattered was flushed and answered before, or is lost with the connection.
func closeQuietly(c io.Closer) { _ = c.Close() }

// findPeer returns the peer, or nil.
func (t *Transport) findPeer(node id.Node) *peer { return (*t.peers.Load())[node] }

// ensurePeer returns the peer, and makes it if there is none.
func (t *Transport) ensurePeer(node id.Node) (*peer, error) {
	now := time.Now()
	if p := t.findPeer(node); p != nil {
		p.used.Store(now.UnixNano())
		return p, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old := *t.peers.Load()
	if p := old[node]; p != nil {
		p.used.Store(now.UnixNano())
		return p, nil
	}
	if len(old) >= t.cfg.MaxPeers {
		old = t.forget(old, now)
	}
	if len(old) >= t.cfg.MaxPeers {
		return nil, fmt.Errorf("%w: %d peers are known, no room for node %s", ErrBusy, len(old), node)
	}
	grown := make(map[id.Node]*peer, len(old)+1)
	for n, p := range old {
		grown[n] = p
	}
	p := newPeer(t, node)
	p.used.Store(now.UnixNano())
	grown[node] = p
	t.peers.Store(&grown)
	return p, nil
}

// forgetAfter is how many idle time-outs a peer without connections is kept for
// its round-trip time, its incarnation, and why it was not reached.
const forgetAfter = 10

// forget returns peers without those that nothing was heard of, or sent to, for
// long. It is called when there is no room for another one.
func (t *Transport) forget(peers map[id.Node]*peer, now time.Time) map[id.Node]*peer {
	kept := make(map[id.Node]*peer, len(peers))
	before := now.Add(-forgetAfter * t.cfg.IdleTimeout)
	for n, p := range peers {
		if !p.restsSince(before) {
			kept[n] = p
		}
	}
	return kept
}

// fill reads random bytes.
func (t *Transport) fill(b []byte) error {
	t.randomMu.Lock()
	defer t.randomMu.Unlock()
	if _, err := io.ReadFull(t.random, b); err != nil {
		return fmt.Errorf("read randomness: %w", err)
	}
	return nil
}

// chance returns a number in [0, 1). Without randomness it is 0.5: jitter is
// no reason to fail.
func (t *Transport) chance() float64 {
	var b [2]byte
	if t.fill(b[:]) != nil {
		return 0.5
	}
	return float64(uint(b[0])|uint(b[1])<<8) / (1 << 16)
}

// acceptLoop takes inbound connections until the listener is closed.
func (t *Transport) acceptLoop() {
	var wait time.Duration
	for {
		c, err := t.listener.Accept()
		if err != nil {
			if t.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of file descriptors, mostly: it passes.
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			t.notices.warn(t.log, "accept", "accepting connections failed", "error", err)
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-t.ctx.Done():
				timer.Stop()
				return
			}
			continue
		}
		wait = 0
		if t.track(c, true) == nil && !t.spawn(func() { t.serve(c) }) {
			t.release(c)
		}
	}
}
