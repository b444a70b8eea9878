package transport

import (
	"bufio"
	"bytes"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// TestFlushBehindAPartialWrite has the socket take a part of what one caller
// writes, and another caller flush before the writer has come to write the rest:
// the rest must not be lost under it.
func TestFlushBehindAPartialWrite(t *testing.T) {
	t.Parallel()
	p := &peer{t: &Transport{}}
	p.ordinary.init(p, purposeMessages, 1<<20)
	o := &p.ordinary
	o.sending.Store(true)
	var wire bytes.Buffer
	room := 10
	s := &sender{out: o, live: newLiveness(&Config{PingInterval: time.Hour, StallTimeout: time.Hour, IdleTimeout: time.Hour}, time.Now())}
	s.packer.piece = 256 << 10
	s.try = func(b []byte) (int, error) {
		n := min(room, len(b))
		wire.Write(b[:n])
		room -= n
		return n, nil
	}
	o.sender, o.waiting = s, true // the connection stands, and the writer waits
	send := func(c byte) {
		o.mu.Lock()
		o.inbox.push(Message{Group: id.Group{}, From: 1, To: 2, Payload: bytes.Repeat([]byte{c}, 100)})
		o.mu.Unlock()
		o.flush()
	}
	send('a')
	if len(s.rest) == 0 {
		t.Fatal("all of it was taken")
	}
	room = 1 << 20
	send('b')
	wire.Write(s.rest) // as the writer does when it comes
	f, err := (&frameReader{r: bufio.NewReader(&wire), max: 1 << 20}).next()
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeMessages(f.body, nil)
	if err != nil || len(got) != 1 || got[0].Payload[0] != 'a' {
		t.Errorf("%d messages, %v", len(got), err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.inbox.bytes == 0 {
		t.Error("the second message does not wait for the writer")
	}
}
