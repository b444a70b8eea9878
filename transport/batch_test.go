package transport

import (
	"bufio"
	"bytes"
	"errors"
	"io"
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

// thrifty is what comes over a connection, and notes how much of it was asked for
// beyond what had come: memory that was made for it.
type thrifty struct {
	left, came, ahead int
}

func (r *thrifty) Read(b []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	r.ahead = max(r.ahead, len(b)-r.came)
	n := min(len(b), r.left, 64<<10)
	r.left -= n
	r.came += n
	return n, nil
}

// A large frame, or message, takes memory as it comes, not as it says it will.
func TestSizesAreNotBelieved(t *testing.T) {
	t.Parallel()
	const size = 40 << 20
	for _, come := range []int{0, 100, 3 << 20, size - 1} {
		wire := &thrifty{left: come}
		f := frameReader{r: bufio.NewReaderSize(wire, 16), max: 64 << 20}
		if _, err := f.body(size, false); !errors.Is(err, io.ErrUnexpectedEOF) && !(come == 0 && err == io.EOF) {
			t.Fatal(err)
		}
		if wire.ahead > keepScratch {
			t.Errorf("with %d bytes come, memory for %d more was made", come, wire.ahead)
		}
	}
	body := make([]byte, 5<<20)
	for i := range body {
		body[i] = byte(i * 7 >> 3)
	}
	whole := frameReader{r: bufio.NewReader(bytes.NewReader(appendFrame(nil, frameResponse, body))), max: 64 << 20}
	if f, err := whole.next(); err != nil || !bytes.Equal(f.body, body) {
		t.Errorf("a frame of %d bytes does not come back: %v", len(body), err)
	}
	large := assembler{max: 64 << 20}
	head := appendMessageHead(nil, &Message{Group: groupID(1), Parts: [][]byte{make([]byte, size)}}, nil)
	if err := large.first(append(head, 1)); err != nil || cap(large.buf) > keepScratch {
		t.Fatalf("%v, memory of %d bytes for one", err, cap(large.buf))
	}
	for came := 1; came < size; came += len(body) {
		if _, _, err := large.more(body[:min(len(body), size-came)]); err != nil || cap(large.buf) > max(2*came+2*len(body), keepScratch) {
			t.Fatalf("%v, memory of %d bytes for %d", err, cap(large.buf), came)
		}
	}
}
