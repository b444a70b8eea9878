package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// forwarder takes one proposer's payloads to the leader's node. When the
// connection breaks, what was under way has failed, and it looks for the leader
// again.
type forwarder struct {
	cluster   *cluster
	member    *member
	structure int
	queue     chan []byte
	working   sync.WaitGroup
}

func newForwarder(c *cluster, m *member, structure int) *forwarder {
	f := &forwarder{cluster: c, member: m, structure: structure, queue: make(chan []byte, c.load.Plan().Outstanding)}
	f.working.Go(f.run)
	return f
}

func (f *forwarder) close() { f.working.Wait() }

func (f *forwarder) propose(payload []byte) error {
	select {
	case f.queue <- payload:
		return nil
	case <-f.cluster.done:
		return raft.ErrRaftShutdown
	}
}

func (f *forwarder) run() {
	t := time.NewTicker(look)
	defer t.Stop()
	for {
		if conn := f.dial(); conn != nil {
			f.carry(conn)
		}
		select {
		case <-f.cluster.done:
			return
		case <-t.C:
		}
	}
}

// dial connects to the leader's node; nil if there is none.
func (f *forwarder) dial() net.Conn {
	_, id := f.member.raft.LeaderWithID()
	node, err := strconv.Atoi(string(id))
	if err != nil {
		return nil
	}
	conn, err := net.Dial("tcp", f.cluster.receivers[node].listen.Addr().String())
	if err != nil {
		return nil
	}
	var head [4]byte
	binary.LittleEndian.PutUint32(head[:], uint32(f.structure))
	if _, err := conn.Write(head[:]); err != nil {
		_ = conn.Close() // broken
		return nil
	}
	return conn
}

// carry sends until the connection breaks or the system closes.
func (f *forwarder) carry(conn net.Conn) {
	sent := make(chan []byte, f.cluster.load.Plan().Outstanding) // and not answered
	broken := make(chan struct{})
	var receiving sync.WaitGroup
	receiving.Go(func() {
		f.receive(conn, sent)
		close(broken)
		for p := range sent { // the sender closes it
			f.member.consumer.Failed(p, errForward)
		}
	})
	out := bufio.NewWriterSize(conn, bufferBytes)
	f.send(out, sent, broken)
	_ = conn.Close() // what was answered is read; the rest has failed
	close(sent)
	receiving.Wait()
}

func (f *forwarder) send(out *bufio.Writer, sent chan<- []byte, broken <-chan struct{}) {
	for {
		select {
		case p := <-f.queue:
			select {
			case sent <- p: // before it is written: the answer may be quick
			case <-broken:
				f.member.consumer.Failed(p, errForward)
				return
			}
			var head [4]byte
			binary.LittleEndian.PutUint32(head[:], uint32(len(p)))
			_, err := out.Write(head[:])
			if err == nil {
				_, err = out.Write(p)
			}
			if err == nil && len(f.queue) == 0 {
				err = out.Flush()
			}
			if err != nil {
				return
			}
		case <-broken:
			return
		case <-f.cluster.done:
			return
		}
	}
}

// receive reads the answers. A refusal ends the connection: the node does not lead any more.
func (f *forwarder) receive(conn net.Conn, sent <-chan []byte) {
	in := bufio.NewReaderSize(conn, bufferBytes)
	for {
		what, err := in.ReadByte()
		if err != nil {
			if err != io.EOF && f.running() {
				f.cluster.load.Warn(fmt.Errorf("forwarding: %w", err))
			}
			return
		}
		payload := <-sent
		if what == answerFailed {
			f.member.consumer.Failed(payload, errForward)
			return
		}
	}
}

func (f *forwarder) running() bool {
	select {
	case <-f.cluster.done:
		return false
	default:
		return true
	}
}
