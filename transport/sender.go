package transport

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"
)

// sender writes the messages of one peer on one connection. It belongs to
// whoever has set peer.busy: the peer's writer, a goroutine that may wait for
// the socket, or a goroutine in flush, which must not.
//
// Writing where the message comes from saves a change of goroutines for each
// message, which costs more than the write itself where processors are scarce:
// the runtime may be slow to find one for a goroutine that just became ready.
type sender struct {
	peer   *peer
	conn   *conn
	try    func([]byte) (int, error) // writes what the socket takes at once; nil: it cannot tell
	live   *liveness
	packer packer
	box    *[]byte // from buffers, while something is packed: where buf goes back
	buf    []byte
	rest   []byte // of buf, packed and not written
	failed error  // of a write in flush

	broken  chan struct{} // closed when reading fails, readErr set
	readErr error
}

// buffers are for what is being written, so that connections at rest need none.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

const (
	// keepBuffer bounds the buffers that are used again.
	keepBuffer = 1 << 20
	// directBytes is how much a caller writes itself: some microseconds' work.
	// More than that is the writer's.
	directBytes = 64 << 10
	// directRounds is how often a caller looks for messages that others have
	// queued while it wrote.
	directRounds = 2
)

// stand makes the sender of a connection known to those who flush.
func (p *peer) stand(s *sender) {
	p.mu.Lock()
	p.sender, p.busy, p.wanted, p.waiting = s, true, false, false
	p.mu.Unlock()
}

// flush writes what waits, if nobody does it already, there is little of it and
// the socket takes it at once. Otherwise the writer does it.
func (p *peer) flush() {
	p.mu.Lock()
	s := p.sender
	if s == nil || p.busy {
		p.mu.Unlock()
		return // the writer is about to connect, or whoever writes looks again
	}
	if n := p.inbox.bytes(); n == 0 || n > s.directLimit() {
		wake := p.waiting && n > 0
		p.waiting = p.waiting && !wake
		p.mu.Unlock()
		if wake {
			p.rouse()
		}
		return
	}
	p.busy = true
	for round := 0; round < directRounds && s.packer.take(&p.inbox); round++ {
		p.mu.Unlock()
		s.writeDirect()
		p.mu.Lock()
		if len(s.rest) > 0 || s.failed != nil {
			break
		}
	}
	s.packer.settle(&p.inbox)
	wake := p.wanted || s.unfinished() || p.inbox.bytes() > 0
	p.busy, p.wanted = false, false
	p.mu.Unlock()
	if wake {
		p.rouse()
	}
}

// rouse wakes the writer.
func (p *peer) rouse() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (s *sender) directLimit() int {
	switch {
	case s.try == nil:
		return 0
	case s.packer.compress:
		return directBytes / 16 // compressing is slower than copying
	}
	return directBytes
}

// unfinished reports whether something that was taken from the inbox is left.
func (s *sender) unfinished() bool {
	return len(s.rest) > 0 || s.failed != nil || s.packer.loaded()
}

// writeDirect packs once and writes what the socket takes.
func (s *sender) writeDirect() {
	s.open()
	s.buf = s.packer.pack(s.buf)
	n, err := s.try(s.buf)
	s.rest, s.failed = s.buf[n:], err
	if s.live.use(time.Now()) {
		s.peer.rouse() // to send a ping in time
	}
	if err == nil && len(s.rest) == 0 {
		s.written()
	}
}

// written counts what was packed and is written, and gives the buffer back.
func (s *sender) written() {
	c := &s.peer.t.counters
	c.framesSent.Add(1)
	c.bytesSent.Add(uint64(len(s.buf)))
	c.messagesSent.Add(uint64(s.packer.packed))
	s.packer.packed = 0
	if cap(s.buf) <= keepBuffer {
		*s.box = s.buf
		buffers.Put(s.box)
	}
	s.box, s.buf = nil, nil
}

// open begins a write.
func (s *sender) open() {
	s.box = buffers.Get().(*[]byte)
	s.buf = (*s.box)[:0]
}

// own makes the caller, the writer, the sender's owner.
func (s *sender) own() {
	p := s.peer
	for {
		p.mu.Lock()
		if !p.busy {
			p.busy, p.waiting = true, false
			p.mu.Unlock()
			return
		}
		p.wanted = true // it never takes long: who flushes does not wait
		p.mu.Unlock()
		<-p.wake
	}
}

// run writes until the connection is idle, which is nil, or breaks. The caller
// owns the sender before and after, unless run returns nil.
func (s *sender) run() error {
	p, t := s.peer, s.peer.t
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if err := s.finish(); err != nil {
			return err
		}
		now := time.Now()
		verdict, number := s.live.check(now, false)
		switch verdict {
		case giveUp:
			return fmt.Errorf("%w: no answer for %s", ErrStalled, t.cfg.StallTimeout)
		case shutIdle:
			if p.endIfIdle() {
				return s.bye()
			}
		}
		if !p.takeOrRelease(s, verdict == sendPing) {
			timer.Reset(s.live.wait(now, false))
			select {
			case <-p.wake:
			case <-timer.C:
			case <-s.broken:
				s.own()
				return s.readErr
			case <-t.ctx.Done():
				s.own()
				return ErrClosed
			}
			s.own()
			continue
		}
		s.open()
		if verdict == sendPing {
			s.buf = appendFrame(s.buf, framePing, binary.LittleEndian.AppendUint64(nil, number))
		}
		if s.packer.loaded() {
			s.buf = s.packer.pack(s.buf)
			s.live.use(now)
		}
		s.rest = s.buf
	}
}

// finish writes the rest of what is packed, waiting for the socket.
func (s *sender) finish() error {
	if s.failed != nil {
		return s.failed
	}
	if len(s.rest) == 0 {
		return nil
	}
	if s.try != nil { // saves the timers of a deadline
		n, err := s.try(s.rest)
		if err != nil {
			return err
		}
		s.rest = s.rest[n:]
	}
	if len(s.rest) > 0 {
		if err := s.conn.write(s.rest, s.peer.t.cfg.StallTimeout); err != nil {
			return err
		}
		if err := s.conn.SetWriteDeadline(time.Time{}); err != nil { // or it would end the writes of flush
			return err
		}
	}
	s.rest = nil
	s.written()
	return nil
}

// takeOrRelease moves waiting messages into the packer. When there are none,
// and nothing else is to be written, it gives the sender up until the writer is
// woken.
func (p *peer) takeOrRelease(s *sender, more bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.packer.take(&p.inbox) || more {
		return true
	}
	s.packer.scratch = nil
	p.waiting, p.busy, p.wanted = true, false, false
	return false
}

// endIfIdle ends the writer unless something waits.
func (p *peer) endIfIdle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.inbox.urgent)+len(p.inbox.ordinary) > 0 {
		return false
	}
	p.inbox.clear() // its memory
	p.sender, p.busy, p.waiting = nil, false, false
	p.sending.Store(false)
	return true
}
