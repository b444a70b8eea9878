package netproxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// chunkBytes and maxChunks bound what one direction of a connection holds.
	chunkBytes  = 32 << 10
	maxChunks   = 128
	dialTimeout = 5 * time.Second
)

// conn is one proxied connection.
type conn struct {
	proxy    *Proxy
	from, to Node // from is guarded by Proxy.mu
	known    bool // from is; guarded likewise
	client   *net.TCPConn
	ctx      context.Context // ends with the connection
	end      context.CancelFunc

	met chan struct{} // closed: there is a server

	mu      sync.Mutex
	server  *net.TCPConn // nil until it is dialed
	aborted bool
}

// chunk is a piece of a stream under way: bytes, or the news of its end.
type chunk struct {
	data []byte
	due  time.Time
	end  ending
}

type ending uint8

const (
	goesOn ending = iota
	finished
	broken
)

func (p *Proxy) accept(l *net.TCPListener, to Node, back netip.AddrPort) {
	for {
		client, err := l.AcceptTCP()
		if err != nil {
			if p.ctx.Err() != nil {
				return
			}
			select { // out of files, most likely
			case <-p.ctx.Done():
				return
			case <-time.After(20 * time.Millisecond):
				continue
			}
		}
		p.connections.Add(1)
		c := &conn{proxy: p, to: to, client: client, met: make(chan struct{})}
		c.ctx, c.end = context.WithCancel(p.ctx)
		if !p.track(c) {
			c.abort()
			c.end()
			continue
		}
		p.owned.Go(func() {
			defer p.forget(c)
			c.run(back)
		})
	}
}

func (p *Proxy) track(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.conns) >= maxConns {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) forget(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// run serves a connection until both directions have ended.
func (c *conn) run(address netip.AddrPort) {
	defer c.end()
	// Whatever ends the connection's context ends its sockets.
	stop := context.AfterFunc(c.ctx, c.abort)
	defer stop()
	remote, local := unmap(c.client.RemoteAddr().(*net.TCPAddr).AddrPort()), unmap(c.client.LocalAddr().(*net.TCPAddr).AddrPort())
	there, back, ok := c.lines(remote, local)
	if !ok {
		c.abort()
		return
	}
	var pumps sync.WaitGroup
	up := c.read(&pumps, c.client, there)
	server, ok := c.dial(there, back, address)
	if !ok {
		c.abort()
		c.end()
		pumps.Wait()
		return
	}
	down := c.read(&pumps, server, back)
	pumps.Go(func() { c.write(server, up, there) })
	pumps.Go(func() { c.write(c.client, down, back) })
	pumps.Wait()
	_ = c.client.Close()
	_ = server.Close()
}

// lines finds out who dialed, and returns the lines there and back.
func (c *conn) lines(remote, local netip.AddrPort) (there, back *line, ok bool) {
	p := c.proxy
	from, err := p.cfg.Owner(remote, local)
	switch {
	case err == nil:
		p.mu.Lock()
		c.from, c.known = from, true
		p.mu.Unlock()
		return p.line(from, c.to), p.line(c.to, from), true
	case errors.Is(err, ErrOrphan):
		p.orphans.Add(1)
		l, open := p.worst(c.to)
		return l, l, open // nothing comes back
	}
	p.strangers.Add(1)
	p.log.Debug("connection refused", "from", remote, "to", c.to, "error", err)
	return nil, nil, false
}

// dial connects to the node behind the front. The request takes its time on the
// way there, and a refusal on the way back.
func (c *conn) dial(there, back *line, address netip.AddrPort) (*net.TCPConn, bool) {
	if !c.await(there, there.due(time.Now(), 0)) {
		return nil, false
	}
	d := net.Dialer{Timeout: dialTimeout}
	raw, err := d.DialContext(c.ctx, "tcp", address.String())
	if err != nil {
		c.await(back, back.due(time.Now(), 0))
		return nil, false
	}
	server := raw.(*net.TCPConn)
	c.mu.Lock()
	c.server = server
	gone := c.aborted
	c.mu.Unlock()
	if gone {
		reset(server)
		return nil, false
	}
	close(c.met)
	return server, true
}

func (c *conn) dialed() bool {
	select {
	case <-c.met:
		return true
	default:
		return false
	}
}

// read takes what comes from one end into a queue. A client that breaks off
// before there is a server takes the connection with it: nobody else knows of
// it. One that has sent all and closed leaves the rest to the proxy, for a while.
func (c *conn) read(pumps *sync.WaitGroup, src *net.TCPConn, l *line) <-chan chunk {
	queue := make(chan chunk, maxChunks)
	pumps.Go(func() {
		defer close(queue)
		buf := make([]byte, chunkBytes)
		for {
			n, err := src.Read(buf)
			now := time.Now()
			if n > 0 && !c.put(queue, chunk{data: append([]byte(nil), buf[:n]...), due: l.due(now, n)}) {
				return
			}
			if err == nil {
				continue
			}
			last := chunk{end: broken, due: l.due(now, 0)}
			if err == io.EOF { //nolint:errorlint // net.Conn's contract
				last.end = finished
			}
			if !c.put(queue, last) || c.dialed() {
				return
			}
			if last.end == broken {
				c.end()
				return
			}
			select {
			case <-c.met:
			case <-time.After(dialTimeout):
				c.end()
			case <-c.ctx.Done():
			}
			return
		}
	})
	return queue
}

func (c *conn) put(queue chan<- chunk, x chunk) bool {
	select {
	case queue <- x:
		return true
	case <-c.ctx.Done():
		return false
	}
}

// write hands a queue on to the other end, each chunk when it is due.
func (c *conn) write(dst *net.TCPConn, queue <-chan chunk, l *line) {
	for x := range queue {
		if !c.await(l, x.due) {
			return
		}
		switch x.end {
		case finished:
			_ = dst.CloseWrite()
			return
		case broken:
			c.abort()
			c.end()
			return
		}
		if _, err := dst.Write(x.data); err != nil {
			// The other end is gone: its own reader says so in its direction,
			// in its time. Nobody waits for the rest of this one.
			for range queue { //nolint:revive // empties it
			}
			return
		}
		c.proxy.bytes.Add(int64(len(x.data)))
	}
}

// await waits until something is due and the link is not cut. False: the
// connection has ended.
func (c *conn) await(l *line, due time.Time) bool {
	for {
		cut, changed := l.look()
		wait := time.Until(due)
		if !cut && wait <= 0 {
			return c.ctx.Err() == nil
		}
		var timer <-chan time.Time
		if !cut {
			timer = time.After(wait)
		}
		select {
		case <-timer:
		case <-changed:
		case <-c.ctx.Done():
			return false
		}
	}
}

// abort resets both ends.
func (c *conn) abort() {
	c.mu.Lock()
	c.aborted = true
	server := c.server
	c.mu.Unlock()
	reset(c.client)
	if server != nil {
		reset(server)
	}
}

// reset closes a socket so that the other side sees a reset.
func reset(s *net.TCPConn) {
	_ = s.SetLinger(0)
	_ = s.Close()
}
