package transport

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// memPipe is one direction of an in-memory connection: what one end wrote and
// the other has not read yet. All waiting is on channels and timers, so that a
// synctest bubble can tell that nobody has anything to do.
type memPipe struct {
	from, to string // hosts

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced when anything below changes
	chunks   []memChunk
	size     int // bytes in chunks
	latency  time.Duration
	held     bool // the link is cut: what was written waits
	lastAt   time.Time
	ended    bool // the writer has closed
	endAt    time.Time
	deaf     bool // the reader has closed
	reset    bool
	readBy   time.Time
	writeBy  time.Time
	capacity int
}

// memChunk becomes readable at a time.
type memChunk struct {
	at   time.Time
	data []byte
}

func newMemPipe(from, to string, capacity int) *memPipe {
	return &memPipe{from: from, to: to, capacity: capacity, changed: make(chan struct{})}
}

// update changes the pipe and wakes all who wait.
func (p *memPipe) update(change func()) {
	p.mu.Lock()
	change()
	p.wakeLocked()
	p.mu.Unlock()
}

func (p *memPipe) wakeLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// arrival is when something sent now is there. Order is kept when the latency
// falls.
func (p *memPipe) arrivalLocked(now time.Time) time.Time {
	at := now.Add(p.latency)
	if at.Before(p.lastAt) {
		at = p.lastAt
	}
	p.lastAt = at
	return at
}

func (p *memPipe) read(b []byte) (int, error) {
	for {
		p.mu.Lock()
		now := time.Now()
		until := p.readBy
		switch {
		case p.deaf:
			p.mu.Unlock()
			return 0, net.ErrClosed
		case p.reset:
			p.mu.Unlock()
			return 0, syscall.ECONNRESET
		case !p.readBy.IsZero() && !now.Before(p.readBy):
			p.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case p.held:
		case len(p.chunks) > 0:
			if at := p.chunks[0].at; at.After(now) {
				until = sooner(until, at)
				break
			}
			n := p.fetchLocked(b, now)
			p.wakeLocked()
			p.mu.Unlock()
			return n, nil
		case p.ended:
			if !p.endAt.After(now) {
				p.mu.Unlock()
				return 0, io.EOF
			}
			until = sooner(until, p.endAt)
		}
		p.waitAndUnlock(now, until)
	}
}

// fetchLocked copies what is there into b.
func (p *memPipe) fetchLocked(b []byte, now time.Time) int {
	n := 0
	for n < len(b) && len(p.chunks) > 0 && !p.chunks[0].at.After(now) {
		c := &p.chunks[0]
		k := copy(b[n:], c.data)
		n += k
		if c.data = c.data[k:]; len(c.data) == 0 {
			p.chunks[0] = memChunk{}
			p.chunks = p.chunks[1:]
		}
	}
	p.size -= n
	return n
}

// write waits for room, or, without wait, writes what there is room for.
func (p *memPipe) write(b []byte, wait bool) (int, error) {
	n := 0
	for {
		p.mu.Lock()
		now := time.Now()
		switch {
		case p.ended:
			p.mu.Unlock()
			return n, net.ErrClosed
		case p.reset, p.deaf && !p.held:
			p.mu.Unlock()
			return n, syscall.ECONNRESET
		case !p.writeBy.IsZero() && !now.Before(p.writeBy):
			p.mu.Unlock()
			return n, os.ErrDeadlineExceeded
		case p.size < p.capacity:
			k := min(len(b), p.capacity-p.size)
			if k > 0 {
				p.chunks = append(p.chunks, memChunk{p.arrivalLocked(now), append([]byte(nil), b[:k]...)})
				p.size += k
				p.wakeLocked()
			}
			p.mu.Unlock()
			n += k
			if b = b[k:]; len(b) == 0 {
				return n, nil
			}
			continue
		case !wait:
			p.mu.Unlock()
			return n, nil
		}
		p.waitAndUnlock(now, p.writeBy)
	}
}

// waitAndUnlock waits for a change, at most until the given time; zero means forever.
func (p *memPipe) waitAndUnlock(now, until time.Time) {
	changed := p.changed
	p.mu.Unlock()
	if until.IsZero() {
		<-changed
		return
	}
	timer := time.NewTimer(until.Sub(now))
	select {
	case <-changed:
	case <-timer.C:
	}
	timer.Stop()
}

// sooner returns the earlier of two times, of which zero is the latest.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// memConn is one end of an in-memory connection.
type memConn struct {
	network       *MemNetwork
	local, remote memAddr
	in, out       *memPipe
}

func (c *memConn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *memConn) Write(b []byte) (int, error) { return c.out.write(b, true) }

// TryWrite implements tryWriter.
func (c *memConn) TryWrite(b []byte) (int, error) { return c.out.write(b, false) }

func (c *memConn) LocalAddr() net.Addr  { return c.local }
func (c *memConn) RemoteAddr() net.Addr { return c.remote }

// Close lets the other end read what was written, and then io.EOF.
func (c *memConn) Close() error {
	c.in.update(func() { c.in.deaf = true })
	c.out.update(func() {
		if !c.out.ended {
			c.out.ended, c.out.endAt = true, c.out.arrivalLocked(time.Now())
		}
	})
	c.network.forget(c)
	return nil
}

func (c *memConn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t) // neither fails
	return c.SetWriteDeadline(t)
}

func (c *memConn) SetReadDeadline(t time.Time) error {
	c.in.update(func() { c.in.readBy = t })
	return nil
}

func (c *memConn) SetWriteDeadline(t time.Time) error {
	c.out.update(func() { c.out.writeBy = t })
	return nil
}

// memAddr is host:port.
type memAddr string

func (memAddr) Network() string  { return "mem" }
func (a memAddr) String() string { return string(a) }
