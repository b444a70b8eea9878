package transport

import (
	"testing"
	"testing/synctest"

	"github.com/copycat-replication/copycat/id"
)

// A frame full of empty messages does not take thirty times its size: they are
// handed out a thousand at a time, in order, and all of them.
func TestBatchesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := NewMemNetwork()
		c := memCluster(t, network)
		h := newRecorder()
		var got, batches, largest int
		h.onBatch = func(_ id.Node, batch []Message) {
			batches++
			largest = max(largest, len(batch))
			for _, m := range batch {
				if got++; m.From != id.Replica(got) || m.Group != groupID(byte(1+got%3)) {
					t.Errorf("message %d is from %d, of group %s", got, m.From, m.Group)
				}
			}
		}
		a := c.start(c.config(1, h))
		const count = 10*maxBatch + 1
		var body []byte
		var last *Message
		for i := 1; i <= count; i++ {
			m := &Message{Group: groupID(byte(1 + i%3)), From: id.Replica(i)}
			body, last = appendMessageHead(body, m, last), m
		}
		conn := rawNode(t, a, network.Host("nine"), purposeMessages, 1)
		if _, err := conn.Write(appendFrame(nil, frameMessages, body)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got != count || batches != 11 || largest != maxBatch {
			t.Errorf("%d messages in %d batches of up to %d", got, batches, largest)
		}
	})
}
