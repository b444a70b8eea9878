package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/hashicorp/raft"
)

// The answers to a forwarded proposal.
const (
	answerApplied byte = 1
	answerFailed  byte = 2
)

const bufferBytes = 64 << 10

// receiver takes the proposals that followers forward to a node. A connection
// begins with the structure's number in 4 bytes; each frame is a length in 4
// bytes and a payload, and is answered by one byte, in order.
type receiver struct {
	cluster *cluster
	node    int
	listen  net.Listener
	serving sync.WaitGroup

	mu     sync.Mutex
	closed bool
	open   map[net.Conn]bool
}

func newReceiver(c *cluster, node int) (*receiver, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("receiver of forwarded proposals: %w", err)
	}
	r := &receiver{cluster: c, node: node, listen: l, open: make(map[net.Conn]bool)}
	r.serving.Go(r.accept)
	return r, nil
}

func (r *receiver) accept() {
	for {
		conn, err := r.listen.Accept()
		if err != nil {
			return // closed
		}
		r.mu.Lock()
		if r.closed {
			_ = conn.Close() // nobody waits for it any more
		} else {
			r.open[conn] = true
			r.serving.Go(func() { r.serve(conn) })
		}
		r.mu.Unlock()
	}
}

func (r *receiver) close() {
	r.mu.Lock()
	r.closed = true
	_ = r.listen.Close() // a second call fails, and does not matter
	for conn := range r.open {
		_ = conn.Close() // ends its goroutines
	}
	r.mu.Unlock()
	waitFor(&r.serving)
}

// serve proposes what comes in until the connection ends.
func (r *receiver) serve(conn net.Conn) {
	defer func() {
		_ = conn.Close() // broken or closed already
		r.mu.Lock()
		delete(r.open, conn)
		r.mu.Unlock()
	}()
	in := bufio.NewReaderSize(conn, bufferBytes)
	var head [4]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return
	}
	structure := int(binary.LittleEndian.Uint32(head[:]))
	futures := make(chan raft.ApplyFuture, r.cluster.load.Plan().Outstanding)
	var answering sync.WaitGroup
	answering.Go(func() { answer(conn, futures) })
	defer answering.Wait()
	defer close(futures)
	for {
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return
		}
		payload := make([]byte, binary.LittleEndian.Uint32(head[:]))
		if _, err := io.ReadFull(in, payload); err != nil {
			return
		}
		m := r.cluster.member(r.node, structure)
		futures <- m.raft.Apply(payload, 0) // the proposer's window is not larger than the channel
	}
}

// answer says in their order what became of the proposals, in one write what is known together.
func answer(conn net.Conn, futures <-chan raft.ApplyFuture) {
	out := bufio.NewWriterSize(conn, bufferBytes)
	broken := false
	for f := range futures {
		what := answerApplied
		if f.Error() != nil {
			what = answerFailed
		}
		if broken {
			continue
		}
		err := out.WriteByte(what)
		if err == nil && len(futures) == 0 {
			err = out.Flush()
		}
		if err != nil {
			broken = true
			_ = conn.Close() // ends the reader, too
		}
	}
}

// errForward says that the connection to the leader broke with proposals on it.
var errForward = errors.New("the leader's node was lost while proposals were under way")
