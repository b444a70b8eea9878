package transport

import (
	"bytes"
	"encoding/binary"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// What is little goes out in Flush itself, and not by another goroutine's hand;
// what Queue takes waits for it.
func TestFlushWritesItself(t *testing.T) {
	onBoth(t, func(t *testing.T, c *cluster) {
		h := newRecorder()
		a := c.start(c.config(1, newRecorder()))
		c.start(c.config(2, h))
		if err := a.Send(nodeID(2), numbered(1, 0, 8)); err != nil {
			t.Fatal(err)
		}
		await(t, h.messages, "message")
		p := &a.findPeer(nodeID(2)).ordinary
		// The writer waits, and nothing is about to wake it: no ping is due, and none has to be answered.
		atRest := func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.sender == nil || p.busy || !p.waiting || len(p.wake) > 0 {
				return false
			}
			l := p.sender.live
			l.mu.Lock()
			defer l.mu.Unlock()
			return !l.pinged.IsZero() && !l.owed && !l.dirty
		}
		for !atRest() {
			time.Sleep(time.Millisecond)
		}
		before := a.Stats().MessagesSent
		for i := range uint64(3) {
			if err := a.Queue(nodeID(2), numbered(1, 1+i, 8)); err != nil {
				t.Fatal(err)
			}
		}
		if s := a.Stats(); s.MessagesSent != before {
			t.Fatalf("%d messages did not wait for Flush", s.MessagesSent-before)
		}
		a.Flush()
		if s := a.Stats(); s.MessagesSent != before+3 {
			t.Fatalf("%d of 3 messages are written when Flush returns", s.MessagesSent-before)
		}
		for i := range uint64(3) {
			if m := await(t, h.messages, "message"); number(m) != 1+i {
				t.Fatalf("message %d, want %d", number(m), 1+i)
			}
		}
	})
}

// A peer that takes nothing holds up nobody who sends: what a write in Flush
// leaves, the writer writes when it can, in order and whole.
func TestFlushNeverWaits(t *testing.T) {
	t.Parallel()
	c := tcpCluster(t)
	h := newRecorder()
	release := make(chan struct{})
	var once sync.Once
	t.Cleanup(func() { once.Do(func() { close(release) }) })
	h.onBatch = func(_ id.Node, batch []Message) {
		<-release
		for _, m := range batch {
			h.messages <- m
		}
	}
	a := c.start(c.config(1, newRecorder()))
	c.start(c.config(2, h))
	const each, count = 16 << 10, 2000 // more than the kernel's buffers hold
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range uint64(count) {
			m := numbered(1, i, each)
			if err := a.Send(nodeID(2), m); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	await(t, done, "end of sending") // nothing is taken meanwhile
	if s := a.Stats(); s.MessagesSent == count {
		t.Fatal("all was written: the test shows nothing")
	}
	once.Do(func() { close(release) })
	for i := range uint64(count) {
		m := await(t, h.messages, "message")
		if number(m) != i || !bytes.Equal(m.Payload, numbered(1, i, each).Payload) {
			t.Fatalf("message %d came as %d, or changed", i, number(m))
		}
	}
}

// A write that fails in Flush is found by the writer, and reported.
func TestFlushReportsABrokenConnection(t *testing.T) {
	t.Parallel()
	c := tcpCluster(t)
	ha, h := newRecorder(), newRecorder()
	a := c.start(c.config(1, ha))
	c.start(c.config(2, h))
	if err := a.Send(nodeID(2), numbered(1, 0, 8)); err != nil {
		t.Fatal(err)
	}
	await(t, h.messages, "message")
	await(t, ha.events, "PeerUp")
	p := &a.findPeer(nodeID(2)).ordinary
	for rested := false; !rested; { // then hold the sender as a caller of Flush does
		p.mu.Lock()
		if rested = p.sender != nil && !p.busy; rested {
			p.busy = true
		}
		p.mu.Unlock()
	}
	s := p.sender
	if err := s.conn.raw.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	p.inbox.push(numbered(1, 1, 8))
	p.busy = false
	p.mu.Unlock()
	p.flush()
	if e := await(t, ha.events, "PeerDown"); e.err == nil {
		t.Fatal(e)
	}
	if st := a.Stats(); st.MessagesSent+st.MessagesDropped != 2 {
		t.Fatalf("two messages were accepted: %+v", st)
	}
}

// BenchmarkSendDirect is the way of a single small message to the socket.
func BenchmarkSendDirect(b *testing.B) {
	c := tcpCluster(b)
	h := newRecorder()
	arrived := make(chan struct{}, 1)
	h.onBatch = func(id.Node, []Message) { arrived <- struct{}{} }
	a := c.start(c.config(1, newRecorder()))
	c.start(c.config(2, h))
	payload := binary.LittleEndian.AppendUint64(nil, 1)
	b.ReportAllocs()
	for b.Loop() {
		if err := a.Queue(nodeID(2), Message{Group: groupID(1), From: 1, To: 2, Payload: payload}); err != nil {
			b.Fatal(err)
		}
		a.Flush()
		<-arrived
	}
}
