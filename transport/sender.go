package transport

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"
)

// sender writes an outbox's messages on one connection. It belongs to
// whoever has set outbox.busy: the writer, a goroutine that may wait for
// the socket, or a goroutine in flush, which must not.
//
// Writing where the message comes from saves a change of goroutines for each
// message, which costs more than the write itself where processors are scarce:
// the runtime may be slow to find one for a goroutine that just became ready.
type sender struct {
	out    *outbox
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
func (o *outbox) stand(s *sender) {
	o.mu.Lock()
	o.sender, o.busy, o.wanted, o.waiting = s, true, false, false
	o.mu.Unlock()
}

// flush writes what waits, if nobody does it already, there is little of it and
// the socket takes it at once. Otherwise the writer does it.
func (o *outbox) flush() {
	o.mu.Lock()
	s := o.sender
	if s == nil || o.busy || s.unfinished() {
		o.mu.Unlock()
		return // the writer is about to connect or has been roused, or whoever writes looks again
	}
	if n := o.inbox.bytes; n == 0 || n > s.directLimit() {
		wake := o.waiting && n > 0
		o.waiting = o.waiting && !wake
		o.mu.Unlock()
		if wake {
			o.rouse()
		}
		return
	}
	o.busy = true
	for round := 0; round < directRounds && s.packer.take(&o.inbox); round++ {
		o.mu.Unlock()
		s.writeDirect()
		o.mu.Lock()
		if len(s.rest) > 0 || s.failed != nil {
			break
		}
	}
	s.packer.settle(&o.inbox)
	wake := o.wanted || s.unfinished() || o.inbox.bytes > 0
	o.busy, o.wanted = false, false
	o.mu.Unlock()
	if wake {
		o.rouse()
	}
}

// rouse wakes the writer.
func (o *outbox) rouse() {
	select {
	case o.wake <- struct{}{}:
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
		s.out.rouse() // to send a ping in time
	}
	if err == nil && len(s.rest) == 0 {
		s.written()
	}
}

// written counts what was packed and is written, and gives the buffer back.
func (s *sender) written() {
	c := &s.out.peer.t.counters
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
	o := s.out
	for {
		o.mu.Lock()
		if !o.busy {
			o.busy, o.waiting = true, false
			o.mu.Unlock()
			return
		}
		o.wanted = true // it never takes long: who flushes does not wait
		o.mu.Unlock()
		<-o.wake
	}
}

// run writes until the connection is idle, which is nil, or breaks. The caller
// owns the sender before and after, unless run returns nil.
func (s *sender) run() error {
	o, t := s.out, s.out.peer.t
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
			if o.endIfIdle() {
				return s.bye()
			}
		}
		if !o.takeOrRelease(s, verdict == sendPing) {
			timer.Reset(s.live.wait(now, false))
			select {
			case <-o.wake:
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
		if err := s.conn.write(s.rest, s.out.peer.t.cfg.StallTimeout); err != nil {
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
func (o *outbox) takeOrRelease(s *sender, more bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s.packer.take(&o.inbox) || more {
		return true
	}
	s.packer.scratch = nil
	o.waiting, o.busy, o.wanted = true, false, false
	return false
}

// endIfIdle ends the writer unless something waits.
func (o *outbox) endIfIdle() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.inbox.list) > 0 {
		return false
	}
	o.inbox.clear() // its memory
	o.sender, o.busy, o.waiting = nil, false, false
	o.sending.Store(false)
	return true
}

// bye tells the other side that this is no accident. If it cannot be told, it
// learns of a connection that broke, which costs it a needless PeerDown.
func (s *sender) bye() error {
	if err := s.conn.write(appendFrame(nil, frameBye), s.out.peer.t.cfg.StallTimeout); err != nil {
		s.out.peer.t.log.Debug("goodbye not sent", "node", s.out.peer.node, "error", err)
	}
	return nil
}

// readPongs reads the answers to pings, and finds out early when the
// connection breaks.
func (s *sender) readPongs() {
	defer close(s.broken)
	for {
		f, err := s.conn.next()
		if err == nil && (f.kind != framePong || len(f.body) != 8) {
			err = fmt.Errorf("%w: frame of type %d, %d bytes, where pongs are due", ErrMalformed, f.kind, len(f.body))
			s.out.peer.t.counters.malformed.Add(1)
		}
		if err != nil {
			s.readErr = err
			return
		}
		if rtt, ok := s.live.pong(time.Now(), binary.LittleEndian.Uint64(f.body)); ok {
			s.out.measured(rtt)
			s.out.rouse() // it waits for another time now
		}
	}
}

// measured takes a round-trip time of this stream as the peer's. That of the
// ordinary one holds what stands before the ping too: it is second best.
func (o *outbox) measured(rtt time.Duration) {
	if p := o.peer; o == &p.urgent || !p.urgent.sending.Load() {
		p.measured(rtt)
	}
}
